# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How the processes of a run share work, any number of them played by one; two real ones: test_two_processes.py."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from disback_diffusers.training.parallel import Replicated


def processes(world):
    """As if there were so many."""
    made = [Replicated(Accelerator(cpu=True)) for _ in range(world)]
    for rank, parallel in enumerate(made):
        parallel.rank, parallel.world = rank, world
    return made


COUNTS = [(world, n) for world in (1, 2, 3, 5) for n in range(1, 12)]


@pytest.mark.parametrize("world, n", COUNTS)
def test_shares_are_of_one_size_and_cover_all_items(world, n):
    shares = [parallel.share(n) for parallel in processes(world)]
    assert {len(share) for share in shares} == {-(-n // world)}  # or one process would wait for another for ever
    assert {item for share in shares for item in share} == set(range(n))


@pytest.mark.parametrize("world, n", COUNTS)
def test_every_process_has_the_rows_of_all_items_in_order(world, n):
    everyone = processes(world)
    rows = [torch.tensor([[[i], [10 * i]] for i in parallel.share(n)]) for parallel in everyone]
    for parallel, own in zip(everyone, rows):
        parallel._accelerator = SimpleNamespace(gather=lambda _: torch.cat(rows))
        assert parallel.gather(own, n).tolist() == [[[i], [10 * i]] for i in range(n)]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_map_calls_for_at_most_so_many_items(size):
    (parallel,), calls = processes(1), []

    def function(items):
        calls.append(items)
        return torch.tensor(items)

    assert parallel.map(function, 7, size).tolist() == list(range(7))
    assert [item for call in calls for item in call] == list(range(7))
    assert max(map(len, calls)) == min(size, 7)


def test_alone_there_is_nothing_to_average():
    (parallel,), (parameter, unused) = processes(1), [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    parameter.grad = torch.tensor([3.0])
    parallel.average_gradients([parameter, unused])
    assert parameter.grad.item() == 3 and unused.grad is None
