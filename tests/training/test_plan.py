# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What --dry_run computes, against a run's own tensors."""

from pathlib import Path

import pytest
import torch
from real_images import save_folder
from safetensors.torch import load_file
from tiny_students import lora_student, save_peft

from disback_diffusers.training.activations import saved_bytes
from disback_diffusers.training.path import DegradationPath, Node
from disback_diffusers.training.plan import Plan
from disback_diffusers.training.sources import open_sources


class Chain(torch.nn.Module):
    """Three linear layers of 8 on (n, 8): each keeps its input for its weight's gradient, 4 n 8 bytes."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))

    def forward(self, x):
        return self.layers(x)


def test_saved_bytes_are_those_of_autograd():
    with torch.device("meta"):
        chain, x = Chain(), torch.zeros(5, 8)
        assert saved_bytes(chain, lambda: chain(x)) == (3 * 5 * 8 * 4, 0)  # weights are there anyway: not counted
        chain.layers[0].requires_grad_(False)
        assert saved_bytes(chain, lambda: chain(x)) == (2 * 5 * 8 * 4, 0)


class Fork(torch.nn.Module):
    """Two layers on one input, which both keep."""

    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.left(x) + self.right(x)


def test_what_two_layers_keep_counts_once():
    with torch.device("meta"):
        fork, x = Fork(), torch.zeros(5, 8)
        assert saved_bytes(fork, lambda: fork(x)) == (5 * 8 * 4, 0)


@pytest.fixture
def make_plan(make_args):
    """A function from settings to a `Plan`."""

    def make(dtype=torch.float32, **settings):
        args = make_args(**settings)
        return Plan(args, open_sources(args), dtype)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lora", "full", "small"])
def test_parameters_and_weights_are_those_of_a_run(make_context, small_unet, student):
    settings = {"student": "full", "student_unet": str(small_unet)} if student == "small" else {"student": student}
    context = make_context(**settings)
    plan = Plan(context.args, context.sources, torch.float32)
    rows, sizes = dict(plan.rows()), plan.weights()
    lora = sum(parameter.numel() for parameter in context.roles.parameters("fake"))
    own = 0 if student == "lora" else sum(parameter.numel() for parameter in context.student.parameters())
    base = sum(parameter.numel() for parameter in context.family.load_network().parameters())
    assert (plan.base, plan.lora, plan.own) == (base, lora, own)
    assert f"{base / 1e6:,.1f} M" in rows["teacher"] and f"{lora / 1e6:,.1f} M" in rows["adapters"]
    together = sum(parameter.numel() for parameter in context.roles.network.parameters())
    assert sizes["base, frozen"] + sizes["adapters"] == 4 * together
    assert sizes["student's own network"] == 4 * own
    assert sizes["moving average"] == 4 * sum(value.numel() for value in context.student.ema.shadow_params)
    trained = sum(parameter.numel() for parameter in context.student.parameters()) + lora
    assert sizes["gradients"] == 4 * trained and sizes["optimizers"] == 8 * trained
    half = Plan(context.args, context.sources, torch.bfloat16).weights()
    assert half["its copy in lower precision"] == 2 * own  # as autocast makes
    assert half["base, frozen"] == 2 * base and half["student's own network"] == 4 * own
    assert half["adapters"] == sizes["adapters"] and half["optimizers"] == sizes["optimizers"]


@pytest.mark.slow
def test_an_lcm_lora_has_its_own_rank(make_plan, make_context, sd_folder, tmp_path):
    settings = {"lcm_lora": str(save_peft(tmp_path / "lcm", lora_student(sd_folder))), "lora_rank": 32}
    plan, context = make_plan(**settings), make_context(**settings)
    count = {name: sum(p.numel() for p in context.roles.parameters(name)) for name in ("fake", "student")}
    together = sum(parameter.numel() for parameter in context.roles.network.parameters())
    assert (plan.adapters["student"], plan.adapters["fake"]) == (count["student"], count["fake"])
    sizes, rows = plan.weights(), [text for name, text in plan.rows() if name == "adapters"]
    assert sizes["base, frozen"] + sizes["adapters"] == 4 * together
    assert (sizes["moving average"], sizes["gradients"]) == (4 * count["student"], 4 * sum(count.values()))
    assert rows[0].startswith("target, fake: rank 32, ") and rows[1].startswith("student: rank ")


@pytest.mark.slow
def test_an_sgd_keeps_no_moments(make_plan):
    both, fake = (make_plan(optimizer=kind).weights()["optimizers"] for kind in ("adam", "sgd"))
    plan = make_plan(optimizer="sgd", fake_score_optimizer="sgd")
    assert both == 2 * fake == 16 * plan.lora and plan.weights()["optimizers"] == 0


def test_a_smaller_student_keeps_less(make_plan, small_unet):
    large = make_plan(student="full").activations()["activations"]
    small = make_plan(student="full", student_unet=str(small_unet)).activations()["activations"]
    assert 0 < small < large


@pytest.mark.slow
def test_text_encoders_count_where_they_stay(make_plan, sd_folder, sdxl_folder):
    for folder, parts in ((sd_folder, ["text_encoder"]), (sdxl_folder, ["text_encoder", "text_encoder_2"])):
        size = sum(
            value.numel() for part in parts for value in load_file(folder / part / "model.safetensors").values()
        )
        for dtype in (torch.float32, torch.bfloat16):
            plan = make_plan(dtype, pretrained_teacher_model=str(folder), cache_text_embeddings="off")
            assert plan.family.count_encoder_parameters() == size
            assert plan.weights()["text encoders"] == size * dtype.itemsize
        plan = make_plan(pretrained_teacher_model=str(folder), cache_text_embeddings="memory")
        assert "text encoders" not in plan.weights()


@pytest.mark.slow
def test_activations_grow_and_shrink_as_they_should(make_plan, sd_folder, sdxl_folder):
    for folder in (sd_folder, sdxl_folder):

        def peak(folder=folder, **settings):
            settings = {"resolution": ["32"], "train_batch_size": 1, **settings}
            return make_plan(pretrained_teacher_model=str(folder), **settings).activations()["activations"]

        one = peak()
        assert peak(train_batch_size=2) == pytest.approx(2 * one, rel=0.05)
        assert peak(resolution=["32", "64x32"]) == peak(resolution=["64x32"]) > 1.8 * one
        assert peak(gradient_checkpointing=True) < 0.7 * one
        assert peak(student="full") != one  # a LoRA keeps its own intermediate results


@pytest.mark.slow
def test_the_work_of_a_run(make_plan):
    def work(**settings):
        rows = dict(make_plan(**settings).rows())
        return rows.get("stage 1", "").split(", ")[:2], rows["stage 2"]

    updates = "8 updates of 5 forwards of the network a sample"
    assert work() == (["8 updates", "3 nodes"], f"{updates}, 2 x 2 of them at nodes of the path")
    assert work(no_backtracking=True) == ([""], updates)
    assert work(no_backtracking=True, fake_score_init="fit") == (["8 updates", "1 node"], updates)
    may_walk = f"{updates}, up to 2 x 2 of them at nodes of the path"  # what decides is measured later
    assert work(node_switching="adaptive") == (["8 updates", "3 nodes"], may_walk)
    assert "of 7 forwards" in work(guidance_scale=2.0, fake_guidance_scale=1.5)[1]
    assert "of 9 forwards" in work(fake_score_updates_per_step=3)[1]


@pytest.mark.parametrize("switching, walked", [("fixed", ", 3 x 2 of them at nodes of the path"), ("adaptive", "")])
def test_a_given_path_is_reused(make_args, switching, walked):
    args = make_args(node_switching=switching)
    sources = open_sources(args)
    sources.path = DegradationPath(Path("p"), "base", nodes=[Node(step) for step in range(5)])
    rows = dict(Plan(args, sources, torch.float32).rows())
    assert rows["stage 1"].startswith("reused from p, 4 nodes, ")
    assert rows["stage 2"] == f"8 updates of 5 forwards of the network a sample{walked}"


def test_the_verdict_without_a_gpu(make_plan):
    rows = make_plan().rows()
    assert rows[-1][0] == "GPU" and "computed, not measured" in rows[-2][1]


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, {"stage 2": "8 updates of 5 forwards", "student": "lora, timestep 399"}),
        (
            {"student_steps": 4},
            {"stage 2": "8 updates of 6.5 forwards", "student": "lora, 4 steps at 399,299,199,99"},
        ),
        ({"objective": "sid", "fake_score_updates_per_step": 3}, {"stage 2": "8 updates of 11 forwards"}),
        (
            {"objective": "dmd_regression", "teacher_pairs": 2000, "warmup_pairs": 300},
            {
                "stage 2": "8 updates of 7 forwards",
                "pairs": "2,000 of the teacher, in 25 steps",
                "warm-up": "300 updates of the student by regression on pairs",
            },
        ),
    ],
)
def test_what_an_update_costs(make_plan, settings, expected):
    rows = dict(make_plan(**settings).rows())
    assert {name: text for name, text in expected.items() if not rows[name].startswith(text)} == {}
    assert ("pairs" in rows) == ("pairs" in expected)


def test_a_discriminator_costs_half_forwards(make_plan, tmp_path):
    settings = {"objective": "gan", "real_images": save_folder(tmp_path / "real"), "fake_score_updates_per_step": 2}
    assert "8 updates of 10 forwards" in dict(make_plan(**settings).rows())["stage 2"]
