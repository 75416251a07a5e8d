# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Files of teachers that are damaged, renamed or harmful: refused in one line, and no code in them is run."""

import io
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from edm_reference import Song, save_pickle

from disback_diffusers.errors import UsageError
from disback_diffusers.models.edm_conversion import convert


OPTIONS = {"model_type": "SongUNet", "img_resolution": 16, "in_channels": 3, "out_channels": 3, "model_channels": 32,
           "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}  # fmt: skip


@pytest.fixture
def network():
    """A DDPM++ of random tensors, which a test may change."""
    song = Song([(16, 32), (8, 64)], 1, {8})
    song(torch.zeros(1, 3, 16, 16), torch.zeros(1))
    return song


class Touch:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def saved(value):
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


STORAGE = saved(Touch())
HARMFUL = {
    "a method": (
        pickle.dumps({"ema": Touch()}),
        "names (pathlib.Path.touch|builtins.getattr), .* nothing was run",
    ),
    "a function": (
        named("os", "system") + b"(S'touch touched'\ntR.",
        "names os.system, .* nothing was run",
    ),
    "code in a tensor's place": (
        named("torch.storage", "_load_from_bytes") + b"(B" + len(STORAGE).to_bytes(4, "little") + STORAGE + b"tR.",
        "in place of a tensor: it is refused, nothing was run",
    ),
    "a function of a container's module": (
        named("torch.nn.modules.container", "_copy_to_script_wrapper") + b".",
        "names torch.nn.modules.container._copy_to_script_wrapper, .* nothing was run",
    ),
    "an object as a number": (
        named("numpy.core.multiarray", "scalar") + b"(" + named("numpy", "dtype") + b"(S'O8'\nI0\nI1\ntRS'x'\ntR.",
        "a number that is an object, which is refused",
    ),
    "another codec": (named("_codecs", "encode") + b"(S'x'\nS'rot13'\ntR.", "decodes with 'rot13', which is refused"),
    "attributes of a function": (
        named("torch._utils", "_rebuild_tensor_v2") + b"(N}S'__defaults__'\n(I1\nI2\ntstb.",
        "sets attributes of a function, which is refused",
    ),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_code_is_never_run(tmp_path, monkeypatch, kind):
    content, expected = HARMFUL[kind]
    monkeypatch.chdir(tmp_path)
    Path("edm.pkl").write_bytes(content)
    with pytest.raises(UsageError, match=f"^edm.pkl .*{expected}") as raised:
        convert(Path("edm.pkl"))
    assert "weights_only" not in str(raised.value) and not Path("touched").exists()
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)


def test_a_state_dict_with_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Touch()}, "edm.pt")
    with pytest.raises(UsageError, match="edm.pt is refused: it holds more than tensors, .* was run. Download"):
        convert(Path("edm.pt"))
    assert not Path("touched").exists()


def test_a_renamed_file(tmp_path, network):
    torch.save({"a": torch.zeros(1)}, tmp_path / "edm.pkl")
    save_pickle(tmp_path / "edm.pt", network, dict(OPTIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch has one for a file of this kind
        with pytest.raises(UsageError, match="edm.pkl was saved by torch and is not a pickle: name it .pt.$"):
            convert(tmp_path / "edm.pkl")
        with pytest.raises(UsageError, match="edm.pt is a pickle, not a state dict .*: name it .pkl.$"):
            convert(tmp_path / "edm.pt")
    (tmp_path / "edm.pt").rename(tmp_path / "EDM.PKL")
    assert convert(tmp_path / "EDM.PKL").config["sample_size"] == 16


def test_a_state_dict_of_an_old_torch(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "edm.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UsageError, match="has no output_blocks"):  # so it was read
        convert(tmp_path / "edm.pt")


@pytest.mark.parametrize("suffix", ["pkl", "pt"])
def test_a_truncated_file(tmp_path, network, suffix):
    file = tmp_path / f"edm.{suffix}"
    if suffix == "pkl":
        save_pickle(file, network, dict(OPTIONS))
    else:
        torch.save({"a.weight": torch.zeros(100, 100)}, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(
        UsageError, match=f"^{file} cannot be read \\(.*download it again|^{file} is not a readable pickle"
    ):
        convert(file)


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("enc.8x8_block0.qkv.weight", torch.zeros(193, 64, 1, 1), "is no teacher of EDM"),
        ("enc.8x8_block0.conv0.weight", torch.full((64, 32, 3, 3), float("nan")), "are no finite numbers"),
        ("enc.8x8_block0.conv0.weight", torch.zeros(64, 32, 3, 3, dtype=torch.complex64), "are no finite numbers"),
    ],
)
def test_damaged_tensors(tmp_path, network, name, value, expected):
    assert name in network.tensors
    network.tensors[name] = value
    with pytest.raises(UsageError, match=f"edm.pkl .*{expected}"):
        convert(save_pickle(tmp_path / "edm.pkl", network, dict(OPTIONS)))


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_spread_of_the_data(tmp_path, network, sigma_data):
    with pytest.raises(UsageError, match="edm.pkl has sigma_data .*, which must be above 0"):
        convert(save_pickle(tmp_path / "edm.pkl", network, dict(OPTIONS), sigma_data=sigma_data))


def test_the_spread_of_the_data_is_kept(tmp_path, network):
    converted = convert(save_pickle(tmp_path / "edm.pkl", network, dict(OPTIONS), sigma_data=0.25))
    assert converted.scheduler.config.sigma_data == 0.25
