# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a run shows while it goes on (bar, log, pictures, trackers), and what it leaves."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from script_runs import Trap, log, quick_words, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_models import save_sd
from tiny_students import noise

from disback_diffusers import DisBackPipeline
from disback_diffusers.files import CONFIG_NAME, LORA_NAME


def finish(*words):
    run = start(quick_words(*words))
    assert run.wait() == 0, run.output
    return run.output


def test_bar_log_samples_and_trackers(files):
    flags = "--validation_steps 4 --log_mismatch_every 4 --report_to tensorboard --guidance_scale 2"
    printed = finish(*flags.split())
    for part in ("backtracking:", "node=2", "loss_student=", "loss_fake=", "gap="):
        assert part in printed
    lines = log("out")
    assert [(line["stage"], line["node"]) for line in lines[-8:]] == [
        ("backtracking", n) for n in (2, 2, 1, 1, *[0] * 4)
    ]
    assert {"step", "loss_student", "loss_fake", "gap", "seconds_per_step"} <= lines[-1].keys()
    assert [line["step"] for line in lines if "mismatch" in line] == [4, 8]

    sheets = {path.name: np.asarray(Image.open(path)) for path in (files / "out" / "samples").glob("step-*.png")}
    assert sorted(sheets) == ["step-4.png", "step-8.png"]
    four, eight = sheets["step-4.png"], sheets["step-8.png"]
    half = len(four[:-18]) // 2  # without the captions: the teacher's row above the student's
    assert (four[:half] == eight[:half]).all() and (four[half:] != eight[half:]).any()

    folders = {path.parent for path in (files / "out" / "logs").rglob("events*")}
    (events,) = [e for e in (EventAccumulator(str(f), {"images": 0}).Reload() for f in folders) if e.Tags()["images"]]
    fake = [(event.step, event.value) for event in events.Scalars("backtracking/loss_fake")]
    logged = [(6 + line["step"], pytest.approx(line["loss_fake"])) for line in lines if "loss_fake" in line]
    assert fake == logged and len(logged) == 8  # one rising count: stage 1 took 6 updates
    assert [event.step for event in events.Scalars("degradation/loss_target")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Images("samples")] == [6 + 4, 6 + 8]


def check_artifact(teacher, kind):
    """The averaged weights are what is saved, and they load in our pipeline and in plain diffusers alike."""
    last = load_file("out/checkpoint-8/ema.safetensors")
    if kind == "lora":
        saved = load_file(f"out/{LORA_NAME}")
        plain = StableDiffusionPipeline.from_pretrained(teacher)
        plain.load_lora_weights("out")
    else:
        saved = load_file("out/unet/diffusion_pytorch_model.safetensors")
        unet = UNet2DConditionModel.from_pretrained("out", subfolder="unet")
        plain = StableDiffusionPipeline.from_pretrained(teacher, unet=unet)
    config = json.loads((Path("out") / CONFIG_NAME).read_text())
    assert (config["format"], config["timesteps"], config["student"]) == (2, [399], kind)
    assert len(saved) == len(last)
    for value in saved.values():
        assert any(value.shape == other.shape and torch.equal(value, other) for other in last.values())

    plain.scheduler = LCMScheduler.from_config(plain.scheduler.config)
    ours, images = DisBackPipeline.from_pretrained("out"), []
    for pipe in (ours, plain):
        pipe.set_progress_bar_config(disable=True)
    z = noise()
    images.append(ours("a red cat", latents=z, output_type="pt").images)
    images.append(
        plain(
            "a red cat", latents=z, output_type="pt", num_inference_steps=1, timesteps=[399], guidance_scale=0
        ).images
    )
    torch.testing.assert_close(*images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_artifact(files, sd_folder, kind):
    finish("--student", kind)
    check_artifact(sd_folder, kind)


def test_the_artifact_of_a_smaller_student(files, sd_folder, small_unet):
    """It starts as the weights given, and goes on from its own when resumed; its images have the teacher's size."""
    flags = f"--student full --student_unet {small_unet} --resume_from_checkpoint latest".split()
    stopped = start(quick_words(*flags), Trap("open", "log.jsonl a", 9))
    assert stopped.wait() == -signal.SIGKILL
    before = load_file(small_unet / "diffusion_pytorch_model.safetensors")
    finish(*flags)
    after = load_file("out/unet/diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=0.02, rtol=0)  # 8 updates at 1e-3
    check_artifact(sd_folder, "full")


WALKED = [2, 2, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "flags, said, expected, on_the_card",
    [
        ("--node_switching fixed", None, WALKED, ("in reverse order", "after 2, 3, 6 updates")),
        # Of a path that is not walked there is its end alone, where the fake score starts.
        (
            "--node_switching adaptive",
            "as the teacher itself cannot denoise",
            [0] * 8,
            ("without backtracking", "after 6 updates"),
        ),
        ("--degradation_nodes 1", "as it has one node", [0] * 8, ("the path has one node only", "after 6 updates")),
    ],
)
def test_whether_the_path_is_walked_is_said_and_on_the_card(files, flags, said, expected, on_the_card):
    """A LoRA student starts as the teacher."""
    printed = finish(*flags.split())
    assert (
        "Stage 2: 8 updates, the first 2 x 2 of them" in printed
        if said is None
        else "8 updates against the" in printed
    )
    assert "Load it with DisBackPipeline.from_pretrained('out')." in printed
    assert (f"The path is not walked, {said}" in printed) if said else "is not walked" not in printed
    assert [line["node"] for line in log("out") if line["stage"] == "backtracking"] == expected
    card = (files / "out" / "README.md").read_text()
    assert all(text in card for text in on_the_card)


OTHER_TEACHERS = {
    "v prediction, zero terminal SNR": {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "linear betas": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2"},
    "sample prediction": {"prediction_type": "sample"},
}


@pytest.mark.parametrize("scheduler", OTHER_TEACHERS)
def test_other_teachers_and_another_size(files, scheduler):
    save_sd("other", **OTHER_TEACHERS[scheduler])
    finish("--pretrained_teacher_model", "other", "--resolution", "24x32")
    check_artifact("other", "lora")


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_other_schedulers_configs(files, changed_teacher, name):
    changed_teacher("scheduler/scheduler_config.json", _class_name=name)
    finish("--pretrained_teacher_model", "changed")
    check_artifact("changed", "lora")
