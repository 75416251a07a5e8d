# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""disback_config.json in both formats, and what of a student's folder may be published."""

import json

import pytest

from disback_diffusers import UsageError
from disback_diffusers.artifact.layout import (
    hub_id,
    public_config,
    published_files,
    read_config,
    write_config,
)
from disback_diffusers.files import CONFIG_NAME


LATER = (879, 759, 639, 499, 379, 259, 139)  # timesteps of an LCM in 8 steps, of a base with 1,000
CONFIG = {"base_model": "owner/base", "student": "lora", "lora_rank": 4, "lora_alpha": 8, "timesteps": [399]}


def read(folder, **values):
    """What `read_config` makes of a file with these values."""
    (folder / CONFIG_NAME).write_text(json.dumps(values))
    return read_config(folder)


def test_what_is_written_is_read(tmp_path):
    write_config(tmp_path / "new", CONFIG)
    assert read_config(tmp_path / "new") == {"format": 2, **CONFIG}
    assert json.loads((tmp_path / "new" / CONFIG_NAME).read_text()) == {"format": 2, **CONFIG}
    assert read_config(tmp_path) == {}


def test_it_is_always_written_in_the_newest_format(tmp_path):
    write_config(tmp_path, {"format": 1, **CONFIG})
    assert read_config(tmp_path) == {"format": 2, **CONFIG}


INVALID = [None, [], [399.0], [-1], [True], ["399"], [None], 399, "399", [399, 499], [399, 399], {"399": 1}]


@pytest.mark.parametrize("timesteps", INVALID, ids=str)
def test_invalid_timesteps_are_refused(tmp_path, timesteps):
    with pytest.raises(UsageError) as written:
        write_config(tmp_path, {**CONFIG, "timesteps": timesteps})
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError) as found:
        read(tmp_path, format=2, **{**CONFIG, "timesteps": timesteps})
    for raised in (written, found):
        message = str(raised.value)
        assert f"{tmp_path / CONFIG_NAME} has timesteps {timesteps!r}; they must be whole numbers" in message


@pytest.mark.parametrize("format", [0, 3, "2", None, 2.5])
def test_an_unknown_format_is_refused(tmp_path, format):
    with pytest.raises(UsageError, match=f"has format {format!r}, this version reads 1 and 2: a newer one"):
        read(tmp_path, **CONFIG, format=format)


@pytest.mark.parametrize("text", ['{"format": 2, "timesteps": [39', "\xff"])
def test_what_is_no_json_is_broken(tmp_path, text):
    (tmp_path / CONFIG_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=f"{CONFIG_NAME} is broken .*restore it"):
        read_config(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Format 1, of version 0.1


OLD = {"format": 1, "base_model": "owner/base", "student": "lora", "lora_rank": 4}
NEW = {"format": 2, "base_model": "owner/base", "student": "lora", "lora_rank": 4}


@pytest.mark.parametrize("method", [None, {}, {"proportion_later_steps": 0.0, "lcm_lora": "x"}, {"guidance_scale": 2}])
def test_a_one_step_student_of_format_1(tmp_path, method):
    more = {} if method is None else {"method": method}
    assert read(tmp_path, **OLD, conditioning_timestep=399, **more) == {**NEW, "timesteps": [399], **more}


@pytest.mark.parametrize("first, later", [(999, LATER), (799, (759, 499, 259)), (500, (499,)), (100, ())])
def test_an_lcm_lora_student_of_format_1(tmp_path, first, later):
    """The later timesteps that it can use are those of a base with 1,000; the file does not have them."""
    more = {"method": {"proportion_later_steps": 0.25, "lcm_lora": "x"}}
    found = read(tmp_path, **OLD, conditioning_timestep=first, **more)
    assert found == {**NEW, "timesteps": [first, *later], **more}


@pytest.mark.parametrize("timestep", [None, 399.0, -1, True, "399"])
@pytest.mark.parametrize("method", [{}, {"proportion_later_steps": 0.25}])
def test_format_1_without_a_valid_timestep(tmp_path, timestep, method):
    with pytest.raises(UsageError, match="has timesteps .*; they must be whole numbers, at least 0, descending"):
        read(tmp_path, **OLD, conditioning_timestep=timestep, method=method)


def test_format_1_that_was_read_is_written_as_format_2(tmp_path):
    write_config(tmp_path / "new", read(tmp_path, **OLD, conditioning_timestep=399))
    assert json.loads((tmp_path / "new" / CONFIG_NAME).read_text()) == {**NEW, "timesteps": [399]}


# ---------------------------------------------------------------------------------------------------------------------
# What may be published


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


def test_the_path_is_published_only_if_asked_for(tmp_path):
    for name in ("pytorch_lora_weights.safetensors", "degradation/manifest.json", "degradation/000003.safetensors",
                 "degradation/path.png", "samples/degradation-path.png"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert published_files(tmp_path) == ["pytorch_lora_weights.safetensors", "samples/degradation-path.png"]
    assert len(published_files(tmp_path, with_path=True)) == 5
