# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""train_disback_lcm_lora.py: an LCM-LoRA goes in, an LCM-LoRA of the same layout comes out."""

import json
import signal

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from script_runs import LCM_SCRIPT, Trap, differences, quick_words, result, start
from tiny_students import lora_student, noise, save_kohya, save_peft

from disback_diffusers import DisBackPipeline
from disback_diffusers.files import CONFIG_NAME, LORA_NAME


LATEST = "--resume_from_checkpoint latest".split()


def finish(words):
    run = start(words, script=LCM_SCRIPT)
    assert run.wait() == 0, run.output


def latents(pipe, **kwargs):
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red cat", latents=noise(), output_type="latent", **kwargs).images


def plain(base, lora):
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.load_lora_weights(lora)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


@pytest.mark.parametrize("save", [save_peft, save_kohya])
def test_the_result_is_an_lcm_lora_of_the_same_layout(files, sd_folder, save):
    file = save(files / "lcm", lora_student(sd_folder))
    words = quick_words("--lcm_lora", "./lcm", "--conditioning_timestep", "999", "--learning_rate", "1e-2")
    finish([*words, "--output_dir", "whole"])
    manifest = json.loads((files / "whole" / "degradation" / "manifest.json").read_text())
    assert manifest["settings"]["lcm_lora"] == "lcm"  # no folder of this machine: the path is uploaded too
    run = start([*words, *LATEST], Trap("open", "log.jsonl a", 2 + 5), script=LCM_SCRIPT)
    assert run.wait() == -signal.SIGKILL, run.output
    finish([*words, *LATEST])
    assert differences(result("out"), result("whole")) == []

    config = json.loads((files / "out" / CONFIG_NAME).read_text())
    assert (config["format"], config["timesteps"]) == (2, [999, 879, 759, 639, 499, 379, 259, 139])
    before, after = load_file(file), load_file(files / "out" / LORA_NAME)
    assert before.keys() == after.keys()
    assert all(before[key].dtype == after[key].dtype and before[key].shape == after[key].shape for key in before)
    assert not any(torch.equal(before[key], after[key]) for key in before if "alpha" not in key)

    one_step = {"num_inference_steps": 1, "guidance_scale": 0}
    ours, theirs = DisBackPipeline.from_pretrained("out"), plain(sd_folder, "out")
    torch.testing.assert_close(latents(ours), latents(theirs, **one_step), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(latents(ours), latents(plain(sd_folder, "lcm"), **one_step), atol=1e-2)
    for steps in (2, 4):
        assert latents(theirs, num_inference_steps=steps, guidance_scale=0).isfinite().all()


def test_the_flag_is_required(files):
    run = start(quick_words(), script=LCM_SCRIPT)
    assert run.wait() == 2 and run.messages == ["train_disback_lcm_lora.py: error: --lcm_lora is required."]


@pytest.mark.parametrize("flags", ["--lcm_lora nowhere.safetensors", "--lcm_lora lcm --student full"])
def test_bad_flags(fails, flags):
    fails(flags, "--lcm_lora")


def test_an_lcm_lora_of_another_base(fails, files, sdxl_folder):
    save_peft(files / "lcm", lora_student(sdxl_folder))
    fails("--lcm_lora lcm", "--lcm_lora lcm", "another base")


def test_an_lcm_lora_of_another_size(fails, files, sd_folder, tmp_path):
    save_peft(files / "lcm", lora_student(sd_folder))
    state = load_file(files / "lcm" / LORA_NAME)
    key = next(key for key in state if "to_q.lora_A" in key)
    save_file({**state, key: state[key][:, :-1].contiguous()}, files / "lcm" / LORA_NAME, {"format": "pt"})
    expected = "attn1.to_q of another shape than the teacher's UNet: it is of another base"
    fails("--lcm_lora lcm", "--lcm_lora lcm has", expected)
