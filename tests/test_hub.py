# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from fake_hub import OWNER, READER, FakeHub
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file
from tiny_models import build_sd_unet, save_sd
from tiny_students import ALPHA, RANK, TIMESTEP, lora_student, noise, save_students, write_config

from disback_diffusers import DisBackPipeline, RunError, UsageError
from disback_diffusers.card import model_card
from disback_diffusers.hub import (
    CONFIG_NAME,
    LORA_NAME,
    create_hub_repo,
    hub_id,
    public_config,
    push_folder,
    read_artefact_config,
    save_student_lora,
    save_student_unet,
    write_artefact_config,
)


PROMPT = 'a photo of a "red" cat'
CONFIG = {"base_model": "owner/base", "student": "lora", "lora_rank": 4, "lora_alpha": 8, "conditioning_timestep": 399}


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_config_round_trip(tmp_path):
    write_artefact_config(tmp_path / "new", CONFIG)
    assert read_artefact_config(tmp_path / "new") == {"format": 1, **CONFIG}
    assert read_artefact_config(tmp_path) == {}


@pytest.mark.parametrize("timestep", [None, 399.0, -1, True])
def test_config_that_could_not_be_read_is_not_written(tmp_path, timestep):
    with pytest.raises(UsageError, match=f"conditioning_timestep {timestep}"):
        write_artefact_config(tmp_path, {**CONFIG, "conditioning_timestep": timestep})
    assert not list(tmp_path.iterdir())


def test_lora_file_keeps_keys_and_alpha(sd_folder, tmp_path):
    roles = lora_student(sd_folder)
    state, config = roles.state_dict("student"), roles.unet.peft_config["student"]
    save_student_lora(tmp_path, state, config)
    saved = load_file(tmp_path / LORA_NAME)
    assert saved.keys() == {f"unet.{key}" for key in state}
    assert all(torch.equal(saved[f"unet.{key}"], value) for key, value in state.items())
    with safe_open(tmp_path / LORA_NAME, "pt") as opened:
        metadata = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert (metadata["unet.r"], metadata["unet.lora_alpha"]) == (RANK, ALPHA)


def test_lora_with_converted_keys_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no keys of a PEFT LoRA"):
        save_student_lora(tmp_path, {"mid_block.to_q.lora.down.weight": torch.zeros(4, 8)}, {"r": 4})


def test_unet_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors").touch()
    unet = build_sd_unet(seed=3)
    unet.register_to_config(_name_or_path="/home/somebody/teacher/unet")
    save_student_unet(tmp_path, unet)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "unet",
    ]
    assert "somebody" not in (tmp_path / "unet" / "config.json").read_text()
    again = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet").state_dict()
    assert all(torch.equal(again[key], value) for key, value in unet.state_dict().items())


def test_unet_stays_when_the_new_one_cannot_be_written(tmp_path):
    save_student_unet(tmp_path, build_sd_unet())

    class FullDisk(UNet2DConditionModel):
        def save_pretrained(self, folder):
            Path(folder).mkdir()
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left"):
        save_student_unet(tmp_path, FullDisk.from_config(build_sd_unet().config))
    UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert [p.name for p in tmp_path.iterdir()] == ["unet"]


def test_unet_with_adapters_is_refused(sd_folder, tmp_path):
    with pytest.raises(ValueError, match="carries adapters"):
        save_student_unet(tmp_path, lora_student(sd_folder).unet)


def test_no_local_path_is_published(tmp_path, monkeypatch):
    (tmp_path / "owner" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    local = [str(tmp_path), "./teacher", "../teacher", "~/teacher", "a/b/c", "owner/base"]
    assert [hub_id(name) for name in (*local, "embedded", None, "owner/other")] == [None] * 8 + ["owner/other"]
    method = {"prompt_dataset": str(tmp_path / "prompts.txt"), "files": ["owner/base"], "lr": 1e-4, "by": "a/b"}
    for base in local:
        public = public_config({**CONFIG, "base_model": base, "base_revision": "v1", "method": method})
        assert public == {
            **CONFIG,
            "base_model": None,
            "method": {"prompt_dataset": "prompts.txt", "files": ["base"], "lr": 1e-4, "by": "a/b"},
        }
    for base in ("embedded", "owner/other"):
        assert public_config({**CONFIG, "base_model": base})["base_model"] == base


# ---------------------------------------------------------------------------------------------------------------------
# Card


def front_matter(card):
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])


def test_card_of_a_lora(tmp_path):
    base = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config = {
        **CONFIG,
        "base_model": base,
        "base_revision": "abc",
        "method": {"steps_per_node": 100, "weird": "a|b\nc"},
    }
    images = [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))]
    rows = [{"model": "teacher", "FID": 10.5}, {"model": "student, 1 step", "FID": 12.25, "CLIP": 0.31}]
    (tmp_path / "degradation").mkdir()
    (tmp_path / "degradation" / "path.png").touch()
    card = model_card(tmp_path, config, "alice/student", [PROMPT, "🦊"], images, [0, 3, 6, 12], rows)
    assert front_matter(card) == {
        "base_model": base,
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "license": "creativeml-openrail-m",
        "pipeline_tag": "text-to-image",
        "tags": [
            *("text-to-image", "diffusers", "stable-diffusion", "stable-diffusion-diffusers"),
            *("lora", "template:sd-lora", "disback", "distillation", "one-step"),
        ],
        "widget": [
            {"text": PROMPT, "output": {"url": "samples/card-0.png"}},
            {"text": "🦊", "output": {"url": "samples/card-1.png"}},
        ],
    }
    assert Image.open(tmp_path / "samples" / "card-1.png").size == (8, 8)
    text = card.read_text(encoding="utf-8")
    for part in (
        "# student\n",
        "\n<Gallery />\n",
        "rank 4 and alpha 8",
        "after 3, 6, 12 steps",
        "](samples/degradation-path.png)",
        "| model | FID | CLIP |\n| --- | --- | --- |\n| teacher | 10.5 |  |\n| student, 1 step | 12.25 | 0.31 |\n",
        "| Setting | Value |\n| --- | --- |\n| steps_per_node | 100 |\n| weird | a\\|b c |\n",
        'revision="abc"',
        f"timesteps=[{TIMESTEP}]",
    ):
        assert part in text
    assert "\n\n\n" not in text and "{{" not in text and "{%" not in text and text.endswith("\n")


def test_card_says_nothing_that_was_not_measured(tmp_path):
    text = model_card(tmp_path, {**CONFIG, "student": "full"}).read_text()
    assert "base_model_relation: finetune" in text and "subfolder=" in text
    for part in ("Results", "FID", "Gallery", "widget", "degradation/", "Setting", "license", "lora"):
        assert part not in text
    assert "Without backtracking" not in text  # nor that it was trained without
    text = model_card(tmp_path, {**CONFIG, "method": {"no_backtracking": True}}).read_text()
    assert "Without backtracking" in text


def test_the_card_of_a_whole_pipeline_tells_of_its_training(tmp_path):
    method = {"no_backtracking": False, "node_steps": [0, 3, 6], "path_walked": True, "lora_rank": 4}
    text = model_card(tmp_path, {**CONFIG, "student": "full", "method": method}, whole=True).read_text()
    assert "after 3, 6 steps" in text and "one after the other" in text and "Without backtracking" not in text
    assert "| lora_rank (target, fake score) | 4 |" in text  # not of the student
    lora = {**method, "student": "lora", "path_walked": False}
    text = model_card(tmp_path, {**CONFIG, "student": "full", "method": lora}, whole=True).read_text()
    assert "| lora_rank | 4 |" in text and "because\nit started with the teacher's weights\n" in text
    text = model_card(tmp_path, {**CONFIG, "method": {**lora, "student_unet": "small"}}).read_text()
    assert "its UNet had learned already" in text


@pytest.mark.parametrize("student", ["lora", "full"])
def test_card_of_an_sdxl_student(tmp_path, student):
    base = "stabilityai/stable-diffusion-xl-base-1.0"
    config = {**CONFIG, "base_model": base, "pipeline": "StableDiffusionXLPipeline", "student": student}
    card = model_card(tmp_path, config, "alice/student")
    front = front_matter(card)
    assert front["license"] == "openrail++" and "stable-diffusion-xl" in front["tags"]
    assert "stable-diffusion" not in front["tags"]
    for code in re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL):
        compile(code, "card", "exec")
        assert "StableDiffusionPipeline" not in code
    assert "StableDiffusionXLPipeline" in card.read_text()


@pytest.mark.parametrize("base", ["local", "embedded"])
def test_card_without_a_base_on_the_hub(tmp_path, base):
    config = {
        **CONFIG,
        "base_model": str(tmp_path) if base == "local" else base,
        "method": {"data": f"{tmp_path}/x.txt"},
    }
    card = model_card(tmp_path, config)
    assert "base_model" not in front_matter(card) and "base_model_relation" not in front_matter(card)
    assert str(tmp_path) not in card.read_text()
    assert ("base_model=" in card.read_text()) == (base == "local")


# ---------------------------------------------------------------------------------------------------------------------
# The Hub, over HTTP


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

answers = []
for repo, token, private in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token or ""
    try:
        answers.append(create_hub_repo(repo, private=private))
    except (RunError, UsageError) as error:
        answers.append(f"{type(error).__name__}: {error}")
print(json.dumps(answers))
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
        answers = run_client(MAKE, json.dumps([case[:3] for case in cases]), **hub.env(), HF_HOME=str(tmp_path))
    for case, answer in zip(cases, answers, strict=True):
        assert re.search(case[3], answer), (case, answer)
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

def draw(name, pipe, **kwargs):
    results[name] = pipe(prompt, latents=z, output_type="pt", **kwargs).images

for kind in ("lora", "unet", "full"):
    draw(kind, DisBackPipeline.from_pretrained(f"alice/{kind}"))
if sys.argv[4] == "online":
    # The way of a user who knows nothing of nested files: no `weight_name`.
    plain = StableDiffusionPipeline.from_pretrained("alice/base", revision=sys.argv[5])
    plain.load_lora_weights("alice/lora")
    plain.scheduler = LCMScheduler.from_config(plain.scheduler.config)
    draw("plain", plain, num_inference_steps=1, timesteps=[399], guidance_scale=0)
    for kind in ("lora", "unet"):
        card = Path(hf_hub_download(f"alice/{kind}", "README.md")).read_text(encoding="utf-8")
        for i, code in enumerate(re.findall(r"```python\\n(.*?)```", card, re.DOTALL)):
            code = code.replace("float16", "float32").replace("cuda", "cpu").replace(").images", ", **more).images")
            space = {"more": {"latents": z, "output_type": "pt"}}
            exec(code, space)
            results[f"{kind} card {i}"] = space["image"][None]
    first, second = (DisBackPipeline.from_pretrained("alice/two", revision=name) for name in (sys.argv[6], None))
    draw("first revision", first)
    answers = [first.conditioning_timestep, second.conditioning_timestep]
    for repo in ("alice/nothing", "bob/secret"):
        try:
            DisBackPipeline.from_pretrained(repo)
        except UsageError as error:
            answers.append(str(error))
    try:
        DisBackPipeline.from_pretrained("alice/lora", revision="v7")
    except UsageError as error:
        answers.append(str(error))
else:
    answers = []
save_file(results, sys.argv[3])
print(json.dumps(answers))
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
            model_card(folders[kind], read_artefact_config(folders[kind]), f"alice/{kind}", [PROMPT], [picture], [3])
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
        save_student_unet(folder / "second", build_sd_unet(seed=9))
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
