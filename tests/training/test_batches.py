# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import torch
from accelerate import Accelerator

from disback_diffusers.data.bank import PromptBank
from disback_diffusers.diffusion.times import UniformTimes
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.sizes import Bucket
from disback_diffusers.training.batches import BatchSource
from disback_diffusers.training.parallel import Replicated
from disback_diffusers.training.settings import DataArguments


def encode(prompts):
    """A prompt is encoded as its number, the empty prompt as -1."""
    return Conditions({"text": torch.tensor([[[float(prompt or -1)]] for prompt in prompts])})


def source(batch_size=4, micro_batches=1, rank=0, world=1, seed=0, empty=0.0, prompts=10, buckets=None):
    bank = PromptBank([str(i) for i in range(prompts)], encode)
    parallel = Replicated(Accelerator(cpu=True))
    parallel.rank, parallel.world = rank, world
    settings = DataArguments(
        train_batch_size=batch_size, gradient_accumulation_steps=micro_batches, proportion_empty_prompts=empty
    )
    return BatchSource(bank, buckets or [Bucket((2, 3, 3))], UniformTimes(20, 979), settings, seed, parallel)


def numbers(conditions):
    return conditions.tensors["text"].flatten().int().tolist()


def equal(a, b):
    return torch.equal(a.z, b.z) and torch.equal(a.noise, b.noise) and torch.equal(a.t, b.t)


def test_a_batch_depends_on_its_step_alone():
    one, other = source(), source()
    other.make("backtracking", 7)
    torch.manual_seed(5)
    a, b = one.make("backtracking", 3), other.make("backtracking", 3)
    assert equal(a, b) and numbers(a.conditions) == numbers(b.conditions)
    assert not equal(a, one.make("backtracking", 4)) and not equal(a, one.make("degradation", 3))
    assert not equal(a, source(seed=1).make("backtracking", 3))
    assert not equal(a, source(rank=1, world=2).make("backtracking", 3))
    assert not torch.equal(a.z, a.noise)
    assert not equal(one.make("backtracking", 3, 0), one.make("backtracking", 3, 1))


def test_a_further_update_has_noise_and_times_of_its_own():
    batch = source().make("backtracking", 3)
    fresh = [batch.fresh_noise(repeat) for repeat in (1, 2, 1)]
    assert torch.equal(fresh[0][0], fresh[2][0]) and torch.equal(fresh[0][1], fresh[2][1])
    for noise, t in (fresh[1], (batch.noise, batch.t)):
        assert not torch.equal(fresh[0][0], noise) and not torch.equal(fresh[0][1], t)


def test_all_processes_take_the_same_size():
    buckets = [Bucket((2, 3, 3)), Bucket((2, 3, 5))]
    ranks = [source(rank=rank, world=3, buckets=buckets) for rank in range(3)]
    widths = [[each.make("backtracking", step).z.shape[-1] for step in range(1, 33)] for each in ranks]
    assert widths[0] == widths[1] == widths[2] and set(widths[0]) == {3, 5}


def test_conditions_are_joined_by_those_of_the_size():
    sizes = [{"sizes": torch.tensor([[width]])} for width in (3.0, 5.0)]
    batches = source(buckets=[Bucket((2, 3, 3), sizes[0]), Bucket((2, 3, 5), sizes[1])], empty=0.5)
    widths = set()
    for step in range(1, 9):
        batch = batches.make("backtracking", step)
        widths.add(batch.z.shape[-1])
        for conditions in (batch.conditions, batch.score_conditions, batch.empty):
            assert conditions.tensors["sizes"].tolist() == [[batch.z.shape[-1]]] * 4
    assert widths == {3, 5}


def test_every_prompt_comes_once_an_epoch_in_an_order_of_its_own():
    batches = source(batch_size=4)
    seen = [number for step in range(1, 6) for number in numbers(batches.make("backtracking", step).conditions)]
    first, second = seen[:10], seen[10:20]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_processes_and_micro_batches_share_the_prompts_out():
    alone = source(batch_size=8)
    together = [source(batch_size=2, micro_batches=2, rank=rank, world=2) for rank in range(2)]
    for step in (1, 2):
        shares = [each.make("backtracking", step, index).conditions for index in range(2) for each in together]
        shared = [number for share in shares for number in numbers(share)]
        assert shared == numbers(alone.make("backtracking", step).conditions)


def test_emptied_prompts_are_for_the_scores_only():
    batch = source(batch_size=500, empty=0.1, prompts=500).make("backtracking", 1)
    own, of_scores = (torch.tensor(numbers(c)) for c in (batch.conditions, batch.score_conditions))
    emptied = of_scores == -1
    assert 25 <= emptied.sum() <= 80 and own.min() == 0
    assert torch.equal(of_scores[~emptied], own[~emptied])
    assert set(numbers(batch.empty)) == {-1} and len(batch.empty) == 500


def test_times_cover_their_range():
    t = source(batch_size=5000).make("backtracking", 1).t
    assert t.min() == 20 and t.max() == 979 and abs(t.float().mean() - 499.5) < 15
