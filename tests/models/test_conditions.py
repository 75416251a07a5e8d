# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Conditions are taken apart and put together row by row, with and without tensors."""

import pytest
import torch

from disback_diffusers.models.conditions import Conditions


def conditions(*values):
    """Two tensors of other shapes, whose rows hold these values."""
    rows = torch.tensor(values, dtype=torch.float32)
    return Conditions({"text": rows.view(-1, 1, 1).repeat(1, 2, 3), "pooled": rows.view(-1, 1).repeat(1, 4)})


def values_of(given):
    """The value of each row; in a row all elements of all tensors are the same."""
    rows = torch.cat([value.reshape(len(given), -1) for value in given.tensors.values()], dim=1)
    assert (rows == rows[:, :1]).all() and rows.shape == (len(given), 2 * 3 + 4)
    return rows[:, 0].tolist()


def test_rows_are_picked_mixed_and_put_together():
    given, empty = conditions(1, 2, 3), conditions(0)
    assert len(given) == 3 and len(empty) == 1
    assert values_of(given[1:]) == [2, 3]
    assert values_of(given[torch.tensor([2, 0, 2])]) == [3, 1, 3]
    assert values_of(given[torch.tensor([True, False, True])]) == [1, 3]
    assert values_of(empty.expand(3)) == [0, 0, 0]
    assert values_of(given.where(torch.tensor([True, False, True]), empty.expand(3))) == [0, 2, 0]
    assert values_of(given.cat(empty, conditions(7, 8))) == [1, 2, 3, 0, 7, 8]
    assert values_of(given) == [1, 2, 3], "nothing is changed in place"


def test_further_tensors_are_repeated_for_every_row():
    joined = conditions(1, 2).joined({"sizes": torch.tensor([[32.0, 48, 0, 0, 32, 48]])})
    assert len(joined) == 2 and joined.tensors["sizes"].tolist() == [[32, 48, 0, 0, 32, 48]] * 2
    assert joined.tensors["text"].shape == (2, 2, 3)
    assert conditions(1, 2).joined({}).tensors.keys() == {"text", "pooled"}


def test_a_function_of_every_tensor():
    total = conditions(1, 2).map(lambda a, b: a + b, conditions(10, 20))
    assert values_of(total) == [11, 22]
    assert {value.dtype for value in total.map(lambda value: value.bfloat16()).tensors.values()} == {torch.bfloat16}


def test_to_another_device():
    moved = conditions(1, 2).to("meta")
    assert len(moved) == 2 and {value.device.type for value in moved.tensors.values()} == {"meta"}
    assert values_of(conditions(1, 2).to("cpu")) == [1, 2]


@pytest.mark.parametrize(
    "index, expected",
    [(slice(1, None), 3), (torch.tensor([2, 0]), 2), (torch.tensor([True, False, True, True]), 3)],
)
def test_without_tensors_the_rows_are_counted(index, expected):
    """Of an unconditional network."""
    given = Conditions(rows=4)
    assert len(given) == 4 and len(given[index]) == expected and given[index].tensors == {}
    assert len(Conditions(rows=1).expand(3)) == 3
    assert len(given.cat(Conditions(rows=1), Conditions(rows=2))) == 7
    assert len(given.where(torch.tensor([True] * 4), Conditions(rows=4))) == len(given.to("meta")) == 4
    joined = given.joined({"labels": torch.tensor([[5]])})
    assert len(joined) == 4 and joined.tensors["labels"].tolist() == [[5]] * 4
