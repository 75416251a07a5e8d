# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Flags that may change the speed and the memory of a run, but not its result."""

import functools

import pytest
import torch
from stepping import backtracking, steps


LAYERS = {"lora": {"lora_target_modules": ["to_q", "conv1"]}, "full": {}}  # few, as tracing each takes seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag, student", [("compile", "lora"), ("gradient_checkpointing", "lora"), ("gradient_checkpointing", "full")]
)
def test_the_result_is_the_same(make_context, monkeypatch, flag, student):
    # Traced and differentiated as by the real compiler, which would then spend minutes on C++.
    compile = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    results = []
    for on in (False, True):
        context = make_context(
            student=student, no_backtracking=True, guidance_scale=2.0, **LAYERS[student], **{flag: on}
        )
        steps(backtracking(context), 2)
        results.append({**context.student.denoiser.state_dict(), **context.roles.state_dict("fake")})
    plain, other = results
    assert plain.keys() == other.keys()
    for key, value in plain.items():
        torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-4)
