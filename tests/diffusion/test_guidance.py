# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Classifier-free guidance: its formula, and how often the network runs for it."""

import pytest
import torch

from disback_diffusers.diffusion.guidance import classifier_free_guidance, guided_output
from disback_diffusers.models.conditions import Conditions


def random(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_formula():
    empty, prompt = random(2, 3, seed=0), random(2, 3, seed=1)
    torch.testing.assert_close(classifier_free_guidance(empty, prompt, 0.0), empty)
    torch.testing.assert_close(classifier_free_guidance(empty, prompt, 1.0), prompt)
    torch.testing.assert_close(classifier_free_guidance(empty, prompt, 7.5), -6.5 * empty + 7.5 * prompt)
    each = torch.arange(len(empty), dtype=empty.dtype)
    rows = [classifier_free_guidance(empty[[i]], prompt[[i]], float(each[i])) for i in range(len(empty))]
    torch.testing.assert_close(classifier_free_guidance(empty, prompt, each), torch.cat(rows))
    assert classifier_free_guidance(empty.bfloat16(), prompt.bfloat16(), 7.5).dtype == torch.float32
    with pytest.raises(ValueError, match="conditional has shape"):
        classifier_free_guidance(empty, prompt[:1], 7.5)


# ---------------------------------------------------------------------------------------------------------------------
# Of a network


class Network:
    """Its prediction depends on all that it is given, row by row; it notes how many rows each forward had."""

    def __init__(self):
        self.forwards = []

    def __call__(self, x_t, t, conditions):
        self.forwards.append(len(x_t))
        assert len(x_t) == len(t) == len(conditions)
        return x_t.sin() * (1 + t.view(-1, 1)) + conditions.tensors["text"].square()


@pytest.fixture
def inputs():
    """(x_t, t, conditions, empty) of four rows."""
    text, nothing = Conditions({"text": random(4, 3, seed=2)}), Conditions({"text": random(1, 3, seed=3)})
    return random(4, 3, seed=1), torch.tensor([10, 300, 600, 999]), text, nothing.expand(4)


def branches(x_t, t, conditions, empty):
    """The predictions for the empty prompt and for the prompts, each in a forward of its own."""
    return Network()(x_t, t, empty), Network()(x_t, t, conditions)


@pytest.mark.parametrize("scale", [3.0, 2, 0.0, torch.tensor([1.0, 2.0, 1.0, 7.5]), torch.ones(4)])
def test_both_branches_are_one_forward(inputs, scale):
    network = Network()
    found = guided_output(network, *inputs, scale)
    torch.testing.assert_close(found, classifier_free_guidance(*branches(*inputs), scale))
    assert network.forwards == [8]


@pytest.mark.parametrize("scale", [3.0, torch.tensor([1.0, 2.0, 1.0, 7.5])])
def test_the_prediction_that_is_known_is_used(inputs, scale):
    network, known = Network(), random(4, 3, seed=9)  # and is not what the network would predict
    empty, _ = branches(*inputs)
    found = guided_output(network, *inputs, scale, conditional=known)
    torch.testing.assert_close(found, classifier_free_guidance(empty, known, scale))
    assert network.forwards == [4], "only the branch of the empty prompt runs"


@pytest.mark.parametrize("scale", [1, 1.0])
def test_without_guidance_there_is_no_second_branch(inputs, scale):
    network, known = Network(), random(4, 3, seed=9)
    assert torch.equal(guided_output(network, *inputs, scale), branches(*inputs)[1])
    assert network.forwards == [4]
    assert guided_output(network, *inputs, scale, conditional=known) is known
    assert network.forwards == [4]
