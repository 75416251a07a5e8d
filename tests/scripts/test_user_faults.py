# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Whole runs as users start them: what must not go wrong without a word."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from script_runs import QUICK, SCRIPTS, log, quick_words, start
from tiny_models import build_sd, save_sd

from disback_diffusers import DisBackPipeline
from disback_diffusers.files import CONFIG_NAME
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.families import StableDiffusion, open_teacher
from disback_diffusers.models.teacher_scheduler import SMALLEST_ALPHA


EVALUATE = SCRIPTS / "evaluate_disback.py"
SHORT = "--degradation_steps 2 --degradation_nodes 2 --max_train_steps 2 --steps_per_node 1".split()


def finish(words, **options):
    run = start(words, **options)
    assert run.wait() == 0, run.output
    return run.output


def test_a_teacher_in_half_precision_only(files):
    build_sd().to(torch.float16).save_pretrained("fp16", variant="fp16")
    finish(quick_words("--pretrained_teacher_model", "fp16", "--variant", "fp16", *SHORT))
    assert json.loads((files / "out" / CONFIG_NAME).read_text())["variant"] == "fp16"
    pipe = DisBackPipeline.from_pretrained("out")
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32
    assert 'variant="fp16"' in (files / "out" / "README.md").read_text()
    measured = ["--prompts", "prompts.txt", "--feature_extractor", "embedded", "--reference", "embedded"]
    finish(["out", *measured, "--output_dir", "of_student"], script=EVALUATE)
    teacher = ["fp16", "--num_inference_steps", "2", *measured, "--output_dir", "of_teacher"]
    run = start(teacher, script=EVALUATE)
    assert run.wait() == 2 and "as variant fp16 only: try --variant fp16." in run.messages[0]
    finish([*teacher, "--variant", "fp16"], script=EVALUATE)


def test_an_epsilon_teacher_with_zero_terminal_snr(files):
    save_sd("zero", rescale_betas_zero_snr=True)
    finish(quick_words("--pretrained_teacher_model", "zero", *SHORT))
    sheet = np.array(Image.open(files / "out" / "samples" / "step-2.png").convert("L"), dtype=float)
    rows = np.split(sheet, 2)[0][20:110], np.split(sheet, 2)[1][20:110]
    assert all(row.std() > 5 for row in rows)  # black would be 0
    nodes = json.loads((files / "out" / "degradation" / "manifest.json").read_text())["nodes"]
    assert all(np.isfinite([node["student_loss"], node["teacher_loss"]]).all() for node in nodes)


@pytest.mark.parametrize(
    "settings, starts_below",
    [({}, False), ({"rescale_betas_zero_snr": True}, True), ({"beta_schedule": "squaredcos_cap_v2"}, True),
     ({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, False)],
)  # fmt: skip
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_where_the_teacher_s_sampling_starts(tmp_path, settings, starts_below, spacing):
    folder = save_sd(tmp_path / "t", timestep_spacing=spacing, **settings)
    family = open_teacher(str(folder), among=[StableDiffusion])
    times, network = [], family.load_network()
    network.register_forward_pre_hook(lambda module, args: times.append(int(args[1])))
    teacher, prompts = Denoiser(family, network, family.schedule), Conditions({"text": torch.zeros(1, 77, 32)})
    for steps in (1, 4, 25):
        times.clear()
        latents = family.sample(teacher, torch.randn(1, 4, 16, 16), prompts, prompts, steps)
        assert latents.isfinite().all() and len(times) == steps
        assert times[-1] >= 0 and times == sorted(times, reverse=True)
        alpha, _ = family.schedule.alpha_sigma(times[0], latents)
        assert alpha >= SMALLEST_ALPHA or not starts_below
        if spacing == "trailing":  # which starts at the last timestep
            assert (times[0] < 999) == starts_below
            if steps > 1:
                assert times[0] - times[1] == (times[0] + 1) // steps  # as DDIM takes for granted


def test_long_prompts_are_said_once(files):
    (files / "prompts.txt").write_text("a red cat " * 60 + "\na dog\n")
    printed = finish(quick_words(*SHORT))
    assert printed.count("1 of 2 prompts are longer than 77 tokens; the text encoder ignores the rest") == 1
    assert "truncated" not in printed and "sequence length" not in printed
    printed = finish(["out", "--prompts", "prompts.txt", "--save_reference", "r.safetensors", "--feature_extractor",
                      "embedded"], script=EVALUATE)  # fmt: skip
    assert printed.count("1 of 2 prompts are longer than 77 tokens") == 1 and "truncated" not in printed


def test_the_home_folder_in_every_path(files, monkeypatch):
    (files / "home").mkdir()
    (files / "home" / "sd").symlink_to(files / "teacher")
    (files / "home" / "p.txt").write_text("a cat\na dog\n")
    config = "output_dir: ~/model\nprompt_dataset: ~/p.txt\nvalidation_prompts: [~/p.txt]\n"
    (files / "home" / "c.yaml").write_text(config)
    words = [*QUICK[: QUICK.index("--validation_prompts")], *SHORT]
    home = {"HOME": str(files / "home")}
    finish([*words, "--config=~/c.yaml", "--pretrained_teacher_model=~/sd"], **home)
    assert (files / "home" / "model" / CONFIG_NAME).is_file() and not (files / "~").exists()
    finish(["~/model", "--prompts=~/p.txt", "--save_reference=~/r.safetensors", "--output_dir=~/ev",
            "--feature_extractor=embedded"], script=EVALUATE, **home)  # fmt: skip
    assert (files / "home" / "ev" / "results.json").is_file() and (files / "home" / "r.safetensors").is_file()
    finish(["~/model"], script=SCRIPTS / "plot_disback.py", **home)
    monkeypatch.setenv("HOME", home["HOME"])
    DisBackPipeline.from_pretrained("~/model", base_model="~/sd")
    assert not (files / "~").exists()


def test_a_lone_surrogate_in_a_validation_prompt(fails):
    fails(["--validation_prompts", "a \udcff cat"], "--validation_prompts", "cannot be tokenized", "number 1")


def test_the_settings_that_made_a_student_are_all_recorded(files):
    words = quick_words("--adam_beta1", "0.8", "--max_grad_norm", "0.5", *SHORT,
                        "--lr_warmup_steps", "1", "--lr_scheduler", "constant_with_warmup")  # fmt: skip
    finish(words)
    method = json.loads((files / "out" / CONFIG_NAME).read_text())["method"]
    path = json.loads((files / "out" / "degradation" / "manifest.json").read_text())["settings"]
    for name, value in {"adam_beta1": 0.8, "max_grad_norm": 0.5, "mixed_precision": "no", "lora_rank": 2}.items():
        assert method[name] == path[name] == value
    assert method["lr_warmup_steps"] == 1 and "lr_warmup_steps" not in path
    assert len(log(files / "out")) == 4
    for flag, value in (("--adam_beta1", "0.9"), ("--lr_warmup_steps", "0"), ("--max_grad_norm", "1.0")):
        run = start([*words, "--resume_from_checkpoint", "latest", flag, value])
        assert run.wait() == 2 and f"{flag} is" in run.messages[0], run.output


def test_http_requests_are_not_logged():
    from disback_diffusers.training.script import run_script

    def stop():
        raise KeyboardInterrupt

    assert run_script(stop) == 130
    for name in ("httpx", "httpx2"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
