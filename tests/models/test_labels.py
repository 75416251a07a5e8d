# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import pytest

from disback_diffusers.errors import UsageError
from disback_diffusers.models.labels import format_labels, parse_labels


@pytest.mark.parametrize(
    "text, expected",
    [
        ("all", [0, 1, 2, 3, 4]),
        ("3", [3]),
        ("0-2,4", [0, 1, 2, 4]),
        ("4, 1 - 2, 2", [1, 2, 4]),
        ("0-4", [0, 1, 2, 3, 4]),
    ],
)
def test_labels(text, expected):
    assert parse_labels(text, 5) == expected
    assert parse_labels(format_labels(expected), 5) == expected


def test_labels_as_text():
    assert format_labels([0, 1, 2, 4]) == "0-2,4" and format_labels(list(range(1000))) == "0-999"


@pytest.mark.parametrize("text", ["", "5", "3-1", "0-5", "-1", "a", "1.5", "1,,2", "ALL", "1 2", "1 0-1", "٣"])
def test_what_is_no_class(text):
    with pytest.raises(
        UsageError, match="is not a class: give all|is not within the teacher's classes, 0 to 4|backwards: give 1-3"
    ):
        parse_labels(text, 5)
