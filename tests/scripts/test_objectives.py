# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Runs with other objectives, pairs, real images and several steps: resumed bit for bit, and on two processes."""

import json
import signal

import pytest
from real_images import save_folder
from script_runs import PROMPTS, QUICK, Trap, differences, log, result, start, start_pair


LATEST = ("--resume_from_checkpoint", "latest")
PAIRS = "--teacher_pairs 16 --teacher_pairs_steps 2"


@pytest.fixture(scope="module")
def words(sd_folder, tmp_path_factory):
    """The command line of a quick run with all of it, but for --output_dir."""
    files = tmp_path_factory.mktemp("files")
    (files / "prompts.txt").write_text(PROMPTS)
    save_folder(files / "real")
    settings = (f"--objective gan --real_images {files / 'real'} --gan_r1_weight 1 --fake_score_updates_per_step 2 "
                f"--student_steps 2 --warmup_pairs 3 {PAIRS} --fake_score_warmup_steps 1 --guidance_scale 2 "
                "--negative_prompt dog")  # fmt: skip
    given = ["--pretrained_teacher_model", str(sd_folder), "--prompt_dataset", str(files / "prompts.txt"), *QUICK]
    return [*given, *settings.split()]


def finish(words):
    run = start(words)
    assert run.wait() == 0, run.output


def test_a_killed_run_goes_on_bit_for_bit(words, tmp_path):
    finish([*words, "--output_dir", str(tmp_path / "whole")])
    words = [*words, "--output_dir", str(tmp_path / "run"), *LATEST]
    for nth in (3, 2, 4):  # in the warm-up, in stage 1 and in stage 2
        run = start(words, Trap("open", "log.jsonl a", nth))
        assert run.wait() == -signal.SIGKILL, run.output
    finish(words)
    assert differences(result(tmp_path / "run"), result(tmp_path / "whole")) == []
    stages = [line["stage"] for line in log(tmp_path / "run")]
    assert stages == ["warmup"] * 3 + ["degradation"] * 6 + ["backtracking"] * 8
    config = json.loads((tmp_path / "run" / "disback_config.json").read_text())
    assert (config["timesteps"], config["student_steps"], config["method"]["objective"]) == ([399, 199], 2, "gan")
    assert len(list((tmp_path / "run" / "real_images").iterdir())) == 1
    assert {file.name for file in (tmp_path / "run" / "pairs").iterdir()} == {"pairs.json", "000000.safetensors"}


def test_two_processes(words, tmp_path):
    """Each with images and pairs of its own; the discriminator is the same on both."""
    words = [*words, "--train_batch_size", "1"]
    whole = start_pair([*words, "--output_dir", str(tmp_path / "whole")])
    assert [run.wait() for run in whole] == [0, 0], whole[0].output + whole[1].output
    words = [*words, "--output_dir", str(tmp_path / "run"), *LATEST]
    main, other = start_pair(words, Trap("open", "log.jsonl a", 3 + 6 + 4, signal.SIGTERM))
    assert (main.wait(), other.wait()) == (130, 130), main.output + other.output
    assert [run.wait() for run in start_pair(words)] == [0, 0]
    ours = result(tmp_path / "run")
    assert differences(ours, result(tmp_path / "whole")) == [] and ours["state"]["processes"] == 2
