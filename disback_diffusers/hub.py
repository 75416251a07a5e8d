# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Publishing a student on the Hugging Face Hub."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from .artifact.card_edits import card_to_push
from .artifact.layout import CARD_NAME, UNET_FOLDER, public_config, published_files, read_config
from .errors import RunError, UsageError, one_line
from .files import CONFIG_NAME, LORA_NAME
from .hub_errors import TOKEN


def check_repo_name(repo_id: str) -> None:
    """Raise a UsageError where this cannot be the name of a repository, "name" or "owner/name"."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{repo_id} is no valid name of a repository: {one_line(error)}") from None


def create_hub_repo(repo_id: str, token: str | None = None, private: bool | None = None) -> str:
    """Make the repository, or make sure that an existing one may be written to; before training, so that nothing is
    lost after it.

    Args:
        repo_id (`str`): "name" or "owner/name" (`--hub_model_id`).
        token (`str`, *optional*): by default the one of `hf auth login` or HF_TOKEN.
        private (`bool`, *optional*): of a new repository; by default as the owner has set it.

    Returns:
        `str`: "owner/name".

    Raises:
        UsageError: no valid name, no token, or one without the right to write there.
        RunError: the Hub cannot be reached, or fails.
    """
    check_repo_name(repo_id)
    if not (token or get_token()):
        raise UsageError(
            "pushing to the Hub needs a token with write access: `hf auth login`, HF_TOKEN, or --hub_token (token=... "
            "in Python)."
        )
    api = HfApi(token=token)
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.auth_check(made, write=True)  # to "create" an existing repository one only needs to be able to read it
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise UsageError(f"the Hub does not accept {TOKEN}.") from None
        if status in (403, 404):
            raise UsageError(f"{TOKEN} has no right to write to {repo_id} ({status}).") from None
        raise RunError(f"the Hub cannot make {repo_id}: {one_line(error)}") from None
    except (HTTPError, OSError) as error:
        raise RunError(
            f"the Hub cannot be reached ({one_line(error)}): check the network and HF_HUB_OFFLINE, or leave out "
            "--push_to_hub and upload later."
        ) from None
    return made


@contextmanager
def use_token(token: str | None) -> Iterator[None]:
    """Within, all that reads from or writes to the Hub uses this token, the datasets and model libraries included."""
    before = os.environ.get("HF_TOKEN")
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        yield
    finally:
        if token and before is None:
            del os.environ["HF_TOKEN"]
        elif token:
            os.environ["HF_TOKEN"] = before


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    token: str | None = None,
    commit_message: str = "Upload a DisBack student",
    with_path: bool = False,
) -> str:
    """Upload a finished student in one commit: weights, configuration, card and samples.

    Checkpoints, optimizer states, logs and caches stay here, and so do the paths of this machine that the
    configuration may hold. A card that somebody has edited on the Hub stays as it is.

    Args:
        folder (`str` or `os.PathLike`): the output folder of a run.
        repo_id (`str`): as `create_hub_repo` has returned it.
        token (`str`, *optional*): by default the one of `hf auth login` or HF_TOKEN.
        with_path (`bool`, *optional*): upload the degradation path too, which is larger than a LoRA student.

    Returns:
        `str`: the address of the commit.

    Raises:
        UsageError: the folder holds no student.
        RunError: the upload failed; the message says how to try again.
    """
    folder = Path(folder).expanduser()
    names = published_files(folder, with_path)
    if CONFIG_NAME not in names or not {LORA_NAME, f"{UNET_FOLDER}/config.json"} & set(names):
        raise UsageError(f"{folder} holds no student to upload: {CONFIG_NAME} and {LORA_NAME} or {UNET_FOLDER}/.")
    config = json.dumps(public_config(read_config(folder)), indent=2) + "\n"
    content = {name: str(folder / name) for name in names} | {CONFIG_NAME: config.encode()}
    again = f"push_folder({str(folder)!r}, {repo_id!r}{', with_path=True' if with_path else ''})"
    remedy = (
        f"Nothing is lost, all is in {folder}; to try again: "
        f'python -c "from disback_diffusers.hub import push_folder; {again}"'
    )
    try:
        repo_id = create_hub_repo(repo_id, token)  # again: it may have been deleted, or this is a later attempt
    except (UsageError, RunError) as error:
        raise type(error)(f"{error} {remedy}") from None
    return _commit(content, repo_id, token, remedy, commit_message=commit_message)


def upload_pipeline(
    folder: str | os.PathLike,
    repo_id: str,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    subfolder: str | None = None,
) -> str:
    """Upload a saved whole pipeline in one commit; arguments as in `DiffusionPipeline.push_to_hub`.

    Returns:
        `str`: the address of the commit.

    Raises:
        RunError: the upload failed.
    """
    names = [file.relative_to(folder) for file in Path(folder).rglob("*") if file.is_file()]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]  # .git, caches
    content = {(Path(subfolder or "") / name).as_posix(): str(Path(folder) / name) for name in names}
    message = commit_message or "Upload a DisBack student"
    return _commit(content, repo_id, token, "Try again later.", commit_message=message, create_pr=create_pr)


def _commit(content, repo_id, token, remedy, **options):
    """Upload files or bytes by their names in the repository."""
    api = HfApi(token=token)
    try:
        if CARD_NAME in content:
            new = Path(content[CARD_NAME]).read_text(encoding="utf-8")
            content[CARD_NAME] = card_to_push(_card_on_the_hub(api, repo_id), new).encode()
        operations = [CommitOperationAdd(name, file) for name, file in content.items()]
        return api.create_commit(repo_id, operations, **options).commit_url
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: one of the large files
        raise RunError(f"the upload to {repo_id} failed ({one_line(error)}). {remedy}") from None


def _card_on_the_hub(api, repo_id):
    try:
        return Path(api.hf_hub_download(repo_id, CARD_NAME)).read_text(encoding="utf-8")
    except EntryNotFoundError:
        return ""
