# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import torch

from disback_diffusers.models.conditioning import Bucket, Conditioning, PromptBank
from disback_diffusers.training.batches import BatchSource


def encode(prompts):
    """The conditioning of a prompt is its number; the empty prompt's is -1."""
    return Conditioning(torch.tensor([[[float(prompt or -1)]] for prompt in prompts]))


def source(batch_size=4, rank=0, world=1, seed=0, empty=0.0, prompts=10):
    bank = PromptBank([str(i) for i in range(prompts)], encode)
    return BatchSource(bank, [Bucket((2, 3, 3))], (20, 979), batch_size, empty, seed, rank, world)


def numbers(batch):
    return batch.conditioning.hidden_states.flatten().int().tolist()


def equal(a, b):
    return torch.equal(a.noise, b.noise) and torch.equal(a.epsilon, b.epsilon) and torch.equal(a.t, b.t)


def test_a_batch_depends_on_its_step_alone():
    one, other = source(), source()
    other.draw("backtracking", 7)
    torch.manual_seed(5)
    a, b = one.draw("backtracking", 3), other.draw("backtracking", 3)
    assert equal(a, b) and numbers(a) == numbers(b)
    assert not equal(a, one.draw("backtracking", 4)) and not equal(a, one.draw("degradation", 3))
    assert not equal(a, source(seed=1).draw("backtracking", 3)) and not equal(
        a, source(rank=1, world=2).draw("backtracking", 3)
    )
    assert not torch.equal(a.noise, a.epsilon)
    assert not equal(one.draw("backtracking", 3, 0, 2), one.draw("backtracking", 3, 1, 2))


def test_a_further_update_has_noise_and_times_of_its_own():
    batches, shape = source(), (4, 2, 3, 3)
    drawn = [batches.fresh_diffusion("backtracking", 3, 0, repeat, shape) for repeat in (1, 2, 1)]
    batch = batches.draw("backtracking", 3)
    assert torch.equal(drawn[0][0], drawn[2][0]) and torch.equal(drawn[0][1], drawn[2][1])
    for epsilon, t in (drawn[1], (batch.epsilon, batch.t)):
        assert not torch.equal(drawn[0][0], epsilon) and not torch.equal(drawn[0][1], t)


def test_all_processes_draw_the_same_size():
    ranks = [source(rank=rank, world=3) for rank in range(3)]
    for each in ranks:
        each.buckets = [Bucket((2, 3, 3)), Bucket((2, 3, 5))]
    widths = [[each.draw("backtracking", step).noise.shape[-1] for step in range(1, 33)] for each in ranks]
    assert widths[0] == widths[1] == widths[2] and set(widths[0]) == {3, 5}


def test_every_prompt_comes_once_an_epoch_in_an_order_of_its_own():
    batches = source(batch_size=4)
    seen = [number for step in range(1, 6) for number in numbers(batches.draw("backtracking", step))]
    first, second = seen[:10], seen[10:20]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_processes_and_parts_share_the_prompts_out():
    alone = source(batch_size=8)
    together = [source(batch_size=2, rank=rank, world=2) for rank in range(2)]
    for step in (1, 2):
        expected = numbers(alone.draw("backtracking", step))
        parts = [numbers(each.draw("backtracking", step, part, 2)) for part in range(2) for each in together]
        assert [number for part in parts for number in part] == expected


def test_emptied_prompts_are_for_the_scores_only():
    batches = source(batch_size=500, empty=0.1, prompts=500)
    batch = batches.draw("backtracking", 1)
    emptied = batch.score_conditioning.hidden_states.flatten() == -1
    assert 25 <= emptied.sum() <= 80 and min(numbers(batch)) == 0
    kept = batch.score_conditioning.hidden_states.flatten()[~emptied]
    assert torch.equal(kept, batch.conditioning.hidden_states.flatten()[~emptied])


def test_times_cover_their_range():
    t = source(batch_size=5000).draw("backtracking", 1).t
    assert t.min() == 20 and t.max() == 979 and abs(t.float().mean() - 499.5) < 15
