# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import json

import pytest
import torch
from stepping import recording, steps

from disback_diffusers import DegradationPath
from disback_diffusers.errors import UsageError
from disback_diffusers.training.path import node_steps
from disback_diffusers.training.path_probe import PathProbe


ALL_LAYERS = {"lora_target_modules": ["all"]}  # a teacher is led far by them only


def record(context, folder, nodes=None):
    """(path, metrics of each step) of a whole stage 1."""
    stage = recording(context, folder, nodes)
    history = steps(stage, stage.total_steps)
    stage.finish()
    return stage.path, history


def snapshot(state_dict):
    return {key: value.clone() for key, value in state_dict.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_target_learns_the_untrained_student_and_nodes_keep_it(make_context, tmp_path):
    context = make_context(degradation_steps=30, train_batch_size=8, degradation_learning_rate=3e-3, **ALL_LAYERS)
    path, history = record(context, tmp_path / "path")
    losses = [node.student_loss for node in path.nodes]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]
    assert history[-1]["loss_target"] < history[0]["loss_target"]
    # what the last file holds is what the manifest measured
    fresh = make_context(degradation_steps=30, train_batch_size=8, **ALL_LAYERS)
    loaded = DegradationPath.load(tmp_path / "path", base=fresh.roles)
    loaded.load_into(fresh.roles, 3)
    measured = PathProbe(*fresh.parts)(fresh.networks.target)
    assert measured["student_loss"] == pytest.approx(losses[-1], rel=1e-5)


@pytest.mark.slow
def test_the_embedded_teacher_leaves_its_own_samples_for_the_student_s(make_context, tmp_path):
    settings = {"degradation_steps": 12, "train_batch_size": 8, "degradation_learning_rate": 1e-3, "lora_rank": 16}
    settings |= ALL_LAYERS
    path, _ = record(make_context(pretrained_teacher_model="embedded", **settings), tmp_path / "path", nodes=1)
    teacher, student = path.nodes
    assert student.student_loss < 0.9 * teacher.student_loss and student.teacher_loss > 1.01 * teacher.teacher_loss


@pytest.mark.slow
def test_the_loss_of_a_node_is_the_mean_since_the_one_before(make_context, tmp_path):
    path, history = record(make_context(), tmp_path / "path")
    losses = [metrics["loss_target"] for metrics in history]
    for before, node in zip(path.nodes, path.nodes[1:]):
        since = losses[before.step : node.step]
        assert node.loss == pytest.approx(sum(since) / len(since))


def test_a_stage_waits_for_the_metrics_of_its_nodes_alone(make_context, tmp_path):
    stage = recording(make_context(), tmp_path / "path")
    assert [step for step in range(1, 9) if stage.waits_for(step)] == [2, 4, 8]


def test_only_the_target_is_trained(make_context, tmp_path):
    context = make_context()
    roles = context.roles
    before = {name: snapshot(roles.state_dict(name)) for name in roles.names}
    base = snapshot({key: value for key, value in roles.network.state_dict().items() if ".lora_" not in key})
    record(context, tmp_path / "path")
    for name in ("fake", "student"):
        assert same(roles.state_dict(name), before[name])
        assert all(parameter.grad is None for parameter in roles.parameters(name))
    assert not same(roles.state_dict("target"), before["target"])
    after = roles.network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in base.items())


def test_prompts_are_emptied_for_the_target_and_not_for_the_student(make_context, tmp_path):
    context, seen = make_context(proportion_empty_prompts=0.999), {}
    stage = recording(context, tmp_path / "path", nodes=1)
    stage.start()

    def watch(module, args, kwargs):
        seen[context.roles.active] = {row.sum().item() for row in kwargs["encoder_hidden_states"]}

    context.roles.network.register_forward_pre_hook(watch, with_kwargs=True)
    stage.train_step(1)
    empty = context.batches.bank.empty.tensors["text"].sum().item()
    assert seen[("target",)] == {empty} and empty not in seen[("student",)]


def test_manifest_and_loading(make_context, tmp_path):
    context = make_context()
    roles = context.roles
    path, history = record(context, tmp_path / "path")
    manifest = json.loads((tmp_path / "path" / "manifest.json").read_text())
    assert [node["step"] for node in manifest["nodes"]] == [0, 2, 4, 8] and manifest["complete"]
    expected = sum(metrics["loss_target"] for metrics in history[:2]) / 2
    assert manifest["nodes"][1]["loss"] == pytest.approx(expected)
    assert (tmp_path / "path" / "path.png").stat().st_size > 5000
    loaded = DegradationPath.load(tmp_path / "path", base=roles)
    assert len(loaded) == 4 and loaded.nodes[0].file is None and loaded.nodes == path.nodes
    last = snapshot(roles.state_dict("target"))
    loaded.load_into(roles, 1)
    assert not same(roles.state_dict("target"), last)
    loaded.load_into(roles, 3)
    assert same(roles.state_dict("target"), last)
    loaded.load_into(roles, 0)  # the teacher: no change to any output
    assert all(not value.any() for key, value in roles.state_dict("target").items() if "lora_B" in key)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "changed", "other base", "no manifest", "broken manifest"])
def test_a_damaged_path_is_refused_by_name(make_context, tmp_path, damage):
    context = make_context(degradation_steps=2, degradation_nodes=1)
    path, _ = record(context, tmp_path / "path")
    file = tmp_path / "path" / path.nodes[1].file
    expected, base = file.name, context.roles
    if damage == "missing":
        file.unlink()
    elif damage == "changed":
        file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    elif damage == "other base":
        base, expected = "0" * 64, "another base"
    else:
        manifest = tmp_path / "path" / "manifest.json"
        manifest.unlink() if damage == "no manifest" else manifest.write_text('{"format": 1')
        expected = "manifest.json"
    with pytest.raises(UsageError, match=expected):
        DegradationPath.load(tmp_path / "path", base=base)


def test_node_steps():
    assert node_steps(200, 7, "geometric") == [3, 6, 12, 25, 50, 100, 200]
    assert node_steps(200, 4, "uniform") == [50, 100, 150, 200]  # App. B.2
    for spacing in ("geometric", "uniform"):
        for steps_, nodes in ((1, 1), (5, 5), (10, 7), (1000, 10), (7, 6)):
            found = node_steps(steps_, nodes, spacing)
            assert len(found) == nodes and found[-1] == steps_ and found[0] >= 1
            assert found == sorted(set(found))
