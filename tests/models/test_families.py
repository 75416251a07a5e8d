# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a family says of its teacher agrees with the stock pipeline of the architecture."""

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UniPCMultistepScheduler
from tiny_models import save_sd
from tiny_students import noise

from disback_diffusers import UsageError
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.families import StableDiffusion, StableDiffusionXL, open_teacher
from disback_diffusers.models.families.base import Family
from disback_diffusers.models.lora_targets import ALL_TARGETS, ATTENTION_TARGETS, present_targets
from disback_diffusers.models.roles import Roles


PROMPTS = ["a red cat", "the blue dog"]
GUIDED = {"steps": 4, "guidance_scale": 3.0}


@pytest.fixture(params=["sd", "sdxl"])
def folder(request, sd_folder, sdxl_folder):
    return {"sd": sd_folder, "sdxl": sdxl_folder}[request.param]


@pytest.fixture
def family(folder):
    return open_teacher(str(folder))


def sample(family, teacher=None, size=(), z=None, **kwargs):
    """x0 of both prompts, by the teacher's own network."""
    teacher = teacher or Denoiser(family, family.load_network(), family.schedule)
    (bucket,), encode = family.buckets(size), family.load_encoder("cpu")
    conditions = encode(PROMPTS).joined(bucket.conditions)
    empty = encode([""]).joined(bucket.conditions).expand(len(PROMPTS))
    z = torch.randn(len(PROMPTS), *bucket.shape, generator=torch.Generator().manual_seed(0)) if z is None else z
    return family.sample(teacher, z, conditions, empty, **kwargs)


def stock_pipeline(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---------------------------------------------------------------------------------------------------------------------
# Samples


@pytest.mark.slow
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_samples_are_those_of_the_stock_pipeline(family, folder, guidance_scale):
    given = {"num_inference_steps": 4, "guidance_scale": guidance_scale, "output_type": "latent"}
    expected = stock_pipeline(folder)(PROMPTS, latents=noise(2), **given).images
    found = sample(family, steps=4, guidance_scale=guidance_scale, z=noise(2))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_samples_of_another_size(family, folder):
    given = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent", "height": 32, "width": 48}
    z = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    expected = stock_pipeline(folder)(PROMPTS, latents=z, **given).images
    found = sample(family, size=["48x32"], steps=2, guidance_scale=3.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_samples_with_another_scheduler(family, folder):
    pipe = stock_pipeline(folder)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    given = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
    expected = pipe(PROMPTS, latents=noise(2), **given).images
    found = sample(family, z=noise(2), scheduler="UniPCMultistepScheduler", **GUIDED)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, sample(family, z=noise(2), **GUIDED), atol=1e-2)


@pytest.mark.slow
def test_the_teacher_is_sampled_without_its_adapters(family):
    """Whatever role is on."""
    roles = Roles(family.load_network())
    roles.add("fake", rank=2, alpha=2, targets=["to_q"])
    roles.randomize("fake", seed=0)
    roles.use("fake")
    expected = sample(family, **GUIDED)
    found = sample(family, Denoiser(family, roles.network, family.schedule, roles), **GUIDED)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert roles.active == ("fake",)
    with_fake = sample(family, Denoiser(family, roles.network, family.schedule, roles, "fake"), **GUIDED)
    assert not torch.allclose(with_fake, expected, atol=1e-3)


def test_decoded_samples_are_the_images_of_the_stock_pipeline(family, folder):
    images = stock_pipeline(folder)(PROMPTS, latents=noise(2), num_inference_steps=2, output_type="pt").images
    latents = stock_pipeline(folder)(PROMPTS, latents=noise(2), num_inference_steps=2, output_type="latent").images
    family.prepare_decoder()
    torch.testing.assert_close(family.decode(latents), images.float(), atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# What is known before weights are loaded


def test_which_family_a_folder_is_of(sd_folder, sdxl_folder):
    assert type(open_teacher(str(sd_folder))) is StableDiffusion
    assert type(open_teacher(str(sdxl_folder))) is StableDiffusionXL
    expected = "is a StableDiffusionXLPipeline: take a StableDiffusionPipeline, or another script"
    with pytest.raises(UsageError, match=expected):
        open_teacher(str(sdxl_folder), among=[StableDiffusion])


def test_a_folder_of_no_known_family(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    expected = "a KandinskyPipeline: take a StableDiffusionPipeline, StableDiffusionXLPipeline, .* or DDIMPipeline.$"
    with pytest.raises(UsageError, match=expected):
        open_teacher(str(tmp_path))


def test_example_conditions_have_the_shapes_of_real_ones(family):
    example, real = family.example_conditions(), family.load_encoder("cpu")(["a red cat"])
    assert len(example) == 1 and example.tensors.keys() == real.tensors.keys()
    assert all(example.tensors[name].shape == value.shape for name, value in real.tensors.items())


def test_parameters_of_the_text_encoders(family, folder):
    parts = stock_pipeline(folder).components
    encoders = [part for name, part in parts.items() if name.startswith("text_encoder")]
    expected = sum(parameter.numel() for encoder in encoders for parameter in encoder.parameters())
    assert family.count_encoder_parameters() == expected


def test_a_network_without_weights_has_the_shapes_of_the_teacher_s(family):
    with torch.device("meta"):
        built = family.build_network()
    shapes = {name: value.shape for name, value in family.load_network().state_dict().items()}
    assert {name: value.shape for name, value in built.state_dict().items()} == shapes
    assert all(parameter.is_meta for parameter in built.parameters())
    loaded = family.load_network(torch.bfloat16)
    assert loaded.dtype == torch.bfloat16 and not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    "wanted, expected",
    [(["attention"], ATTENTION_TARGETS), (["all"], ALL_TARGETS), (["to_q", "all"], None), (["conv1"], None)],
)
def test_names_of_lora_targets(family, wanted, expected):
    network = family.build_network()
    found = family.find_lora_targets(network, wanted)
    assert found == (present_targets(network, expected) if expected else wanted)


@pytest.mark.parametrize(
    "resolution, expected",
    [([], [(4, 16, 16)]), (["32"], [(4, 16, 16)]), (["48x32", "16"], [(4, 16, 24), (4, 8, 8)])],
)
def test_sizes(family, resolution, expected):
    buckets = family.buckets(resolution)
    assert [bucket.shape for bucket in buckets] == expected
    if isinstance(family, StableDiffusionXL):
        height, width = (2 * size for size in expected[0][1:])
        assert buckets[0].conditions["sizes"].tolist() == [[height, width, 0, 0, height, width]]
    else:
        assert buckets[0].conditions == {}


@pytest.mark.parametrize(
    "size, message",
    [("33", "33 must be a multiple of 2"), ("x", "x must be pixels"), ("99999", "99999 is larger than 16384 pixels")],
)
def test_sizes_that_cannot_be(family, size, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        family.buckets([size])


def test_timesteps_that_a_student_can_start_from(tmp_path):
    ordinary = open_teacher(str(save_sd(tmp_path / "a")))
    for timestep in (0, 399, 999):
        ordinary.check_timestep(timestep)
    for timestep in (-1, 1000):
        with pytest.raises(UsageError, match=f"^{timestep} is outside of the teacher's schedule, 0 to 999"):
            ordinary.check_timestep(timestep)
    zero_snr = open_teacher(str(save_sd(tmp_path / "b", rescale_betas_zero_snr=True)))
    zero_snr.check_timestep(998)
    with pytest.raises(UsageError, match="^999 is pure noise"):
        zero_snr.check_timestep(999)
    v = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    open_teacher(str(save_sd(tmp_path / "c", **v))).check_timestep(999)


def test_a_family_is_unconditional_and_without_a_vae_unless_it_says_otherwise():
    class Plain(Family):
        pipeline_name = "PlainPipeline"

        def __init__(self):
            pass

    family = Plain()
    assert not family.uses_prompts and family.longer_than_read([""]) == family.count_encoder_parameters() == 0
    conditions = family.load_encoder("cpu")(["", ""])
    assert len(conditions) == 2 and conditions.tensors == family.example_conditions().tensors == {}
    with pytest.raises(UsageError, match="^is for teachers with a VAE, and this one has none: leave it out"):
        family.use_vae("vae")


def test_encoding_undoes_decoding(sd_folder):
    """As far as a VAE of random weights does: it is the mean of its posterior, scaled."""
    family = open_teacher(str(sd_folder))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    vae = AutoencoderKL.from_pretrained(sd_folder, subfolder="vae")
    expected = vae.encode(2 * images - 1).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(family.encode(images), expected, atol=1e-5, rtol=1e-4)
    assert family.image_size((4, 16, 8)) == (32, 16) and family.grid_period == 2
