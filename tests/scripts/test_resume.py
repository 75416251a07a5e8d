# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A run that was killed or stopped at any moment and resumed ends bit by bit where an uninterrupted one does."""

import json
import os
import signal

import pytest
import torch
from accelerate import Accelerator
from script_runs import (
    PROMPTS,
    QUICK,
    TWO_PROCESSES,
    Trap,
    differences,
    forkserver,
    launch,
    log,
    pair_environments,
    result,
    start,
    start_pair,
)

from disback_diffusers.training import parallel
from disback_diffusers.training.optimizers import RoleOptimizer
from disback_diffusers.training.run_folder import LOCK
from disback_diffusers.training.settings import OptimizationArguments


LATEST = ("--resume_from_checkpoint", "latest")


@pytest.fixture(scope="module")
def words(sd_folder, tmp_path_factory):
    """The command line of a quick run but for --output_dir."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text(PROMPTS)
    return ["--pretrained_teacher_model", str(sd_folder), "--prompt_dataset", str(prompts), *QUICK]


@pytest.fixture(scope="module")
def uninterrupted(words, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish([*words, "--output_dir", str(folder)])
    return folder


def finish(words):
    run = start(words)
    assert run.wait() == 0, run.output
    return run


def killed(words, *trap):
    run = start(words, Trap(*trap))
    assert run.wait() == -signal.SIGKILL, run.output


def names(folder, pattern="checkpoint-*"):
    return sorted(path.name for path in folder.glob(pattern))


def leftovers(folder):
    return [path for path in folder.rglob(".*") if path.name != LOCK]


def test_killed_at_every_kind_of_moment(words, uninterrupted, tmp_path):
    out = tmp_path / "run"
    words = [*words, "--output_dir", str(out), "--checkpoints_total_limit", "2", *LATEST]

    killed(words, "open", "log.jsonl a", 2)  # stage 1, before the first checkpoint
    assert names(out) == []
    killed(words, "open", "log.jsonl a", 3)  # stage 1, after the node of step 3 was saved and before its checkpoint
    assert names(out) == ["checkpoint-degradation-2"] and names(out, "degradation/*.safetensors")[-1:] == [
        "000003.safetensors"
    ]
    killed(words, "os.rename", r"\.checkpoint-degradation-4.*state.json")  # a checkpoint is half-written
    assert names(out, ".checkpoint-*") and names(out) == ["checkpoint-degradation-2"]
    killed(words, "open", "log.jsonl a", 4 + 2)  # stage 2, at its first switch of nodes
    assert names(out) == ["checkpoint-degradation-4", "checkpoint-degradation-6"]
    killed(words, "os.rename", "run/checkpoint-4$")  # a checkpoint is written, but does not have its name yet
    assert names(out) == ["checkpoint-2", "checkpoint-degradation-6"]
    killed(words, "shutil.rmtree", "run/checkpoint-2$")  # an old checkpoint is half-removed, 6 was saved
    assert names(out) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert not (out / "checkpoint-2" / "state.json").exists()
    killed(words, "os.rename", "disback_config.json")  # the result is half-written
    assert (out / "pytorch_lora_weights.safetensors").exists() and not (out / "disback_config.json").exists()
    finish(words)

    assert differences(result(out), result(uninterrupted)) == []
    assert [(line["stage"], line["step"]) for line in log(out)] == [
        *[("degradation", step) for step in range(1, 7)],
        *[("backtracking", step) for step in range(1, 9)],
    ]
    assert names(out) == ["checkpoint-6", "checkpoint-8"] and leftovers(out) == []


def test_killed_again_while_a_node_is_recorded_anew(words, uninterrupted, tmp_path):
    """After the first kill the manifest has a node that the checkpoint has not; the second comes in between."""
    words = [*words, "--output_dir", str(tmp_path / "run")]
    killed(words, "open", "log.jsonl a", 4)  # node 2 is of step 3, the checkpoint of step 2
    killed([*words, *LATEST], "open", "000003.safetensors r", 2)  # the first time it is checked, then it is new
    finish([*words, *LATEST])
    assert differences(result(tmp_path / "run"), result(uninterrupted)) == []


def test_a_full_student_with_accumulation_a_schedule_guidance_and_cached_embeddings(words, tmp_path):
    settings = ("--student full --gradient_accumulation_steps 2 --train_batch_size 1 --lr_scheduler cosine "
                "--lr_warmup_steps 2 --cache_text_embeddings disk --fake_score_updates_per_step 2 "
                "--guidance_scale 2").split()  # fmt: skip
    whole, out = [*words, *settings, "--output_dir", str(tmp_path / "whole")], tmp_path / "run"
    finish(whole)
    words = [*words, *settings, "--output_dir", str(out), *LATEST]
    killed(words, "open", "log.jsonl a", 3)
    killed(words, "open", "log.jsonl a", 4 + 5)
    killed(words, "os.rename", "run/unet$")
    finish(words)
    assert differences(result(out), result(tmp_path / "whole")) == [] and leftovers(out) == []
    assert any(name.startswith("unet/") for name in result(out))


def test_a_node_is_taken_up_in_the_middle_of_its_stay_on_a_given_path(words, uninterrupted, tmp_path):
    settings = f"--steps_per_node 5 --max_train_steps 12 --checkpointing_steps 3 --degradation_path {uninterrupted}"
    words = [*words, *settings.split()]
    finish([*words, "--output_dir", str(tmp_path / "whole")])
    words = [*words, "--output_dir", str(tmp_path / "run"), *LATEST]
    killed(words, "open", "log.jsonl a", 8)
    finish(words)
    assert differences(result(tmp_path / "run"), result(tmp_path / "whole")) == []
    assert [line["node"] for line in log(tmp_path / "whole")] == [2] * 5 + [1] * 5 + [0] * 2


def test_ctrl_c_and_sigterm_save_a_checkpoint_and_say_how_to_go_on(words, uninterrupted, tmp_path):
    out = tmp_path / "run"
    words = [*words, "--output_dir", str(out)]
    early = Trap("os.rename", "arguments.yaml", signal=signal.SIGINT)
    first = Trap("open", "log.jsonl a", 3, signal.SIGINT)  # takes effect at the end of step 4 ...
    second = Trap(
        "os.rename", r"\.checkpoint-degradation-4.*state.json", signal=signal.SIGINT
    )  # ... unless there is this
    later = Trap("open", "log.jsonl a", 2, signal.SIGINT)
    term = Trap("open", "log.jsonl a", 1 + 4, signal.SIGTERM)
    stops = [([early], "Stopped at once", []),
             ([first, second], "Stopped at once", ["checkpoint-degradation-2"]),
             ([later], "degradation step 5", [f"checkpoint-degradation-{step}" for step in (2, 4, 5)]),
             ([term], "backtracking step 5", [f"checkpoint-{step}" for step in (2, 4, 5)])]  # fmt: skip
    for traps, expected, checkpoints in stops:
        run = start([*words, *LATEST], *traps)
        assert run.wait() == 130, run.output
        (line,) = run.messages
        assert expected in line and "--resume_from_checkpoint latest" in line and "Traceback" not in run.output
        assert names(out)[: len(checkpoints)] == checkpoints and leftovers(out) == []
    finish([*words, *LATEST])
    assert differences(result(out), result(uninterrupted)) == []


def test_a_checkpoint_of_version_0_1_is_resumed(words, uninterrupted, tmp_path):
    """Which named the optimizers' files after learners, and did not record the length of a stay."""
    out = tmp_path / "run"
    words = [*words, "--output_dir", str(out), *LATEST]
    for nth, checkpoint in ((5, "checkpoint-degradation-4"), (2 + 5, "checkpoint-4")):  # in either stage
        killed(words, "open", "log.jsonl a", nth)
        files = sorted((out / checkpoint).glob("optimizer_*.pt"))
        assert len(files) == (1 if "degradation" in checkpoint else 2)
        for file in files:
            file.rename(file.with_name(file.name.replace("optimizer_", "learner_")))
        state = json.loads((out / checkpoint / "state.json").read_text())
        state.get("switch", {}).pop("steps_per_node", None)
        (out / checkpoint / "state.json").write_text(json.dumps(state))
    finish(words)
    assert differences(result(out), result(uninterrupted)) == []


def test_resuming_a_finished_run_changes_nothing(words, uninterrupted):
    before = result(uninterrupted)
    finish([*words, "--output_dir", str(uninterrupted), *LATEST])
    assert differences(result(uninterrupted), before) == []


def test_accelerate_launch(words, uninterrupted, tmp_path):
    launch([*words, "--output_dir", str(tmp_path / "run")], "--num_processes", "1", "--cpu")
    assert differences(result(tmp_path / "run"), result(uninterrupted)) == []


def test_accelerate_launch_of_two_processes(words, uninterrupted, tmp_path):
    words = [*words, "--train_batch_size", "1", "--output_dir"]
    launch([*words, str(tmp_path / "whole")], *TWO_PROCESSES)
    words = [*words, str(tmp_path / "run"), *LATEST]
    main, other = start_pair(words, Trap("open", "log.jsonl a", 3, signal.SIGTERM))  # one gets it, both stop
    assert (main.wait(), other.wait()) == (130, 130), main.output + other.output
    assert "degradation step 4" in main.messages[0] and other.messages == []
    main, other = start_pair(words, Trap("open", "log.jsonl a", 2 + 5))
    assert main.wait() == -signal.SIGKILL, main.output
    other.process.kill()
    for run in start_pair(words):
        assert run.wait() == 0, run.output
    ours = result(tmp_path / "run")
    assert differences(ours, result(tmp_path / "whole")) == [] and ours["state"]["processes"] == 2
    name = next(name for name in ours if name.startswith("pytorch_lora_weights"))
    assert name in differences(ours, result(uninterrupted))  # one process of twice the batch has other noise
    alone = start(words)
    assert alone.wait() == 2 and "processes" in alone.messages[0]


def _average(environment, pipe):
    """In one of two processes: what two parameters and their gradients are before and after a step."""
    os.environ.update({"ACCELERATE_USE_CPU": "true", **environment})
    parallel.BUCKET = 4  # elements, so that there are two buckets
    processes, rank = parallel.Replicated(Accelerator()), int(environment["RANK"])
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((3,), (2, 2), (1,))]
    optimizer = RoleOptimizer(parameters, 0.1, OptimizationArguments(), processes)
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, float(10**rank * (i + 1)))
    processes.average_gradients(parameters)
    gradients = [parameter.grad.clone() for parameter in parameters]
    optimizer.step()
    pipe.send([[tensor.detach().numpy() for tensor in tensors] for tensors in (gradients, parameters)])


def test_gradients_are_averaged_over_processes():
    context = forkserver()
    pipes = []
    for environment in pair_environments():
        reader, writer = context.Pipe(duplex=False)
        context.Process(target=_average, args=(environment, writer)).start()
        pipes.append(reader)
        writer.close()
    (gradients, parameters), (other_gradients, other_parameters) = [pipe.recv() for pipe in pipes]
    for i, values in enumerate(gradients):
        assert (values == 5.5 * (i + 1)).all()  # the mean of 1 and 10
    for ours, theirs in zip(gradients + parameters, other_gradients + other_parameters, strict=True):
        assert (ours == theirs).all()
    assert all((values < 1).all() for values in parameters)
