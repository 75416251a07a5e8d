# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_models import build_sd_unet, build_small_unet, save_sd

from disback_diffusers.errors import UsageError
from disback_diffusers.models.student_unet import StudentUNet


TEACHER = dict(build_sd_unet().config)


def same(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("size", ["10GB", "20KB"])  # the second in several files
def test_a_unet_by_itself(tmp_path, size):
    build_small_unet().save_pretrained(tmp_path / "small", max_shard_size=size)
    student = StudentUNet(str(tmp_path / "small"), TEACHER)
    assert same(student.load(), build_small_unet())
    assert student.config["sample_size"] == student.load().config.sample_size == TEACHER["sample_size"]


def test_the_unet_of_a_pipeline(tmp_path):
    save_sd(tmp_path / "pipeline", seed=7)
    expected = UNet2DConditionModel.from_pretrained(tmp_path / "pipeline", subfolder="unet")
    assert same(StudentUNet(str(tmp_path / "pipeline"), TEACHER).load(), expected)


def test_it_is_float32_whatever_was_saved(tmp_path):
    build_small_unet().half().save_pretrained(tmp_path / "half")
    assert StudentUNet(str(tmp_path / "half"), TEACHER).load().dtype == torch.float32


def test_pickled_weights_are_not_loaded(tmp_path):
    build_small_unet().save_pretrained(tmp_path / "pickled", safe_serialization=False)
    expected = f"^{tmp_path / 'pickled'} has no safetensors in ./, only .bin files, which are pickled"
    with pytest.raises(UsageError, match=expected):
        StudentUNet(str(tmp_path / "pickled"), TEACHER).load()
