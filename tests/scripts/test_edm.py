# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Converting a published teacher and distilling it, from the command line."""

import json
import signal

import pytest
from edm_reference import Song, save_pickle
from script_runs import SCRIPTS, Trap, differences, log, result, start, start_pair
from tiny_edm import save_teacher

from disback_diffusers import DisBackPipeline
from disback_diffusers.files import CONFIG_NAME


QUICK = ("--pretrained_teacher_model edm-teacher --degradation_steps 4 --degradation_nodes 3 --steps_per_node 1,2 "
         "--max_train_steps 6 --train_batch_size 2 --lora_rank 2 --validation_inference_steps 2 --optimizer adam "
         "--validation_steps 0 --output_dir").split()  # fmt: skip
CONVERT, TRAIN = SCRIPTS / "convert_edm.py", SCRIPTS / "train_disback_edm.py"


@pytest.fixture
def snapshot(files):
    """./edm.pkl, of a tiny DDPM++."""
    import torch

    network = Song([(8, 16), (4, 16)], 1, {4}, base=16)
    network(torch.zeros(1, 3, 8, 8), torch.zeros(1))  # draws its tensors
    options = {"model_type": "SongUNet", "img_resolution": 8, "in_channels": 3, "out_channels": 3,
               "model_channels": 16, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [4]}  # fmt: skip
    return save_pickle(files / "edm.pkl", network, options)


def finish(words, script=TRAIN):
    run = start(words, script=script)
    assert run.wait() == 0, run.output
    return run.output


def test_from_the_published_file_to_a_student(files, snapshot):
    assert "edm-teacher: EDMUNet2DModel of 0.1 M parameters, 8x8 pixels, unconditional" in finish(
        ["edm.pkl", "edm-teacher"], script=CONVERT
    )
    printed = finish([*QUICK, "out"])
    assert "Stage 2: 6 updates, the first 1 + 2 of them against nodes of the path." in printed
    assert [line["node"] for line in log(files / "out") if line["stage"] == "backtracking"] == [2, 1, 1, 0, 0, 0]
    config = json.loads((files / "out" / CONFIG_NAME).read_text())
    assert config["sigmas"] == [80.0] and config["method"]["optimizer"] == "adam"

    stopped = start([*QUICK, "again"], Trap("open", "log.jsonl a", 4 + 3), script=TRAIN)
    assert stopped.wait() != 0
    finish([*QUICK, "again", "--resume_from_checkpoint", "latest"])
    assert differences(result(files / "again"), result(files / "out")) == []


def test_what_cannot_be_converted_has_one_line(files, snapshot):
    snapshot.write_bytes(snapshot.read_bytes()[:1000])
    run = start(["edm.pkl", "edm-teacher"], script=CONVERT)
    assert run.wait() == 2 and "convert_edm.py: error: edm.pkl is not a readable pickle" in run.output
    assert "Traceback" not in run.output and not (files / "edm-teacher").exists()


def test_two_processes_and_what_a_killed_pair_goes_on_with(files):
    save_teacher(files / "classes", "cm", classes=4)
    words = [*QUICK[2:], "out", "--pretrained_teacher_model", "classes", "--student", "full", "--class_labels", "1-3",
             "--ema_half_life", "20", "--checkpointing_steps", "2", "--seed", "3"]  # fmt: skip
    for run in start_pair([*words, "--output_dir", "whole"], script=TRAIN):
        assert run.wait() == 0, run.output
    main, other = start_pair(words, Trap("open", "log.jsonl a", 4 + 4), script=TRAIN)
    assert main.wait() == -signal.SIGKILL, main.output
    other.process.kill()
    other.wait()
    for run in start_pair([*words, "--resume_from_checkpoint", "latest"], script=TRAIN):
        assert run.wait() == 0, run.output
    assert differences(result(files / "out"), result(files / "whole")) == []
    config = json.loads((files / "out" / CONFIG_NAME).read_text())
    assert config["method"]["ema_decay"] == 0.5 ** (2 * 2 / 20)
    assert len(DisBackPipeline.from_pretrained("out")(class_labels=[1, 3]).images) == 2
