# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A Hugging Face Hub over HTTP on the loopback, for the unmodified client: repositories, uploads, downloads, tokens.

    with FakeHub() as hub:
        subprocess.run([sys.executable, "script.py"], env={**os.environ, **hub.env(), "HF_HOME": str(tmp_path)})
        hub.files("alice/student")["README.md"]

The client reads HF_ENDPOINT once, when it is imported: hence the subprocess. There are two users: `alice`, whose token
OWNER may write to her own repositories and READER may not, and `bob`, without any.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit


OWNER, READER = "hf_owner", "hf_reader"
USER = "alice"
INVALID_TOKEN = "Invalid credentials in Authorization header"
VERBS = "auth-check|revision|tree|paths-info|preupload|commit"
REPO_PATH = re.compile(rf"/api/(?:models/|(datasets/))([^/]+/[^/]+)(?:/({VERBS})(?:/([^/]+)(?:/(.*))?)?)?")
FILE_PATH = re.compile(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Refusal(Exception):
    def __init__(self, status, code):
        self.status, self.code = status, code


class FakeHub:
    """`commits[repo_id]`: a list of (sha, files), files being a dict of bytes by path.

    The repository of a dataset is kept as "datasets/alice/name".
    """

    def __init__(self):
        self.commits, self.private, self.blobs = {}, {}, {}
        self.requests = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()

    def env(self, token=OWNER):
        """Environment variables of a client."""
        common = {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token or ""}
        return {**common, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def add_repo(self, repo_id, files=(), private=False):
        """Make a repository, or add a commit to it, behind the client's back."""
        self.private.setdefault(repo_id, private)
        self.commit(repo_id, dict(files))

    def files(self, repo_id):
        """What the last commit holds."""
        return self.commits[repo_id][-1][1]

    def commit(self, repo_id, files):
        history = self.commits.setdefault(repo_id, [])
        sha = hashlib.sha1(f"{repo_id} {len(history)}".encode()).hexdigest()
        history.append((sha, files))
        return sha

    # -----------------------------------------------------------------------------------------------------------------

    def answer(self, method, path, token, body):
        """(status, headers, body) of one request."""
        if token not in (None, OWNER, READER):
            raise Refusal(401, INVALID_TOKEN)
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(token, json.loads(body))
        if path.startswith("/blob/") and method == "PUT":
            self.blobs[path.rsplit("/", 1)[1]] = body
            return _json({})
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.check_write(match[1], token)
            wanted = json.loads(body)["objects"]
            upload = [{**o, "actions": {"upload": {"href": f"{self.url}/blob/{o['oid']}"}}} for o in wanted]
            return _json({"transfer": "basic", "objects": upload})
        if match := REPO_PATH.fullmatch(path):
            kind, name, verb, argument, folder = match.groups()
            return self.repository(f"{kind or ''}{name}", verb, argument, token, body, folder)
        if match := FILE_PATH.fullmatch(path):
            return self.download(*match.groups(), token)
        raise Refusal(404, "NotFound")

    def create(self, token, wanted):
        owner = wanted.get("organization") or USER
        repo_id = f"{owner}/{wanted['name']}"
        if token is None:
            raise Refusal(401, "Unauthorized")
        if token != OWNER or owner != USER:
            raise Refusal(403, "You don't have the rights to create a model under this namespace")
        if repo_id in self.commits:
            return _json({"url": f"{self.url}/{repo_id}"}, 409)
        self.add_repo(repo_id, {".gitattributes": b""}, wanted.get("visibility") == "private")
        return _json({"url": f"{self.url}/{repo_id}"})

    def check_read(self, repo_id, token):
        # As on the real Hub, a private repository looks like a missing one.
        theirs = not repo_id.removeprefix("datasets/").startswith(f"{USER}/")
        hidden = self.private.get(repo_id) and (token is None or theirs)
        if repo_id not in self.commits or hidden:
            raise Refusal(401 if token is None else 404, "RepoNotFound")

    def check_write(self, repo_id, token):
        self.check_read(repo_id, token)
        if token is None:
            raise Refusal(401, "Unauthorized")
        if token != OWNER or not repo_id.startswith(f"{USER}/"):
            raise Refusal(403, "Forbidden")

    def at(self, repo_id, revision):
        for sha, files in reversed(self.commits[repo_id]):
            if revision in (None, "main", sha):
                return sha, files
        raise Refusal(404, "RevisionNotFound")

    def repository(self, repo_id, verb, argument, token, body, folder=None):
        self.check_read(repo_id, token)
        if verb == "auth-check":
            if argument == "write":
                self.check_write(repo_id, token)
            return _json({})
        if verb == "preupload":
            self.check_write(repo_id, token)
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            plan = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            return _json({"files": plan})
        if verb == "commit":
            self.check_write(repo_id, token)
            return self.apply(repo_id, [json.loads(line) for line in body.splitlines()])
        sha, files = self.at(repo_id, argument)
        if verb == "tree":
            return _json(_tree(files, folder))
        if verb == "paths-info":
            return _json([_entry(name, files[name]) for name in _paths(body) if name in files])
        siblings = [{"rfilename": name} for name in sorted(files)]
        return _json(
            {
                "id": repo_id.removeprefix("datasets/"),
                "sha": sha,
                "private": self.private[repo_id],
                "tags": [],
                "siblings": siblings,
            }
        )

    def apply(self, repo_id, operations):
        files = dict(self.files(repo_id))
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        sha = self.commit(repo_id, files)
        return _json({"success": True, "commitOid": sha, "commitUrl": f"{self.url}/{repo_id}/commit/{sha}"})

    def download(self, repo_id, revision, name, token):
        self.check_read(repo_id, token)
        sha, files = self.at(repo_id, revision)
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}, b""
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return 200, {"ETag": etag, "X-Repo-Commit": sha}, files[name]


def _entry(name, content):
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _tree(files, folder):
    """Everything below a folder, however deep."""
    inside = {name: content for name, content in files.items() if name.startswith(f"{folder}/" if folder else "")}
    if folder and not inside:
        raise Refusal(404, "EntryNotFound")
    parents = {str(parent) for name in inside for parent in PurePosixPath(name).parents} - {".", folder}
    folders = [
        {"type": "directory", "path": name, "oid": ""} for name in sorted(parents) if name.startswith(folder or "")
    ]
    return [*folders, *(_entry(*item) for item in inside.items())]


def _paths(body):
    try:
        return json.loads(body)["paths"]
    except ValueError:
        return parse_qs(body.decode()).get("paths", [])


def _json(value, status=200):
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            path = unquote(urlsplit(self.path).path)
            with hub.lock:
                hub.requests.append(f"{self.command} {path}")
                try:
                    status, headers, content = hub.answer(self.command, path, token, body)
                except Refusal as refusal:
                    status, headers, content = _json({"error": refusal.code}, refusal.status)
                    # As the real Hub: of a wrong token it says so in words, of anything else by a code.
                    headers["X-Error-Message" if refusal.code == INVALID_TOKEN else "X-Error-Code"] = refusal.code
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_POST = do_PUT = do_GET

    return Handler
