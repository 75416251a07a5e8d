# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from stepping import backtracking
from tiny_students import lora_student, noise, save_peft

from disback_diffusers.errors import UsageError
from disback_diffusers.models.samplers import ConsistencySteps, OneStep
from disback_diffusers.training.path import Node


@pytest.fixture
def lcm_lora(sd_folder, tmp_path):
    """The folder of an LCM-LoRA of the tiny teacher."""
    save_peft(tmp_path / "lcm", lora_student(sd_folder))
    return str(tmp_path / "lcm")


def test_an_untrained_student_is_the_lcm_lora_itself(make_context, sd_folder, lcm_lora):
    context = make_context(lcm_lora=lcm_lora)
    z, pipe = noise(), StableDiffusionPipeline.from_pretrained(sd_folder)
    pipe.load_lora_weights(lcm_lora)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    stock = pipe("a red cat", latents=z, output_type="latent", num_inference_steps=1, guidance_scale=0).images
    conditions = context.family.load_encoder("cpu")(["a red cat"])
    with torch.no_grad():
        torch.testing.assert_close(context.student(z, conditions), stock, atol=1e-3, rtol=1e-3)
        teacher = context.networks.teacher.output(z, torch.tensor([999]), conditions)  # the LoRA is no teacher
        bare = context.family.load_network()(z, 999, encoder_hidden_states=conditions.tensors["text"]).sample
    torch.testing.assert_close(teacher, bare)


@pytest.mark.slow
def test_a_path_belongs_to_the_lcm_lora_that_it_leads_to(make_context, sd_folder, lcm_lora, tmp_path):
    path = make_context(lcm_lora=lcm_lora).distillation(None)._new_path(tmp_path / "path")
    path.nodes, path.complete = [Node(0)], True
    path.write_manifest()
    settings = {"degradation_path": str(tmp_path / "path"), "no_backtracking": False}
    assert make_context(lcm_lora=lcm_lora, **settings).sources.path
    other = lora_student(sd_folder)
    other.randomize("student", seed=9)
    save_peft(tmp_path / "other", other)
    with pytest.raises(UsageError, match="leads to another student: --lcm_lora is not the same"):
        make_context(lcm_lora=str(tmp_path / "other"), **settings)


@pytest.mark.slow
def test_at_a_later_step_it_denoises_as_the_lcm_scheduler_does(make_context, lcm_lora):
    context = make_context(lcm_lora=lcm_lora)
    conditions = context.family.load_encoder("cpu")(["a red cat"])
    scheduler = LCMScheduler.from_config(context.family.scheduler_config, clip_sample=False)
    scheduler.set_timesteps(2)
    x, (first, second) = noise(), scheduler.timesteps
    for t in (first, second):
        with torch.no_grad(), context.roles("student"):
            output = context.roles.network(x, t, encoder_hidden_states=conditions.tensors["text"]).sample
        with torch.no_grad():
            ours = context.student.denoiser.x0(x, t[None], conditions)
        stock = scheduler.step(output, t, x, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(ours, stock.denoised, atol=1e-4, rtol=1e-4)
        x = stock.prev_sample
    with torch.no_grad():  # there the boundary conditions leave x_t as it is
        torch.testing.assert_close(context.student.denoiser.x0(x, torch.tensor([0]), conditions), x)


@pytest.mark.slow
def test_a_share_of_its_samples_is_from_later_steps(make_context, lcm_lora):
    settings = {"lcm_lora": lcm_lora, "no_backtracking": True, "train_batch_size": 16}
    context = make_context(**settings, cache_text_embeddings="memory")
    stage, student, batches = backtracking(context), context.student, context.batches
    sampler, x0 = student.sampler, student.denoiser.x0
    assert sampler == ConsistencySteps(999, (879, 759, 639, 499, 379, 259, 139), 0.25)
    batch = batches.make(stage.name, 1)
    rows, noise, t = sampler.later_rows(batch)
    assert 0 < len(rows) < 16 and len(noise) == len(t) == len(rows) and set(t.tolist()) <= set(sampler.later)
    with torch.no_grad():
        found, first = student.training_samples(batch), student(batch.z, batch.conditions)
        x_t = context.family.schedule.add_noise(first[rows], noise, t)
        expected = first.index_copy(0, rows, x0(x_t, t, batch.conditions[rows]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    next(stage.objective.losses(batch))
    torch.testing.assert_close(batch.samples, found)
    assert (found[rows] - first[rows]).abs().amax((1, 2, 3)).min() > 1e-2

    student.training_samples(batch).square().mean().backward()  # through the later step, not through the first
    assert all(parameter.grad is not None for parameter in student.parameters())
    counts = [len(sampler.later_rows(batches.make("backtracking", step))[0]) for step in range(1, 201)]
    assert abs(sum(counts) / 3200 - 0.25) < 0.03
    alone = make_context(**settings, proportion_later_steps=0)
    assert alone.student.sampler == OneStep(999)
    torch.testing.assert_close(alone.student.training_samples(batch).detach(), first, atol=1e-5, rtol=1e-4)
