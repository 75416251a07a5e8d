# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from tiny_students import lora_student, noise, save_peft


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
