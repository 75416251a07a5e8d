# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Roles on one frozen base: nothing leaks from one to another, into the base, or through a file."""

from contextlib import nullcontext

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_models import build_sd_unet
from tiny_roles import TARGETS, build, equal, run, snapshot

from disback_diffusers import RunError, UsageError
from disback_diffusers.models.lora_targets import ALL_TARGETS
from disback_diffusers.models.roles import Roles


def loss(roles, seed=0):
    return run(roles, seed).square().mean()


def gradients(roles, name):
    return [p.grad for p in roles.parameters(name)]


def base_state(roles):
    return {k: v.clone() for k, v in roles.network.state_dict().items() if ".lora_" not in k}


# ---------------------------------------------------------------------------------------------------------------------
# Switching


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_leaves_the_teacher_bitwise_unchanged(checkpointing):
    bare = build_sd_unet()
    with torch.no_grad():
        expected = run(bare)
    roles = build("student", "fake")
    if checkpointing:
        roles.enable_gradient_checkpointing()
    base, before = base_state(roles), {name: snapshot(roles, name) for name in roles.names}
    optimizers = {name: torch.optim.AdamW(roles.parameters(name), lr=0.1) for name in roles.names}
    for step in range(2):
        for name, optimizer in optimizers.items():
            with roles(name):
                loss(roles, seed=step).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad(), roles():
                assert torch.equal(run(roles), expected)
    assert equal(base_state(roles), base)
    assert all(not equal(snapshot(roles, name), before[name]) for name in roles.names)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_backward_reaches_all_of_its_role_and_nothing_else(checkpointing):
    roles = build("student", "target", "fake")
    if checkpointing:
        roles.enable_gradient_checkpointing()
    for name in roles.names:
        with roles(name):
            loss(roles).backward()
        for key, parameter in roles.named_parameters(name):
            assert parameter.grad is not None and parameter.grad.any(), key
        ours = {id(p) for p in roles.parameters(name)}
        assert [key for key, p in roles.network.named_parameters() if id(p) not in ours and p.grad is not None] == []
        roles.network.zero_grad()


@pytest.mark.slow
@pytest.mark.parametrize(
    "enabled_by, left_active",
    [
        ("roles", ()),
        ("roles", ("fake",)),
        ("roles", ("student", "fake")),
        ("unet", ("fake",)),
        ("unet before", ("fake",)),
    ],
)
def test_recomputation_runs_the_role_of_its_forward(enabled_by, left_active):
    expected = build("student", "fake")
    with expected("student"):
        loss(expected).backward()

    unet = build_sd_unet()
    if enabled_by == "unet before":
        unet.enable_gradient_checkpointing()
    roles = Roles(unet.train())
    for seed, name in enumerate(("student", "fake")):
        roles.add(name, **TARGETS)
        roles.randomize(name, seed)
    if enabled_by != "unet before":
        {"roles": roles, "unet": unet}[enabled_by].enable_gradient_checkpointing()
    calls = []
    unet.mid_block.resnets[1].register_forward_pre_hook(lambda *_: calls.append(roles.active))
    with roles("student"):
        value = loss(roles)
    roles.use(*left_active)
    value.backward(retain_graph=True)
    assert roles.active == left_active
    assert calls == [("student",)] * 2, "the block was not recomputed, or not as the role of its forward"
    torch.testing.assert_close(gradients(roles, "student"), gradients(expected, "student"))
    assert not any(p.grad is not None for p in roles.parameters("fake"))

    value.backward()  # a second one recomputes a second time
    torch.testing.assert_close(gradients(roles, "student"), [2 * g for g in gradients(expected, "student")])


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("order", [("student", "fake"), ("fake", "student")])
def test_switching_inside_a_graph_loses_nothing(order, checkpointing):
    expected = build("student", "fake")
    for name in expected.names:
        with expected(name):
            loss(expected).backward()

    roles = build("student", "fake")
    if checkpointing:
        roles.enable_gradient_checkpointing()
    losses = {}
    for name in roles.names:
        with roles(name):
            losses[name] = loss(roles)
            with torch.no_grad(), roles():
                run(roles)
    for name in order:
        losses[name].backward()
    for name in roles.names:
        torch.testing.assert_close(gradients(roles, name), gradients(expected, name))


def test_use_and_context():
    teacher_only = Roles(build_sd_unet())
    with teacher_only():
        assert teacher_only.active == () and not any(p.requires_grad for p in teacher_only.network.parameters())
    roles = build("student", "fake")
    assert roles.names == ("student", "fake") and roles.active == ()
    with torch.no_grad():
        outputs = {}
        for names in [(), ("student",), ("fake",), ("student", "fake")]:
            with roles(*names):
                outputs[names] = run(roles)
        assert roles.active == ()
        teacher = run(build_sd_unet())
    assert torch.equal(outputs[()], teacher)
    different = [o.sum().item() for o in outputs.values()]
    assert len(set(different)) == 4

    roles.use("student")
    with pytest.raises(KeyError), roles("fake"), roles():
        raise KeyError
    assert roles.active == ("student",), "an exception must not leave another role active"
    with pytest.raises(ValueError, match="no role 'target', only .*student"):
        roles.use("fake", "target")
    assert roles.active == ("student",)


def test_switching_never_touches_requires_grad():
    roles = build("student", "fake")
    for p in roles.parameters("student")[::2]:
        p.requires_grad_(False)
    flags = [p.requires_grad for p in roles.network.parameters()]
    with roles("fake"), roles(), roles("student", "fake"):
        assert [p.requires_grad for p in roles.network.parameters()] == flags


def test_peft_is_switched_by_its_own_attributes(monkeypatch):
    roles = build("student", "fake")
    layers = [layer for layer in roles.network.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:  # PEFT's own, slow switch writes what we read and, as seen here, what we write
        layer.enable_adapters(True)
        layer.set_adapter("fake")
    assert roles.active == ("fake",) and len(layers) > 50
    for layer in layers:
        layer.enable_adapters(False)
    assert roles.active == ()
    for layer in layers:
        assert vars(layer)["_disable_adapters"] is True and vars(layer)["_active_adapter"] == ["fake"]

    for attribute in ("active_adapters", "disable_adapters"):  # PEFT stores it elsewhere, or drops it
        for replacement in (property(lambda layer: layer.state), property(lambda layer: ["default"])):
            with monkeypatch.context() as patch:
                patch.setattr(BaseTunerLayer, attribute, replacement)
                with pytest.raises(RunError, match=f"peft {peft.__version__} no longer.*_active_adapter"):
                    Roles(build_sd_unet())


# ---------------------------------------------------------------------------------------------------------------------
# Making roles


def test_a_new_role_is_the_teacher_and_disturbs_nobody():
    roles = build("student")
    roles.parameters("student")[0].requires_grad_(False)
    flags = [p.requires_grad for p in roles.parameters("student")]
    with torch.no_grad():
        teacher = run(roles)
        for active, layer in ((("student",), "conv_in"), ((), "conv_out")):
            roles.use(*active)
            expected = run(roles)
            name = f"with_{layer}"
            roles.add(name, rank=2, alpha=2, targets=[layer, *ALL_TARGETS])
            initial = snapshot(roles, name)
            roles.randomize(name, 0)
            assert roles.active == active and torch.equal(run(roles), expected), "the new role is on somewhere"
            roles.load_state_dict(name, initial)
            with roles(name):
                assert torch.equal(run(roles), teacher)
            assert all(p.requires_grad for p in roles.parameters(name))
    assert [p.requires_grad for p in roles.parameters("student")] == flags
    assert not any(p.requires_grad for key, p in roles.network.named_parameters() if ".lora_" not in key)


@pytest.mark.slow
def test_initial_weights_come_from_the_seed_alone():
    states = []
    for global_seed, seed in ((1, 5), (2, 5), (3, 6)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        roles = Roles(build_sd_unet())
        roles.add("fake", **TARGETS, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(snapshot(roles, "fake"))
    assert equal(states[0], states[1]) and not equal(states[0], states[2])
    for key, value in states[0].items():
        bound = value[0].numel() ** -0.5  # PEFT's default: Kaiming uniform A, zero B
        assert not value.any() if ".lora_B." in key else 0.5 * bound < value.abs().max() <= bound, key


def test_copy_reset_and_randomize_work_in_place():
    roles = build("student", "fake")
    roles.add("other", rank=4, alpha=4, targets=ALL_TARGETS)
    objects = [id(p) for p in roles.parameters("fake")]
    first = snapshot(roles, "fake")
    roles.copy("student", "fake")
    assert equal(snapshot(roles, "fake"), snapshot(roles, "student"))
    roles.randomize("fake", 1)
    assert equal(snapshot(roles, "fake"), first) and all(value.any() for value in first.values())
    roles.reset("fake", 0)
    assert equal(snapshot(roles, "fake"), snapshot(roles, "other"))
    assert [id(p) for p in roles.parameters("fake")] == objects
    with pytest.raises(ValueError, match="lora_alpha 4, the role 8"):
        roles.copy("other", "fake")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rank": 0}, "the rank of a LoRA must be at least 1, not 0"),
        ({"alpha": 0}, "the alpha of a LoRA must be positive, not 0"),
        ({"alpha": float("nan")}, "the alpha of a LoRA must be positive, not nan"),
        ({"targets": []}, "name at least one suffix"),
        ({"targets": ["to_q", "to_qq"]}, "'to_qq' is not the end of the name of a linear or convolution layer"),
        ({"targets": ["o_q"]}, "'o_q' is not the end"),
        ({"targets": ["attn1"]}, "'attn1' is not the end .*to_q, to_k, to_v, to_out.0"),
    ],
)
def test_wrong_settings_of_a_lora_are_named(change, words):
    roles = Roles(build_sd_unet())
    with pytest.raises(UsageError, match=words):
        roles.add("fake", **{**TARGETS, **change})
    assert roles.names == () and not any(isinstance(m, BaseTunerLayer) for m in roles.network.modules())


class PlainNetwork(torch.nn.Module):
    """Of no library: a convolution, two linear layers, and nothing of what diffusers adds to its models."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(4, 6, 3, padding=1)
        self.inner = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.SiLU(), torch.nn.Linear(8, 4))

    def forward(self, x):
        return self.inner(self.conv1(x).movedim(1, -1)).movedim(-1, 1)


def test_any_module_carries_roles(tmp_path):
    torch.manual_seed(0)
    roles, x = Roles(PlainNetwork()), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        teacher = roles.network(x)
    for seed, name in enumerate(("student", "fake")):
        roles.add(name, rank=2, alpha=4, targets=["conv1", "inner.0", "inner.2"])
        roles.randomize(name, seed)
    with roles("student"):
        roles.network(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in roles.parameters("student"))
    assert not any(p.grad is not None for p in roles.parameters("fake"))
    roles.save("student", tmp_path / "student.safetensors")
    roles.load("fake", tmp_path / "student.safetensors")
    with torch.no_grad(), roles("student"):
        expected = roles.network(x)
        with roles("fake"):
            assert torch.equal(roles.network(x), expected) and not torch.equal(expected, teacher)
        with roles():
            assert torch.equal(roles.network(x), teacher)
    with pytest.raises(UsageError, match="PlainNetwork has no gradient checkpointing"):
        roles.enable_gradient_checkpointing()
    with pytest.raises(UsageError, match="'to_q' is not the end .* for example conv1, inner.0, inner.2"):
        roles.add("other", rank=2, alpha=4, targets=["to_q"])


def test_names_and_bases_that_are_refused():
    roles = build("fake")
    for name in ("fake", "a.b", "0", ""):
        with pytest.raises(ValueError, match="no free role name"):
            roles.add(name, **TARGETS)
    with pytest.raises(ValueError, match="already carries"):
        Roles(roles.network)
    for call in (roles.parameters, roles.state_dict, roles.lora_config, lambda name: roles.reset(name, 0)):
        with pytest.raises(ValueError, match="no role 'student'"):
            call("student")


@pytest.mark.parametrize("autocast", [False, True])
def test_float32_roles_train_in_a_bfloat16_base(autocast):
    roles = build("student", "fake", dtype=torch.bfloat16)
    before = {name: snapshot(roles, name) for name in roles.names}
    optimizers = {name: torch.optim.Adam(roles.parameters(name), lr=1e-5) for name in roles.names}
    for name, optimizer in optimizers.items():
        with roles(name), torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            output = run(roles, dtype=torch.bfloat16)
        assert output.dtype == torch.bfloat16 and output.isfinite().all()
        output.float().square().mean().backward()
        optimizer.step()
    for name in roles.names:
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in roles.parameters(name))
        moved = [not torch.equal(before[name][key], p) for key, p in roles.named_parameters(name)]
        assert all(moved), "a step that bfloat16 would round away must not be lost"
    assert {value.dtype for value in base_state(roles).values()} == {torch.bfloat16}
