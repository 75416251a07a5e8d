# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Publishing on the Hub and loading from it, over HTTP."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_hub import OWNER, READER, FakeHub
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import build_sd_unet, save_sd
from tiny_students import TIMESTEP, noise, save_students, write_config

from disback_diffusers import DisBackPipeline, RunError, UsageError
from disback_diffusers.artifact.card import model_card
from disback_diffusers.artifact.layout import read_config
from disback_diffusers.artifact.save import save_network
from disback_diffusers.files import CONFIG_NAME, LORA_NAME
from disback_diffusers.hub import create_hub_repo, push_folder


PROMPT = 'a photo of a "red" cat'


def run_client(script, *args, **env):
    """The JSON that a script prints last; `huggingface_hub` reads its environment at import, hence a process."""
    command = [sys.executable, "-c", script, *map(str, args)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


MAKE = """
import json, os, sys
from disback_diffusers import RunError, UsageError
from disback_diffusers.hub import create_hub_repo

results = []
for repo, token, private in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token or ""
    try:
        results.append(create_hub_repo(repo, private=private))
    except (RunError, UsageError) as error:
        results.append(f"{type(error).__name__}: {error}")
print(json.dumps(results))
"""


def test_create_hub_repo(tmp_path):
    with FakeHub() as hub:
        hub.add_repo("bob/his")
        hub.add_repo("alice/old")
        cases = [
            ("student", OWNER, True, "^alice/student$"),
            ("alice/student", OWNER, None, "^alice/student$"),  # once more
            ("alice/old", READER, None, "UsageError: .* no right to write to alice/old .403"),
            ("bob/new", OWNER, None, "UsageError: .* no right to write to bob/new"),
            ("bob/his", OWNER, None, "UsageError: .* no right to write to bob/his"),
            ("student", "hf_wrong", None, "UsageError: the Hub does not accept the token"),
            ("student", None, None, "UsageError: pushing to the Hub needs a token"),
            ("a b", OWNER, None, "UsageError: a b is no valid name of a repository"),
            ("a/b/c", OWNER, None, "UsageError: a/b/c is no valid name of a repository"),
        ]
        results = run_client(MAKE, json.dumps([case[:3] for case in cases]), **hub.env(), HF_HOME=str(tmp_path))
    for case, result in zip(cases, results, strict=True):
        assert re.search(case[3], result), (case, result)
    assert hub.private == {"bob/his": False, "alice/old": False, "alice/student": True}
    closed = run_client(MAKE, json.dumps([["student", OWNER, None]]), **hub.env(), HF_HOME=str(tmp_path))
    assert re.search("RunError: the Hub cannot be reached .*HF_HUB_OFFLINE", closed[0])


def test_offline_is_said_at_once():
    with pytest.raises(RunError, match="the Hub cannot be reached .*HF_HUB_OFFLINE"):
        create_hub_repo("student", OWNER)


def test_push_of_no_student(tmp_path):
    (tmp_path / "README.md").touch()
    with pytest.raises(UsageError, match="holds no student"):
        push_folder(tmp_path, "alice/student")


PUSH = """
import json, sys
from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.hub import create_hub_repo, push_folder

lora, unet, full, broken = sys.argv[1:]
push_folder(lora, create_hub_repo("lora"))
push_folder(unet, create_hub_repo("unet"))
DisBackPipeline.from_pretrained(full).push_to_hub("full")
try:
    push_folder(broken, "bob/his")
except UsageError as error:
    print(json.dumps(str(error)))
"""

LOAD = """
import json, re, sys
from pathlib import Path
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file, save_file
from disback_diffusers import DisBackPipeline, UsageError

z, prompt, results = load_file(sys.argv[1])["z"], sys.argv[2], {}

def generate(name, pipe, **kwargs):
    results[name] = pipe(prompt, latents=z, output_type="pt", **kwargs).images

for kind in ("lora", "unet", "full"):
    generate(kind, DisBackPipeline.from_pretrained(f"alice/{kind}"))
if sys.argv[4] == "online":
    # The way of a user who knows nothing of nested files: no `weight_name`.
    plain = StableDiffusionPipeline.from_pretrained("alice/base", revision=sys.argv[5])
    plain.load_lora_weights("alice/lora")
    plain.scheduler = LCMScheduler.from_config(plain.scheduler.config)
    generate("plain", plain, num_inference_steps=1, timesteps=[399], guidance_scale=0)
    for kind in ("lora", "unet"):
        card = Path(hf_hub_download(f"alice/{kind}", "README.md")).read_text(encoding="utf-8")
        for i, code in enumerate(re.findall(r"```python\\n(.*?)```", card, re.DOTALL)):
            code = code.replace("float16", "float32").replace("cuda", "cpu").replace(").images", ", **more).images")
            space = {"more": {"latents": z, "output_type": "pt"}}
            exec(code, space)
            results[f"{kind} card {i}"] = space["image"][None]
    first, second = (DisBackPipeline.from_pretrained("alice/two", revision=name) for name in (sys.argv[6], None))
    generate("first revision", first)
    found = [first.conditioning_timestep, second.conditioning_timestep]
    for repo in ("alice/nothing", "bob/secret"):
        try:
            DisBackPipeline.from_pretrained(repo)
        except UsageError as error:
            found.append(str(error))
    try:
        DisBackPipeline.from_pretrained("alice/lora", revision="v7")
    except UsageError as error:
        found.append(str(error))
else:
    found = []
save_file(results, sys.argv[3])
print(json.dumps(found))
"""


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(hub, its client's environment, folders, images by kind, message of the failed upload, revisions)"""
    folder = tmp_path_factory.mktemp("published")
    folders, _ = save_students(save_sd(folder / "base"), folder)
    images = {
        kind: DisBackPipeline.from_pretrained(path)(PROMPT, latents=noise(), output_type="pt").images
        for kind, path in folders.items()
    }
    with FakeHub() as hub:
        hub.add_repo("bob/his")
        hub.add_repo("bob/secret", private=True)
        hub.add_repo("alice/base", tree(folder / "base"))
        hub.add_repo("alice/base", tree(save_sd(folder / "newer", seed=7)))  # what must not be taken
        base_revision, env = hub.commits["alice/base"][0][0], {**hub.env(), "HF_HOME": str(folder / "home")}
        for kind, student in (("lora", "lora"), ("unet", "full")):
            write_config(folders[kind], student, "alice/base", base_revision)
            picture = Image.new("RGB", (8, 8))
            model_card(folders[kind], read_config(folders[kind]), f"alice/{kind}", [PROMPT], [picture], [3])
        for name in (
            *("degradation/manifest.json", "degradation/path.png", "samples/step-000100.png", "log.jsonl"),
            *("checkpoint-2/optimizer.bin", f"checkpoint-2/{LORA_NAME}", "checkpoint-2/unet/config.json"),
            *("logs/events.out", ".cache/x", "text_embeddings.safetensors", f".{LORA_NAME}.1.tmp", "optimizer.bin"),
        ):
            file = folders["lora"] / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"junk")
        shutil.copy(folders["lora"] / LORA_NAME, folders["lora"] / "degradation" / "000003.safetensors")
        message = run_client(PUSH, *folders.values(), folders["unet"], **env)
        first = hub.files("alice/unet")
        save_network(folder / "second", build_sd_unet(seed=9))
        second = {**first, **tree(folder / "second"), CONFIG_NAME: first[CONFIG_NAME].replace(b"399", b"499")}
        for files in (first, second):
            hub.add_repo("alice/two", files)
        yield hub, env, folders, images, message, (base_revision, hub.commits["alice/two"][0][0])


def test_what_is_uploaded(published):
    hub, _, folders, *_ = published
    assert hub.files("alice/lora").keys() == {
        *(".gitattributes", "README.md", CONFIG_NAME, LORA_NAME, "samples/card-0.png", "samples/step-000100.png"),
    }
    unet = ("unet/config.json", "unet/diffusion_pytorch_model.safetensors")
    assert hub.files("alice/unet").keys() == {
        ".gitattributes", "README.md", CONFIG_NAME, "samples/card-0.png", *unet
    }  # fmt: skip
    assert hub.files("alice/lora")[LORA_NAME] == (folders["lora"] / LORA_NAME).read_bytes()
    assert {"model_index.json", CONFIG_NAME, *unet} <= hub.files("alice/full").keys()
    for kind in ("lora", "unet", "full"):
        assert json.loads(hub.files(f"alice/{kind}")[CONFIG_NAME])["method"] == {"prompt_dataset": "prompts.txt"}


def test_failed_upload_says_how_to_try_again(published):
    _, _, folders, _, message, _ = published
    assert "no right to write to bob/his (403)" in message and "Nothing is lost" in message
    command = re.search(r'python -c "(.*)"$', message)[1]
    assert f"push_folder({str(folders['unet'])!r}, 'bob/his')" in command
    compile(command, "command", "exec")


def test_load_from_the_hub_and_then_offline(published, tmp_path):
    hub, env, folders, images, _, revisions = published
    save_file({"z": noise()}, tmp_path / "z")
    args = (tmp_path / "z", PROMPT)

    online = run_client(LOAD, *args, tmp_path / "online", "online", *revisions, **env)
    assert online[:2] == [TIMESTEP, 499]
    for message in online[2:4]:
        assert "neither a folder nor a repository on the Hub that can be read" in message
    assert "alice/lora on the Hub has no revision v7" in online[4]
    results = load_file(tmp_path / "online")
    snippets = [f"{kind} card {i}" for kind in ("lora", "unet") for i in (0, 1)]
    assert results.keys() == {*images, "plain", "first revision", *snippets}
    for name, image in results.items():
        assert torch.allclose(image, images["unet"], atol=1e-4), name

    requests = len(hub.requests)
    run_client(LOAD, *args, tmp_path / "offline", "offline", **{**env, "HF_HUB_OFFLINE": "1"})
    assert len(hub.requests) == requests
    for name, image in load_file(tmp_path / "offline").items():
        assert torch.equal(image, results[name]), name
