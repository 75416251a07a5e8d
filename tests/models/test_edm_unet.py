# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What EDM's UNet has in common with diffusers' models. What it computes is compared in test_edm_conversion.py."""

import pytest
import torch

from disback_diffusers.models.edm_unet import EDMUNet2DModel
from disback_diffusers.models.lora_targets import ALL_TARGETS, present_targets
from disback_diffusers.models.roles import Roles


NCSNPP = {"time_embedding_type": "fourier", "time_embedding_multiplier": 2, "encoder_type": "residual",
          "resample_filter": "fir"}  # fmt: skip
SKIP = {"encoder_type": "skip", "decoder_type": "skip", "resample_filter": "fir"}
SMALL = {"sample_size": 16, "base_channels": 16, "channel_multipliers": (1, 2), "layers_per_block": 1,
         "attention_resolutions": (8,)}  # fmt: skip


def build(**settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EDMUNet2DModel(**{**SMALL, **settings})


def inputs():
    random = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, 16, 16, generator=random), torch.tensor([-1.5, 0.0, 1.0])


@pytest.mark.parametrize("settings", [{}, NCSNPP, SKIP])
def test_saved_and_loaded(tmp_path, settings):
    unet = build(**settings, num_class_embeds=5)
    unet.save_pretrained(tmp_path)
    again, (x, t), labels = EDMUNet2DModel.from_pretrained(tmp_path), inputs(), torch.tensor([0, 4, 2])
    with torch.no_grad():
        assert torch.equal(again(x, t, labels).sample, unet(x, t, labels, return_dict=False)[0])
        assert again(x, 0.3, labels).sample.shape == x.shape, "one time for all"


@pytest.mark.parametrize("settings", [{}, NCSNPP, SKIP])
def test_gradients_are_the_same_with_checkpointing(settings):
    gradients, runs = [], []
    for checkpointing in (False, True):
        unet, (x, t) = build(**settings), inputs()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet.decoder[-1].blocks[-1].resnet.register_forward_pre_hook(lambda *args: runs.append(checkpointing))
        unet(x, t).sample.square().mean().backward()
        gradients.append([parameter.grad for parameter in unet.parameters()])
    assert runs == [False, True, True]  # once more on the way back
    assert all(grad is not None for grad in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("classes, labels", [(None, torch.tensor([0, 1, 2])), (5, None)])
def test_labels_where_there_are_none_and_none_where_there_are(classes, labels):
    with pytest.raises(ValueError, match=f"this network has {classes or 'no'} classes"):
        build(num_class_embeds=classes)(*inputs(), labels)


def test_augmentation_labels_of_zeros_are_none():
    unet, (x, t) = build(augment_dim=9), inputs()
    with torch.no_grad():
        plain = unet(x, t).sample
        assert torch.equal(unet(x, t, augment_labels=torch.zeros(3, 9)).sample, plain)
        assert not torch.equal(unet(x, t, augment_labels=torch.ones(3, 9)).sample, plain)


def test_it_takes_roles(tmp_path):
    unet, (x, t) = build(**NCSNPP), inputs()
    with torch.no_grad():
        before = unet(x, t).sample
    roles = Roles(unet)
    targets = present_targets(unet, ALL_TARGETS)
    assert {"to_q", "to_out.0", "conv1", "conv_shortcut", "time_emb_proj"} <= set(targets)
    roles.add("fake", 2, 2, targets)
    roles.randomize("fake", seed=1)
    with torch.no_grad():
        assert torch.equal(unet(x, t).sample, before)
        with roles("fake"):
            assert not torch.equal(unet(x, t).sample, before)


def test_the_frequencies_of_ncsnpp_are_random_with_a_deviation_of_16():
    frequencies = build(**{**NCSNPP, "base_channels": 512, "channel_multipliers": (1,)}).time_proj.frequencies
    assert frequencies.std().item() == pytest.approx(16, rel=0.15)
