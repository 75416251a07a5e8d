# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The boundary conditions of a latent consistency model are those of diffusers."""

import pytest
import torch
from diffusers import LCMScheduler

from disback_diffusers.diffusion.consistency import boundary_scalings


TIMESTEPS = [0, 1, 259, 999]


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_of_one_timestep(timestep):
    skip, out = LCMScheduler().get_scalings_for_boundary_condition_discrete(torch.tensor(timestep))
    assert boundary_scalings(timestep) == (pytest.approx(skip.item()), pytest.approx(out.item()))


def test_of_several_in_any_shape():
    times = torch.tensor(TIMESTEPS, dtype=torch.float32).view(4, 1, 1)
    expected = LCMScheduler().get_scalings_for_boundary_condition_discrete(times)
    for found, wanted in zip(boundary_scalings(times), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_at_time_0_a_sample_is_its_own_estimate():
    assert boundary_scalings(0) == (1, 0)
