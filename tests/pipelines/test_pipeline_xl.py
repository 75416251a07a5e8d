# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What students of SDXL have of their own; what the families share is in test_pipeline.py."""

import pytest
import torch
from diffusers import (
    ClassifierFreeGuidance,
    DiffusionPipeline,
    LCMScheduler,
    ModularPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_models import save_sdxl
from tiny_students import TIMESTEP, noise, save_students

from disback_diffusers import DisBackPipeline, NoiseSchedule, UsageError
from disback_diffusers.models.families import open_teacher
from disback_diffusers.pipelines import DisBackXLPipeline


pytestmark = pytest.mark.slow


KINDS = ("lora", "unet", "full")
PROMPT = "a photo of the red cat"
ONE_STEP = {"num_inference_steps": 1, "timesteps": [TIMESTEP], "guidance_scale": 0}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def students(request, tmp_path_factory):
    """(teacher's folder, the students' folders by kind, the `Roles` they were made from)."""
    folder = tmp_path_factory.mktemp(request.param)
    base = save_sdxl(folder / "teacher", prediction_type=request.param)
    return base, *save_students(base, folder)


@pytest.fixture(scope="module")
def pipe(students):
    return load(students[1]["lora"])


def load(folder, cls=DisBackPipeline, **parts):
    pipe = cls.from_pretrained(folder, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image(pipe, prompt=PROMPT, **kwargs):
    return pipe(prompt, latents=noise(), output_type="pt", **kwargs).images


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_plain_diffusers_gives_the_same_image(students, kind):
    base, folders, _ = students
    ours = load(folders[kind])
    assert type(ours) is DisBackXLPipeline and ours.conditioning_timestep == TIMESTEP
    parts = {"unet": UNet2DConditionModel.from_pretrained(folders[kind], subfolder="unet")} if kind == "unet" else {}
    plain = load(folders[kind] if kind == "full" else base, DiffusionPipeline, **parts)
    assert type(plain) is StableDiffusionXLPipeline
    if kind != "full":
        plain.scheduler = LCMScheduler.from_config(plain.scheduler.config)
    if kind == "lora":
        plain.load_lora_weights(folders[kind])
    torch.testing.assert_close(image(plain, **ONE_STEP), image(ours), atol=1e-4, rtol=0)
    if kind == "full":  # its scheduler starts at the right timestep by itself
        default = image(plain, num_inference_steps=1, guidance_scale=0)
        torch.testing.assert_close(default, image(ours), atol=1e-4, rtol=0)


def test_a_modular_pipeline_gives_the_same_image(students, pipe):
    """As README has it."""
    base, folders, _ = students
    modular = ModularPipeline.from_pretrained(str(base))
    modular.load_components()
    modular.load_lora_weights(folders["lora"])
    scheduler = LCMScheduler.from_config(modular.scheduler.config)
    modular.update_components(scheduler=scheduler, guider=ClassifierFreeGuidance(guidance_scale=1.0))
    settings = {"num_inference_steps": 1, "timesteps": [TIMESTEP], "output_type": "pt", "output": "images"}
    theirs = modular(prompt=PROMPT, latents=noise(), height=32, width=32, **settings)
    torch.testing.assert_close(theirs, image(pipe), atol=1e-4, rtol=0)


def test_pipeline_gives_what_was_trained(students, pipe):
    """The teacher's encoder and time_ids, as in training, and the student's UNet make the pipeline's latents."""
    base, _, roles = students
    teacher, z = open_teacher(str(base)), noise()
    (bucket,) = teacher.buckets([])
    conditions = teacher.load_encoder("cpu")([PROMPT]).joined(bucket.conditions)
    with torch.no_grad():
        output = teacher.call(roles.network, z, TIMESTEP, conditions)
    schedule = NoiseSchedule.from_scheduler(teacher.scheduler_config)
    latents = pipe(PROMPT, latents=z, output_type="latent").images
    torch.testing.assert_close(latents, schedule.to_x0(output, z, TIMESTEP), atol=1e-4, rtol=1e-4)


def test_the_empty_prompt_is_zeros_as_in_the_stock_pipeline(students):
    teacher = open_teacher(str(students[0]))
    empty, cat = teacher.load_encoder("cpu")(["", "a cat"])[0:1], teacher.load_encoder("cpu")(["", "a cat"])[1:2]
    stock = load(students[0], StableDiffusionXLPipeline)
    embeds, negative, pooled, negative_pooled = stock.encode_prompt("a cat")
    assert torch.equal(empty.tensors["text"], negative) and torch.equal(empty.tensors["pooled"], negative_pooled)
    torch.testing.assert_close(cat.tensors["text"], embeds)
    torch.testing.assert_close(cat.tensors["pooled"], pooled)


@pytest.mark.parametrize(
    "what",
    [{"original_size": (64, 8)}, {"crops_coords_top_left": (9, 0)}, {"target_size": (8, 64)}, {"prompt_2": "a dog"}],
)
def test_sizes_crops_and_the_second_prompt_reach_the_student(students, pipe, what):
    plain = load(students[1]["full"], StableDiffusionXLPipeline)
    assert not torch.allclose(image(pipe, **what), image(pipe), atol=1e-5)
    torch.testing.assert_close(image(pipe, **what), image(plain, **ONE_STEP, **what), atol=1e-4, rtol=0)


def test_size_embeddings_and_seeds(pipe):
    assert pipe(PROMPT, height=64, width=32).images[0].size == (32, 64)
    embeds, _, pooled, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    given = image(pipe, None, prompt_embeds=embeds, pooled_prompt_embeds=pooled)
    torch.testing.assert_close(given, image(pipe))
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    two = pipe([PROMPT, PROMPT], generator=seeds, output_type="pt").images
    one = pipe(PROMPT, generator=torch.Generator().manual_seed(2), output_type="pt").images
    torch.testing.assert_close(two[1:], one, atol=1e-4, rtol=0)


@pytest.mark.parametrize("arguments", [{"num_inference_steps": 4}, {"guidance_scale": 5.0}, {"negative_prompt": "x"}])
def test_what_a_one_step_student_cannot_do_is_refused(pipe, arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        pipe(PROMPT, **arguments)
