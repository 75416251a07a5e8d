# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What of a card on the Hub an upload does not replace."""

import json
import os
import subprocess
import sys

import pytest
from fake_hub import FakeHub
from tiny_models import save_sd
from tiny_students import save_students

from disback_diffusers.artifact.card import model_card
from disback_diffusers.artifact.card_edits import card_to_push, is_edited
from disback_diffusers.artifact.layout import read_config


CONFIG = {"student": "lora", "lora_rank": 4, "lora_alpha": 8, "timesteps": [399]}


@pytest.fixture
def card(tmp_path):
    return model_card(tmp_path, CONFIG).read_text(encoding="utf-8")


def test_an_edit_is_recognised(card):
    assert not is_edited(card) and not is_edited(card + "\n")  # an editor's last line
    for edited in (card.replace("one-step", "1-step", 1), card.replace("license", "licence"), "# Mine\n", card[:-30]):
        assert is_edited(edited) == (edited != card)


def test_what_is_pushed(card):
    newer = card.replace("timestep 399", "timestep 499")
    assert card_to_push("", newer) == newer
    assert card_to_push(card, newer) == newer
    mine = card.replace("# A one-step student", "# My student\n\nTrained on my cats.")
    assert card_to_push(mine, newer) == mine
    fresh = card_to_push("---\nlicense: mit\n---\n", newer)  # as the Hub's page for a new repository makes it
    assert "license: mit" in fresh and "timestep 499" in fresh and "library_name: diffusers" in fresh


PUSH = """
import sys
from disback_diffusers import DisBackPipeline
from disback_diffusers.hub import create_hub_repo, push_folder
from diffusers import AutoPipelineForImage2Image
from huggingface_hub import HfApi

folder = sys.argv[1]
pipe = DisBackPipeline.from_pretrained(folder)
pushes = {
    "run": lambda: push_folder(folder, create_hub_repo("run")),
    "path": lambda: push_folder(folder, create_hub_repo("path"), with_path=True),
    "pipeline": lambda: pipe.push_to_hub("pipeline", private=True),
    "save": lambda: pipe.save_pretrained(folder + "-saved", push_to_hub=True, repo_id="save"),
    "image": lambda: AutoPipelineForImage2Image.from_pipe(pipe).push_to_hub("image"),
}
for name, push in pushes.items():
    push()
    card = "---\\nlicense: mit\\n---\\n# Mine\\n"
    HfApi().upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=f"alice/{name}")
    push()
"""


def test_pushed_and_pushed_again(tmp_path):
    folders, _ = save_students(save_sd(tmp_path / "base"), tmp_path)
    folder = folders["lora"]
    (folder / "degradation").mkdir()
    (folder / "degradation" / "manifest.json").write_text("{}")
    model_card(folder, read_config(folder), "alice/run")
    with FakeHub() as hub:
        env = {**os.environ, **hub.env(), "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run([sys.executable, "-c", PUSH, str(folder)], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("README.md on the Hub was edited there: it stays as it is.") == 5
    assert hub.private == {
        "alice/run": False,
        "alice/path": False,
        "alice/pipeline": True,
        "alice/save": False,
        "alice/image": False,
    }
    for name in ("run", "path", "pipeline", "save", "image"):
        _, pushed, edited, again = (files for _, files in hub.commits[f"alice/{name}"])  # the first one is empty
        card = pushed["README.md"].decode()
        assert not is_edited(card) and "distilled with DisBack" in card
        assert again["README.md"] == edited["README.md"] == b"---\nlicense: mit\n---\n# Mine\n"
        assert ("degradation/manifest.json" in again) == (name == "path")
        if name in ("pipeline", "save", "image"):
            assert json.loads(again["model_index.json"])["_class_name"] == "StableDiffusionPipeline"
            assert f"alice/{name}" in card
