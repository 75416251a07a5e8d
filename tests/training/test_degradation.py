# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import json
from pathlib import Path

import pytest
import torch
from stepping import steps
from tiny_models import save_sd

from disback_diffusers import DegradationPath
from disback_diffusers.errors import UsageError
from disback_diffusers.training.degradation import DegradationRecording
from disback_diffusers.training.path import node_steps


def record(context, folder, nodes=3, n=None):
    path = DegradationPath(Path(folder), context.roles.fingerprint)
    stage = DegradationRecording(context, path, nodes)
    history = steps(stage, n or stage.total_steps)
    stage.finish()
    return path, stage, history


def test_target_learns_the_untrained_student_and_nodes_keep_it(make_context, tmp_path):
    context = make_context(degradation_steps=30, train_batch_size=8, degradation_learning_rate=3e-3)
    path, stage, history = record(context, tmp_path / "path")
    losses = [node.student_loss for node in path.nodes]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]
    assert history[-1]["loss_target"] < history[0]["loss_target"]
    # what the last file holds is what the manifest measured
    fresh = make_context(degradation_steps=30, train_batch_size=8)
    loaded = DegradationPath.load(tmp_path / "path", base=fresh.roles)
    loaded.load_into(fresh.roles, 3)
    probe = DegradationRecording(fresh, loaded, 3).probe("target")
    assert probe["student_loss"] == pytest.approx(losses[-1], rel=1e-5)


def test_the_error_is_that_of_the_noise_whatever_the_teacher_predicts(make_context, tmp_path):
    """An error of v is alpha times as large an error of the noise."""
    teacher = save_sd(tmp_path / "teacher", prediction_type="v_prediction")
    context = make_context(pretrained_teacher_model=str(teacher))
    stage = DegradationRecording(context, DegradationPath(tmp_path / "path", context.roles.fingerprint), 3)
    probed, expected = stage.probe(role=None), []
    conditioning, epsilon, times, samples = stage._probes
    for t in times:
        alpha, sigma = context.teacher.schedule.alpha_sigma(t, epsilon)
        x0 = samples["student"]
        with torch.no_grad():
            v = stage.forward(None, alpha * x0 + sigma * epsilon, t, conditioning)
        expected.append((alpha * (v - (alpha * epsilon - sigma * x0))).square().mean())
    assert probed["student_loss"] == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_the_embedded_teacher_leaves_its_own_samples_for_the_student_s(make_context, tmp_path):
    settings = {"degradation_steps": 12, "train_batch_size": 8, "degradation_learning_rate": 1e-3, "lora_rank": 16}
    path, _, _ = record(make_context(pretrained_teacher_model="embedded", **settings), tmp_path / "path", nodes=1)
    teacher, student = path.nodes
    assert student.student_loss < 0.9 * teacher.student_loss and student.teacher_loss > 1.01 * teacher.teacher_loss


class OddStudent:
    """Makes samples by one function and denoises by another."""

    timestep = 399

    def __init__(self, sample, denoise):
        self.sample, self.denoise = sample, denoise

    def __call__(self, noise, conditioning):
        return self.sample(noise, conditioning)


@pytest.fixture
def untrained(make_context, tmp_path, small_unet):
    """A function from the two functions of an `OddStudent` to what the path keeps of how it started."""
    context = make_context(student="full", student_unet=str(small_unet))
    path = DegradationPath(tmp_path / "path", context.roles.fingerprint)
    stage = DegradationRecording(context, path, 1)

    def start(sample=lambda noise, conditioning: noise, denoise=lambda x_t, t, conditioning: x_t):
        stage.student = OddStudent(sample, denoise)
        stage.start()
        assert DegradationPath.load(tmp_path / "path").untrained == path.untrained
        return path.untrained

    start.context = context
    return start


def test_variations_are_those_of_one_prompt_over_the_noise(untrained):
    values = untrained(sample=lambda noise, conditioning: 3 * noise)
    assert values["variation"] == pytest.approx(3, rel=0.1) and values["teacher_variation"] > 0

    def of_the_prompt(noise, conditioning):
        return conditioning.hidden_states[:, :, :1, None].sum(1, True) + 0 * noise

    assert untrained(sample=of_the_prompt)["variation"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_error_of_the_untrained_student_is_a_share_of_that_of_an_answer_of_zero(untrained, share):
    schedule, batches = untrained.context.teacher.schedule, untrained.context.batches
    epsilon = batches.draw("untrained", 1, samples=16).epsilon

    def answers_a_share_of_the_noise(x_t, t, conditioning):
        assert (t == 399).all()
        return schedule.to_x0(share * epsilon, x_t, t)

    values = untrained(denoise=answers_a_share_of_the_noise)
    assert values["error"] == pytest.approx((1 - share) ** 2, rel=1e-3)


def test_how_it_started_is_left_out_where_it_decides_nothing(make_context, tmp_path):
    path, _, _ = record(make_context(student="full"), tmp_path / "path", n=1)
    assert path.untrained is None


def test_the_loss_of_a_node_is_the_mean_since_the_one_before(make_context, tmp_path):
    path, _, history = record(make_context(), tmp_path / "path")
    losses = [metrics["loss_target"] for metrics in history]
    for before, node in zip(path.nodes, path.nodes[1:]):
        since = losses[before.step : node.step]
        assert node.loss == pytest.approx(sum(since) / len(since))


def test_only_the_target_is_trained(make_context, tmp_path):
    context = make_context()
    before = {name: {k: v.clone() for k, v in context.roles.state_dict(name).items()} for name in context.roles.names}
    base = {k: v.clone() for k, v in context.roles.unet.state_dict().items() if ".lora_" not in k}
    record(context, tmp_path / "path")
    for name in ("fake", "student"):
        assert all(torch.equal(v, before[name][k]) for k, v in context.roles.state_dict(name).items())
        assert all(parameter.grad is None for parameter in context.roles.parameters(name))
    assert not all(torch.equal(v, before["target"][k]) for k, v in context.roles.state_dict("target").items())
    after = context.roles.unet.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in base.items())


def test_prompts_are_emptied_for_the_target_and_not_for_the_student(make_context, tmp_path):
    context, seen = make_context(proportion_empty_prompts=0.999), {}
    path = DegradationPath(tmp_path / "path", context.roles.fingerprint)
    stage = DegradationRecording(context, path, 1)
    stage.start()

    def watch(module, args, kwargs):
        seen[context.roles.active] = {row.sum().item() for row in kwargs["encoder_hidden_states"]}

    context.roles.unet.register_forward_pre_hook(watch, with_kwargs=True)
    stage.train_step(1)
    empty = context.batches.bank.empty.hidden_states.sum().item()
    assert seen[("target",)] == {empty} and empty not in seen[("student",)]


def test_manifest_and_loading(make_context, tmp_path):
    context = make_context()
    path, stage, history = record(context, tmp_path / "path")
    manifest = json.loads((tmp_path / "path" / "manifest.json").read_text())
    assert [node["step"] for node in manifest["nodes"]] == [0, 2, 4, 8] and manifest["complete"]
    assert manifest["nodes"][1]["loss"] == pytest.approx(sum(h["loss_target"] for h in history[:2]) / 2)
    assert (tmp_path / "path" / "path.png").stat().st_size > 5000
    loaded = DegradationPath.load(tmp_path / "path", base=context.roles)
    assert len(loaded) == 4 and loaded.nodes[0].file is None and loaded.nodes == path.nodes
    last = {k: v.clone() for k, v in context.roles.state_dict("target").items()}
    loaded.load_into(context.roles, 1)
    assert not all(torch.equal(v, last[k]) for k, v in context.roles.state_dict("target").items())
    loaded.load_into(context.roles, 3)
    assert all(torch.equal(v, last[k]) for k, v in context.roles.state_dict("target").items())
    loaded.load_into(context.roles, 0)  # the teacher: no change to any output
    assert all(not v.any() for k, v in context.roles.state_dict("target").items() if "lora_B" in k)


@pytest.mark.parametrize("damage", ["missing", "changed", "other base", "no manifest", "broken manifest"])
def test_a_damaged_path_is_refused_by_name(make_context, tmp_path, damage):
    context = make_context(degradation_steps=2, degradation_nodes=1)
    path, _, _ = record(context, tmp_path / "path", nodes=1)
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
