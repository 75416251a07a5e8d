# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a folder holds, by its small files alone, and which base model it belongs to."""

import json

import pytest

from disback_diffusers import UsageError
from disback_diffusers.artifact.layout import write_config
from disback_diffusers.artifact.load import Artifact, student_settings
from disback_diffusers.files import LORA_NAME
from disback_diffusers.models.embedded import resolve


UNET = {"_class_name": "UNet2DConditionModel"}
FILES = {"lora": {LORA_NAME: ""}, "unet": {"unet/config.json": UNET}, "full": {"model_index.json": {}},
         "unet at the top": {"config.json": UNET}}  # fmt: skip


def make(folder, *kinds, **config):
    """A folder with the small files of these kinds, and a configuration."""
    for name, content in {name: content for kind in kinds for name, content in FILES[kind].items()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    if config:
        write_config(folder, {"timesteps": [399], **config})
    return str(folder)


@pytest.mark.parametrize(
    "kinds, student, expected",
    [
        (["lora"], None, "lora"),
        (["unet"], None, "unet"),
        (["unet at the top"], None, "unet"),
        (["full"], None, "full"),
        (["full", "lora", "unet"], "lora", "full"),
        (["lora", "unet"], "lora", "lora"),
        (["lora", "unet"], "full", "unet"),
        (["lora", "unet"], None, "lora"),
        (["lora"], "full", "lora"),
    ],
)
def test_the_kind_of_an_artifact(tmp_path, kinds, student, expected):
    artifact = Artifact.find(make(tmp_path, *kinds, **({"student": student} if student else {})))
    assert artifact.kind == expected and artifact.revision is None and artifact.folder == tmp_path
    if expected == "unet":
        assert artifact.unet_subfolder == ("" if kinds == ["unet at the top"] else "unet")
        assert artifact.unet_config == UNET


def test_a_folder_without_a_student(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(UsageError, match=f"holds no student: .*{LORA_NAME}.*of a UNet"):
        Artifact.find(str(tmp_path))


def test_the_recorded_revision_is_that_of_the_recorded_base(tmp_path):
    artifact = Artifact.find(make(tmp_path, "lora", base_model="owner/base", base_revision="v1", variant="fp16"))
    assert artifact.base() == ("owner/base", "v1", "fp16")
    assert artifact.base("owner/base") == ("owner/base", "v1", "fp16")
    assert artifact.base("owner/base", "v2") == ("owner/base", "v2", "fp16")
    assert artifact.base("owner/other") == ("owner/other", None, None)


def test_the_embedded_base(tmp_path):
    artifact = Artifact.find(make(tmp_path, "lora", base_model="embedded"))
    assert artifact.base() == (resolve("embedded"), None, None)


def test_how_the_student_is_called():
    assert student_settings({}) == {}
    assert student_settings({"timesteps": [399]}) == {"conditioning_timestep": 399}
    assert student_settings({"timesteps": [999, 499]}) == {"conditioning_timestep": 999, "few_step": True}
