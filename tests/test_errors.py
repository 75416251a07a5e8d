# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Failures that a user sees as one line."""

import sys

import pytest

from disback_diffusers import RunError, UsageError
from disback_diffusers.errors import about, exit_code, one_line, with_flags


@pytest.mark.parametrize(
    "message, expected",
    [
        ('has weights in unet/ as variant fp16 only: try variant="fp16".',
         "has weights in unet/ as variant fp16 only: try --variant fp16."),
        ('has no weights of variant="fp16": leave it out.', "has no weights of --variant fp16: leave it out."),
        ('give model="a b" or seed="1"', "give --model a b or --seed 1"),
        ("the token (--hub_token, token=..., HF_TOKEN)", "the token (--hub_token, token=..., HF_TOKEN)"),
        ("from_pretrained(..., use_safetensors=False)", "from_pretrained(..., use_safetensors=False)"),
        ('pip install "disback-diffusers[eval]"', 'pip install "disback-diffusers[eval]"'),
        ('a "quoted" word', 'a "quoted" word'),
    ],
)  # fmt: skip
def test_settings_become_flags(message, expected):
    assert with_flags(message) == expected


@pytest.mark.parametrize("kind", [UsageError, RunError])
def test_the_flag_comes_first_and_the_kind_stays(kind):
    with pytest.raises(kind) as raised, about("--student_unet"):
        raise kind('./small has weights as variant fp16 only: try variant="fp16".')
    assert str(raised.value) == "--student_unet ./small has weights as variant fp16 only: try --variant fp16."
    assert type(raised.value) is kind and raised.value.__suppress_context__


def test_other_errors_and_no_error_pass_through():
    error = ValueError('a bug: x="1"')
    with pytest.raises(ValueError) as raised, about("--student_unet"):
        raise error
    assert raised.value is error and str(error) == 'a bug: x="1"'
    with about("--student_unet"):
        pass


def fail(error):
    raise error


@pytest.mark.parametrize("error, code", [(UsageError('try variant="fp16"'), 2), (RunError('try variant="fp16"'), 1)])
def test_a_script_ends_with_one_line_and_a_code(capsys, monkeypatch, error, code):
    monkeypatch.setattr(sys, "argv", ["/somewhere/evaluate_disback.py"])
    assert exit_code(lambda: fail(error)) == code
    assert capsys.readouterr().err == "evaluate_disback.py: error: try --variant fp16\n"
    assert exit_code(lambda: None) == 0
    with pytest.raises(KeyError):
        exit_code(lambda: fail(KeyError("a bug")))


def test_a_message_of_another_library_as_one_line():
    assert one_line(OSError("a\n\n  b\tc")) == "a b c"
    assert len(one_line(OSError("x" * 999))) == 300
    assert one_line(KeyError()) == "KeyError"
