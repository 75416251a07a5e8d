# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The objectives beside distribution matching, against the same mathematics written out."""

import pytest
import torch
from diffusers import AutoencoderKL
from real_images import save_folder
from stepping import backtracking, steps
from torch.nn.functional import softplus

from disback_diffusers.training.objectives import OBJECTIVES
from disback_diffusers.training.pairs import TeacherPairs
from disback_diffusers.training.settings import FEW_STEPS


@pytest.fixture
def make(make_context, tmp_path):
    """A function from settings to the context and the objective of a run whose scores are none of them the teacher."""
    folder = save_folder(tmp_path / "real")

    def build(objective, **settings):
        if objective in ("gan", "fdiv", "guidance"):
            settings = {"real_images": folder, **settings}
        settings = {"guidance_scale": 2.5, "guidance_max_timestep": 999, **settings}
        context = make_context(objective=objective, train_batch_size=3, **settings)
        for seed, role in enumerate(context.roles.names[1:]):
            context.roles.randomize(role, seed=seed)
        made = OBJECTIVES[objective](context.student, context.networks.fake, context.args.objective)
        made.target = context.networks.teacher
        for module in made.modules.values():  # so that each of its losses matters
            module.layers[-1].weight.data *= 50
        return context, made

    return build


def written_out(context, batch):
    """x0 of the student, x_t, and the estimates of the fake score and of the guided teacher, with gradients to x0."""
    schedule, networks, scale = context.family.schedule, context.networks, context.args.objective.guidance_scale
    x0 = context.student.training_samples(batch)
    samples = x0.detach().requires_grad_(True)
    alpha, sigma = schedule.alpha_sigma(batch.t, samples)
    x_t = alpha * samples + sigma * batch.noise
    fake, given, empty = (
        (x_t - sigma * denoiser.output(x_t, batch.t, conditions)) / alpha
        for denoiser, conditions in (
            (networks.fake, batch.score_conditions),
            (networks.teacher, batch.score_conditions),
            (networks.teacher, batch.empty),
        )
    )
    return x0, samples, x_t, fake, empty + scale * (given - empty)


def gradients(loss, context):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, context.student.parameters(), retain_graph=True)])


def distance(samples, target):
    return (samples - target).detach().abs().mean((1, 2, 3), keepdim=True)


def collected(objective, batch):
    """The losses by role, and the metrics. The graphs stay."""
    *losses, metrics = objective.losses(batch)
    return dict(losses), metrics


def test_asd_pushes_its_fake_score_away_from_the_target(make):
    """And follows the guided target; the distance is to the one without guidance."""
    context, objective = make("asd", asd_gamma=-0.6)
    batch = context.batches.make("check", 1)
    found, metrics = collected(objective, batch)
    x0, samples, x_t, fake, target = written_out(context, batch)
    weighted = (fake - target).detach() / distance(samples, target)
    expected = gradients((x0 * weighted).sum() / x0.numel(), context)
    torch.testing.assert_close(gradients(found["student"], context), expected, rtol=1e-3, atol=1e-7)

    x_t, parameters = x_t.detach(), context.networks.fake.parameters()
    output, away_from = (
        denoiser.output(x_t, batch.t, batch.score_conditions)
        for denoiser in (context.networks.fake, context.networks.teacher)
    )
    denoising, away = (output - batch.noise).square().mean(), (output - away_from.detach()).square().mean()
    torch.testing.assert_close(found["fake"], denoising - 0.6 * away, rtol=1e-4, atol=1e-6)
    for value, wanted in zip(
        torch.autograd.grad(found["fake"], parameters, retain_graph=True),
        torch.autograd.grad(denoising - 0.6 * away, parameters),
        strict=True,
    ):
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-6)
    assert metrics["loss_fake"] == pytest.approx(denoising.item(), rel=1e-4)
    assert "score_ratio" not in metrics, "it would raise an alarm"


def test_further_updates_of_asd_are_pushed_away_too(make):
    context, objective = make("asd")
    batch = context.batches.make("check", 1)
    collected(objective, batch)
    (_, loss), metrics = objective.fake_score_losses(batch, 1)
    noise, t = batch.fresh_noise(1)
    x_t = context.family.schedule.add_noise(batch.samples, noise, t)
    output, target = (
        denoiser.output(x_t, t, batch.score_conditions) for denoiser in (context.networks.fake, objective.target)
    )
    expected = (output - noise).square().mean() - 0.75 * (output - target).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    assert metrics["distance_to_target"] > 0


@pytest.mark.parametrize("alpha", [1.0, 1.2])
def test_sid_goes_through_both_scores(make, alpha):
    context, objective = make("sid", sid_alpha=alpha)
    batch = context.batches.make("check", 1)
    found, metrics = collected(objective, batch)
    x0, samples, x_t, fake, target = written_out(context, batch)
    products = (target - fake) * (target - samples - alpha * (target - fake)) / distance(samples, target)
    (at_x0,) = torch.autograd.grad(products.sum(), samples, retain_graph=True)
    expected = gradients((x0 * at_x0).sum() / x0.numel(), context)
    torch.testing.assert_close(gradients(found["student"], context), expected, rtol=1e-3, atol=1e-7)
    assert metrics["gap"].item() == pytest.approx((fake - target).abs().mean().item(), rel=1e-4)

    noise = context.networks.fake.output(x_t.detach(), batch.t, batch.score_conditions)
    torch.testing.assert_close(found["fake"], (noise - batch.noise).square().mean(), rtol=1e-4, atol=1e-6)


def test_sid_without_the_scores_gradient_would_be_another(make):
    """So the test above can fail."""
    context, objective = make("sid")
    batch = context.batches.make("check", 1)
    found, _ = collected(objective, batch)
    x0, samples, _, fake, target = written_out(context, batch)
    products = (target - fake).detach() * (target.detach() - samples) / distance(samples, target)
    (at_x0,) = torch.autograd.grad(products.sum(), samples)
    other = gradients((x0 * at_x0).sum() / x0.numel(), context)
    ours = gradients(found["student"], context)
    assert (ours - other).norm() > 0.1 * ours.norm()


@pytest.mark.parametrize("objective, divergence", [("gan", None), ("fdiv", "forward_kl"), ("fdiv", "js")])
@pytest.mark.parametrize("penalty", [0.0, 20.0])
def test_gan_adds_both_losses_of_a_discriminator(make, objective, divergence, penalty):
    settings = {"gan_weight": 0.7, "discriminator_weight": 0.3, "gan_r1_weight": penalty}
    context, made = make(objective, **settings, **({"divergence": divergence} if divergence else {}))
    batch, fake = context.batches.make("check", 1), context.networks.fake
    found, metrics = collected(made, batch)

    x0, samples, x_t, x0_fake, target = written_out(context, batch)
    real, schedule = batch.real(0), context.family.schedule
    real_t = schedule.add_noise(real.samples, real.noise, batch.t)
    logit = made.discriminator
    of_real = logit(fake.output_and_features(real_t, batch.t, real.conditions)[1])
    output, features = fake.output_and_features(x_t.detach(), batch.t, batch.score_conditions)
    generated = logit(features)
    loss = softplus(-of_real).mean() + softplus(generated).mean()
    if penalty:
        shifted = logit(fake.output_and_features(real_t + 0.1 * real.shift, batch.t, real.conditions)[1])
        term = penalty * ((shifted - of_real) / 0.1).square().mean()
        assert term > 0.01 * loss
        loss = loss + term
    expected = (output - batch.noise).square().mean() + 0.3 * loss
    torch.testing.assert_close(found["fake"], expected, rtol=1e-4, atol=1e-6)

    ratio = generated.detach().exp().view(-1, 1, 1, 1)
    weights = {None: torch.ones_like(ratio), "forward_kl": ratio, "js": ratio / (1 + ratio)}[divergence]
    at_x0 = weights / weights.mean() * (x0_fake - target).detach() / distance(samples, target)
    noised = schedule.add_noise(x0, batch.noise, batch.t)
    cheated = logit(fake.output_and_features(noised, batch.t, batch.score_conditions)[1])
    expected = (x0 * at_x0).sum() / x0.numel() + 0.7 * softplus(-cheated).mean()
    ours = gradients(found["student"], context)
    torch.testing.assert_close(ours, gradients(expected, context), rtol=1e-3, atol=1e-6)
    share = gradients(0.7 * softplus(-cheated).mean(), context).norm() / ours.norm()
    assert share > 0.01, "else the test would not see the GAN loss"
    right = ((of_real > 0).float().mean() + (generated < 0).float().mean()) / 2
    assert metrics["discriminator_right"] == right


def test_without_captions_both_kinds_are_seen_under_the_empty_prompt(make, tmp_path):
    folder = save_folder(tmp_path / "bare", captions=[None] * 4)
    context, objective = make("gan", real_images=folder, discriminator_weight=5.0)
    batch, fake = context.batches.make("check", 1), context.networks.fake
    torch.testing.assert_close(batch.real(0).conditions.tensors["text"], batch.empty.tensors["text"])
    assert batch.seen_conditions is batch.empty
    found, _ = collected(objective, batch)
    *_, x_t, _, _ = written_out(context, batch)
    real = batch.real(0)
    real_t = context.family.schedule.add_noise(real.samples, real.noise, batch.t)
    of_real, generated = (
        objective.discriminator(fake.features(x, batch.t, batch.empty)) for x in (real_t, x_t.detach())
    )
    denoising = (fake.output(x_t.detach(), batch.t, batch.score_conditions) - batch.noise).square().mean()
    expected = denoising + 5 * (softplus(-of_real).mean() + softplus(generated).mean())
    torch.testing.assert_close(found["fake"], expected, rtol=1e-5, atol=1e-6)


def test_real_images_keep_their_captions_or_are_emptied_as_prompts_are(make):
    for share in (0.0, 0.99):
        context, _ = make("gan", proportion_empty_prompts=share)
        batch, samples = context.batches.make("check", 1, size=6), context.batches.real.samples
        real, encode = batch.real(0), context.family.load_encoder("cpu")
        rows = torch.randint(6, (6,), generator=batch.random("real", 0)).tolist()
        torch.testing.assert_close(real.samples, samples.rows((16, 16), rows))
        wanted = [""] * 6 if share else [samples.captions[row] for row in rows]
        torch.testing.assert_close(real.conditions.tensors["text"], encode(wanted).tensors["text"])


def test_another_vae_encodes_the_real_images_again(make, sd_folder, tmp_path):
    vae = AutoencoderKL.from_pretrained(sd_folder, subfolder="vae")
    vae.encoder.conv_in.weight.data *= 4
    vae.save_pretrained(tmp_path / "other_vae")
    first, other, again = (
        make("gan", pretrained_vae_model_name_or_path=vae)[0].batches.real.samples.rows((16, 16), [0, 1])
        for vae in (None, str(tmp_path / "other_vae"), None)
    )
    assert torch.equal(first, again) and (first - other).abs().mean() > 0.01


def test_further_updates_of_the_fake_score_train_the_discriminator_on_other_images(make):
    context, objective = make("gan")
    batch = context.batches.make("check", 1)
    list(objective.losses(batch))
    first, second = batch.real(0), batch.real(1)
    assert not torch.equal(first.noise, second.noise) and torch.equal(first.noise, batch.real(0).noise)
    (role, loss), metrics = objective.fake_score_losses(batch, 1)
    assert role == "fake" and {"loss_fake", "loss_discriminator"} <= metrics.keys()
    noise, t = batch.fresh_noise(1)
    schedule, fake = context.family.schedule, context.networks.fake
    x_t, real_t = schedule.add_noise(batch.samples, noise, t), schedule.add_noise(second.samples, second.noise, t)
    generated = objective.discriminator(fake.features(x_t, t, batch.score_conditions))
    expected = softplus(-objective.discriminator(fake.features(real_t, t, second.conditions))).mean()
    torch.testing.assert_close(metrics["loss_discriminator"], (expected + softplus(generated).mean()).detach())
    found = torch.autograd.grad(loss, list(objective.discriminator.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in found)


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_loss_trains_its_own_role(make, student, checkpointing):
    settings = {"student": student, "gradient_checkpointing": checkpointing}
    context, _ = make("gan", no_backtracking=True, **settings)
    stage = backtracking(context)
    discriminator = [p.clone() for p in stage.objective.discriminator.parameters()]
    weights = {"fake": context.roles.parameters("fake"), "student": context.student.parameters()}
    before = {name: [p.clone() for p in parameters] for name, parameters in weights.items()}
    stage.start()
    batch = context.batches.make("check", 1)
    for role, loss in (item for item in stage.objective.losses(batch) if isinstance(item, tuple)):
        stage.optimizers[role].backward(loss)
        others = {"fake": context.student.parameters(), "student": []}[role]
        assert all(p.grad is None for p in others)
    target = context.roles.parameters("target")
    assert all(p.grad is None for p in target)
    stage.optimizers["fake"].optimizer.zero_grad(), stage.optimizers["student"].optimizer.zero_grad()
    steps(stage, 1)
    changed = {name: sum(not torch.equal(a, b) for a, b in zip(old, weights[name])) for name, old in before.items()}
    assert all(count > len(before[name]) / 3 for name, count in changed.items())
    assert all(not torch.equal(a, b) for a, b in zip(discriminator, stage.objective.discriminator.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("objective", FEW_STEPS)
def test_a_resumed_stage_goes_on_bit_for_bit(make, objective, tmp_path):
    def start():
        torch.manual_seed(0)
        context, made = make(objective, no_backtracking=True, fake_score_updates_per_step=2)
        if made.needs_pairs:
            pairs = TeacherPairs(tmp_path / "pairs", *context.parts, count=16, steps=2, guidance_scale=1.0)
            pairs.generate()
            context.batches.draw_pairs = pairs.draw
        return backtracking(context)

    whole, first, second = start(), start(), start()
    expected = steps(whole, 4)
    steps(first, 2)
    first.save(tmp_path)
    torch.manual_seed(1)
    second.load(tmp_path)
    assert steps(second, 2) == expected[2:]
    for name, module in whole.objective.modules.items():
        for key, value in second.objective.modules[name].state_dict().items():
            assert torch.equal(value, module.state_dict()[key])


# ---------------------------------------------------------------------------------------------------------------------
# Guidance at a timestep of its own


def test_decoupled_guidance(make):
    context, objective = make("dmd", guidance_rule="decoupled", guidance_max_timestep=None)
    batch, teacher, schedule = context.batches.make("check", 1), context.networks.teacher, context.family.schedule
    found, metrics = collected(objective, batch)
    noise, t = batch.guidance_noise()
    assert (t <= 399).all() and not torch.equal(t, batch.t)
    x0 = context.student.training_samples(batch)
    samples = x0.detach()

    def estimates(noise, t):
        x_t = schedule.add_noise(samples, noise, t)
        return x_t, *(teacher.x0(x_t, t, conditions).detach() for conditions in (batch.score_conditions, batch.empty))

    x_t, given, _ = estimates(batch.noise, batch.t)
    fake = context.networks.fake.x0(x_t, batch.t, batch.score_conditions).detach()
    _, cond, empty = estimates(noise, t)
    guided = empty + 2.5 * (cond - empty)
    at_x0 = (fake - given) / distance(samples, given) + (cond - guided) / distance(samples, guided)
    expected = gradients((x0 * at_x0).sum() / x0.numel(), context)
    torch.testing.assert_close(gradients(found["student"], context), expected, rtol=1e-3, atol=1e-7)
    assert metrics["gap"].item() == pytest.approx((fake - given).abs().mean().item(), rel=1e-4)


def test_the_floor_is_the_least_divisor(make):
    plain, floored = (make("dmd", dmd_normalizer_floor=floor) for floor in (1e-6, 1e3))
    losses = []
    for context, objective in (plain, floored):
        batch = context.batches.make("check", 1)
        losses.append(gradients(collected(objective, batch)[0]["student"], context))
    _, samples, _, fake, target = written_out(context, batch)
    assert losses[0].norm() > 10 * losses[1].norm()
    x0 = context.student.training_samples(batch)
    expected = gradients((x0 * (fake - target).detach()).sum() / (1e3 * x0.numel()), context)
    torch.testing.assert_close(losses[1], expected, rtol=1e-3, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# What it costs

COSTS = [
    ("dmd", {"guidance_scale": 1.0}, 5),
    ("dmd", {}, 6),
    ("dmd", {"fake_guidance_scale": 2.0}, 7),
    ("dmd", {"guidance_rule": "decoupled", "guidance_max_timestep": None}, 7),
    ("sid", {"guidance_scale": 1.0}, 7),
    ("sid", {}, 9),
    ("sid", {"fake_guidance_scale": 2.0}, 11),
    ("asd", {}, 6),
    ("asd", {"fake_guidance_scale": 2.0}, 7),
    ("gan", {}, 8),
    ("gan", {"gan_r1_weight": 1.0}, 9),
    ("fdiv", {}, 8),
    ("guidance", {}, 4),
]


@pytest.mark.parametrize("objective, settings, forwards", COSTS)
def test_it_costs_what_it_says(make, monkeypatch, objective, settings, forwards):
    """Every forward and every backward is counted, in rows; one that ends in the middle as a half."""
    context, made = make(objective, **settings)
    assert made.forwards(context.args.objective) == forwards
    batch, spent = context.batches.make("check", 1), []

    def count(tensor, share):
        spent.append(share * len(tensor))
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: spent.append(share * len(gradient)))

    network = context.roles.network
    network.mid_block.register_forward_hook(lambda module, args, output: count(output, 0.5))
    network.conv_out.register_forward_hook(lambda module, args, output: count(output, 0.5))
    for item in made.losses(batch):
        if isinstance(item, tuple):
            role, loss = item
            parameters = context.student.parameters() if role == "student" else context.roles.parameters("fake")
            torch.autograd.grad(loss, parameters, allow_unused=True)
    assert sum(spent) / 3 == forwards
