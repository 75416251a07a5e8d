# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from tiny_students import lora_student, noise, save_peft

from disback_diffusers.training.backtracking import DistributionBacktracking


def test_an_untrained_student_is_the_lcm_lora_itself(make_context, sd_folder, tmp_path):
    save_peft(tmp_path / "lcm", lora_student(sd_folder))
    context = make_context(lcm_lora=str(tmp_path / "lcm"), conditioning_timestep=999)
    z, pipe = noise(), StableDiffusionPipeline.from_pretrained(sd_folder)
    pipe.load_lora_weights(tmp_path / "lcm")
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    stock = pipe("a red cat", latents=z, output_type="latent", num_inference_steps=1, guidance_scale=0).images
    conditioning = context.teacher.load_encoder("cpu")(["a red cat"])
    with torch.no_grad():
        torch.testing.assert_close(
            context.student(z, conditioning),
            stock,
            atol=1e-3,
            rtol=1e-3,
        )
        teacher = context.roles.unet(z, 999, **conditioning.kwargs()).sample  # adapters off: the LoRA is no teacher
        bare = context.teacher.load_unet()(z, 999, **conditioning.kwargs()).sample
    torch.testing.assert_close(teacher, bare)


def test_at_a_later_step_it_answers_as_the_lcm_scheduler_has_it(make_context, sd_folder, tmp_path):
    save_peft(tmp_path / "lcm", lora_student(sd_folder))
    context = make_context(lcm_lora=str(tmp_path / "lcm"))
    conditioning = context.teacher.load_encoder("cpu")(["a red cat"])
    scheduler = LCMScheduler.from_config(context.teacher.scheduler_config, clip_sample=False)
    scheduler.set_timesteps(2)
    x, (first, second) = noise(), scheduler.timesteps
    for t in (first, second):
        with torch.no_grad(), context.roles("student"):
            output = context.roles.unet(x, t, **conditioning.kwargs()).sample
        with torch.no_grad():
            ours = context.student.denoise(x, t[None], conditioning)
        answer = scheduler.step(output, t, x, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(ours, answer.denoised, atol=1e-4, rtol=1e-4)
        x = answer.prev_sample


def test_a_share_of_its_samples_is_from_later_steps(make_context, sd_folder, tmp_path):
    save_peft(tmp_path / "lcm", lora_student(sd_folder))
    words = {"lcm_lora": str(tmp_path / "lcm"), "no_backtracking": True, "train_batch_size": 16}
    context = make_context(**words)
    stage, student, schedule = DistributionBacktracking(context, None), context.student, context.teacher.schedule
    assert stage.later == [879, 759, 639, 499, 379, 259, 139]
    batch = context.batches.draw(stage.name, 1)
    arguments = (stage.name, 1, 0, batch.noise.shape, 0.25, stage.later)
    rows, epsilon, t = context.batches.later_steps(*arguments)
    assert 0 < len(rows) < 16 and len(epsilon) == len(t) == len(rows) and set(t.tolist()) <= set(stage.later)
    with torch.no_grad():
        found, first = stage._student_samples(batch, 1, 0), student(batch.noise, batch.conditioning)
        x_t = schedule.add_noise(first[rows], epsilon, t)
        expected = first.index_copy(0, rows, student.denoise(x_t, t, batch.conditioning[rows]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found[rows] - first[rows]).abs().amax((1, 2, 3)).min() > 1e-2

    stage._student_samples(batch, 1, 0).square().mean().backward()  # through the later step, not through the first
    assert all(parameter.grad is not None for parameter in student.parameters())
    counts = [len(context.batches.later_steps("backtracking", step, *arguments[2:])[0]) for step in range(200)]
    assert abs(sum(counts) / 3200 - 0.25) < 0.03
    alone = DistributionBacktracking(make_context(**words, proportion_later_steps=0), None)
    torch.testing.assert_close(alone._student_samples(batch, 1, 0).detach(), first, atol=1e-5, rtol=1e-4)
