# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Published EDM teachers as diffusers folders: the same function, and nothing of theirs is run."""

import json
import pickle

import pytest
import torch
from diffusers import ConsistencyModelPipeline, DiffusionPipeline, UNet2DModel
from edm_reference import FIR, Adm, Song, openai_state, save_pickle

from disback_diffusers.errors import UsageError
from disback_diffusers.models.edm_conversion import convert, convert_file, save
from disback_diffusers.models.edm_unet import EDMUNet2DModel


SIGMAS = (0.002, 0.1, 1.0, 80.0)
LEVELS = [(16, 32), (8, 64)]
ADM_LEVELS = [(64, 128), (32, 128), (16, 256)]


def inputs(size=16, classes=0):
    random = torch.Generator().manual_seed(1)
    sigma = torch.tensor(SIGMAS)
    x = torch.randn(len(SIGMAS), 3, size, size, generator=random)
    labels = torch.tensor([0, 3, 1, 2]) if classes else None
    return x, sigma.log() / 4, labels


def one_hot(labels, classes):
    return None if labels is None else torch.nn.functional.one_hot(labels, classes).float()


SONGS = {
    "DDPM++": ({"augment": 9}, {}),
    "DDPM++ with labels": ({"classes": 4, "augment": 9}, {}),
    "NCSN++": ({"fourier": True, "branch": "residual", "taps": FIR}, {
        "embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual",
        "resample_filter": [1, 3, 3, 1]}),
    "NCSN++ with labels": ({"classes": 4, "fourier": True, "branch": "residual", "taps": FIR}, {
        "embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual",
        "resample_filter": [1, 3, 3, 1], "label_dropout": 0.1}),
    "both skip": ({"branch": "skip", "taps": FIR}, {
        "encoder_type": "skip", "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]}),
}  # fmt: skip


def song_file(file, name, **changes):
    """A snapshot and its reference."""
    settings, options = SONGS[name]
    network = Song(LEVELS, 2, {8}, **settings)
    x, c_noise, labels = inputs(classes=network.classes)
    network(x, c_noise, one_hot(labels, 4))  # draws its tensors
    options = {"model_type": "SongUNet", "img_resolution": 16, "in_channels": 3, "out_channels": 3,
               "label_dim": network.classes, "augment_dim": network.augment, "model_channels": 32,
               "channel_mult": [1, 2], "num_blocks": 2, "attn_resolutions": [8], **options, **changes}  # fmt: skip
    return save_pickle(file, network, options), network


@pytest.mark.parametrize("name", SONGS)
def test_ddpmpp_and_ncsnpp(tmp_path, name):
    file, network = song_file(tmp_path / "edm.pkl", name)
    save(convert(file), tmp_path / "teacher")
    unet = EDMUNet2DModel.from_pretrained(tmp_path / "teacher" / "unet")
    x, c_noise, labels = inputs(classes=network.classes)
    with torch.no_grad():
        torch.testing.assert_close(
            unet(x, c_noise, labels).sample, network(x, c_noise, one_hot(labels, 4)), atol=1e-5, rtol=1e-5
        )
        if network.classes:
            empty = unet(x, c_noise, torch.full((4,), network.classes)).sample
            torch.testing.assert_close(empty, network(x, c_noise, torch.zeros(4, 4)), atol=1e-5, rtol=1e-5)
            recorded = json.loads((tmp_path / "teacher" / "classes.json").read_text())
            assert recorded == {"classes": 4, "empty_class": 4 if name.startswith("NCSN") else None}


@pytest.mark.slow
@pytest.mark.parametrize("classes, embedding", [(0, 4), (4, 2)])
def test_adm_of_edm(tmp_path, classes, embedding):
    network = Adm(ADM_LEVELS[1:], 1, {16}, classes=classes, embedding=embedding)
    x, c_noise, labels = inputs(32, classes)
    with torch.no_grad():
        expected = network(x, c_noise, one_hot(labels, 4))
    options = {"model_type": "DhariwalUNet", "img_resolution": 32, "in_channels": 3, "out_channels": 3,
               "label_dim": classes, "model_channels": 128, "channel_mult": [1, 2], "num_blocks": 1,
               "attn_resolutions": [16], "channel_mult_emb": embedding, "label_dropout": 0.1}  # fmt: skip
    save(convert(save_pickle(tmp_path / "edm.pkl", network, options)), tmp_path / "teacher")
    unet = UNet2DModel.from_pretrained(tmp_path / "teacher" / "unet")
    with torch.no_grad():
        torch.testing.assert_close(unet(x, c_noise, labels).sample, expected, atol=1e-5, rtol=1e-5)
        if classes:
            empty = unet(x, c_noise, torch.full((4,), classes)).sample
            torch.testing.assert_close(empty, network(x, c_noise, torch.zeros(4, 4)), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("classes, scale_shift", [(4, True), (0, False)])
def test_adm_of_the_consistency_models(tmp_path, classes, scale_shift):
    """Their times are a thousand times as large; their settings are read off the tensors."""
    network = Adm(ADM_LEVELS, 1, {32, 16}, classes=classes, scale_shift=scale_shift)
    x, c_noise, labels = inputs(64, classes)
    with torch.no_grad():
        expected = network(x, 1000 * c_noise, one_hot(labels, 4))
    torch.save(openai_state(network), tmp_path / "edm.pt")
    save(convert(tmp_path / "edm.pt"), tmp_path / "teacher")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "teacher")
    assert isinstance(pipeline, ConsistencyModelPipeline) and pipeline.unet.config.sample_size == 64
    with torch.no_grad():
        torch.testing.assert_close(pipeline.unet(x, 1000 * c_noise, labels).sample, expected, atol=1e-5, rtol=1e-5)


def test_a_converted_folder_opens_in_plain_diffusers(tmp_path):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "classes.json").write_text("{}")  # of an earlier teacher
    save(convert(song_file(tmp_path / "edm.pkl", "NCSN++")[0]), tmp_path / "teacher")
    assert not (tmp_path / "teacher" / "classes.json").exists()
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "teacher")
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.unet, EDMUNet2DModel)
    images = pipeline(batch_size=2, num_inference_steps=4, generator=torch.manual_seed(0), output_type="pt").images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()
    pipeline.save_pretrained(tmp_path / "again")
    again = DiffusionPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    same = again(batch_size=2, num_inference_steps=4, generator=torch.manual_seed(0), output_type="pt").images
    assert torch.equal(same, images)


def test_the_folder_is_there_whole_or_not_at_all(tmp_path):
    file, _ = song_file(tmp_path / "edm.pkl", "DDPM++ with labels")
    text = convert_file(file, tmp_path / "made" / "teacher")
    assert text.endswith("teacher: EDMUNet2DModel of 1.0 M parameters, 16x16 pixels, 4 classes")
    with pytest.raises(UsageError, match="is there already: choose another folder"):
        convert_file(file, tmp_path / "made" / "teacher")
    file, _ = song_file(tmp_path / "edm.pkl", "DDPM++", model_channels=16)
    with pytest.raises(UsageError, match="edm.pkl does not fit its own settings: tensor .* is .*, expected"):
        convert_file(file, tmp_path / "made" / "other")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["teacher"]


# ---------------------------------------------------------------------------------------------------------------------
# Files that are something else


@pytest.mark.parametrize(
    "content, expected",
    [
        ({"ema": None}, "holds no network under 'ema'"),
        ([1, 2], "holds no network under 'ema'"),
    ],
)
def test_another_pickle(tmp_path, content, expected):
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UsageError, match=f"^{tmp_path / 'edm.pkl'} {expected}"):
        convert(tmp_path / "edm.pkl")


def test_another_preconditioning_or_architecture(tmp_path):
    network = Song(LEVELS, 2, {8})
    network(*inputs()[:2])
    options = {"model_type": "SongUNet", "img_resolution": 16, "in_channels": 3, "out_channels": 3,
               "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 2, "attn_resolutions": [8]}  # fmt: skip
    for changes, expected in (
        ({"class_name": "VPPrecond"}, "is a VPPrecond: only EDM's own preconditioning"),
        ({"model_type": "OtherUNet"}, "has a OtherUNet: only SongUNet and DhariwalUNet"),
        ({"num_blocks": 3}, "has no tensor .*: it is of another architecture"),
        ({"num_blocks": 1}, "has a tensor .* that is not known: it is of another architecture"),
        ({"model_channels": 16}, "tensor .* is .*, expected"),
        ({"channel_mult": []}, "is no teacher of EDM"),
        ({"dropout": 2.0}, "no network can be built .*dropout"),
        ({"embedding_type": "zero"}, "time_embedding_type must be one of positional, fourier, not 'zero'"),
    ):
        kind = {"class_name": changes.pop("class_name")} if "class_name" in changes else {}
        file = save_pickle(tmp_path / "edm.pkl", network, {**options, **changes}, **kind)
        with pytest.raises(UsageError, match=expected):
            save(convert(file), tmp_path / "teacher")


def test_a_state_dict_of_another_network(tmp_path):
    for state, expected in (
        ({"layer.weight": torch.zeros(2, 2)}, "has no output_blocks"),
        ({"step": 3}, "is no state dict"),
        ({1: torch.zeros(1)}, "is no state dict"),
        ({"output_blocks.x": torch.zeros(1)}, "is no UNet of ADM, of another architecture"),
        ({"output_blocks.": torch.zeros(1)}, "is no UNet of ADM, of another architecture"),
        (
            {
                "output_blocks.0.0.in_layers.2.weight": torch.zeros(1),
                "output_blocks.1.0.in_layers.2.weight": torch.zeros(1),
                "input_blocks.1.0.in_layers.2.weight": torch.zeros(()),
            },
            "is no UNet of ADM, of another architecture",
        ),
    ):
        torch.save(state, tmp_path / "edm.pt")
        with pytest.raises(UsageError, match=f"^{tmp_path / 'edm.pt'} {expected}"):
            convert(tmp_path / "edm.pt")
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    with pytest.raises(UsageError, match="page.pt is refused: .* or is no file of torch"):
        convert(tmp_path / "page.pt")
    with pytest.raises(UsageError, match="no such file"):
        convert(tmp_path / "none.pt")
    with pytest.raises(UsageError, match="is a folder: give a .pkl or .pt file"):
        convert(tmp_path)
    torch.save({"layer.weight": torch.zeros(2, 2)}, tmp_path / "cd_imagenet64_l2.pt")
    with pytest.raises(UsageError, match="is a consistency model by its name"):
        convert(tmp_path / "cd_imagenet64_l2.pt")
    (tmp_path / "edm.bin").write_bytes(b"x")
    with pytest.raises(UsageError, match="is not supported: give a .pkl of EDM or a .pt"):
        convert(tmp_path / "edm.bin")
