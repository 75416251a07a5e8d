# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The settings of a run from the command line and from a YAML file."""

import argparse
import os
import sys
from difflib import get_close_matches
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from ..errors import UsageError, one_line
from .arguments import GROUPS, DistillationArguments, names, not_for
from .flags import METADATA


# What YAML 1.1 reads as false, though it is the name of a choice.
FALSE_WORDS = {"mixed_precision": "no", "cache_text_embeddings": "off"}
# Two flags for one setting: the one on the command line replaces the other one in the file.
INSTEAD = {"ema_decay": "ema_half_life", "ema_half_life": "ema_decay"}


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error; the last one would win without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"'{key}' is there twice")
        return super().construct_mapping(node, deep)


def _read_config(file, left_out=()):
    """A YAML file of flag names and values, as command-line words; without those of some flags."""
    try:
        values = yaml.load(Path(os.path.expanduser(file)).read_text(encoding="utf-8"), _UniqueKeys) or {}
    except OSError as error:
        raise UsageError(f"--config {file}: {error.strerror}.") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter: no UTF-8, or a date that is none
        raise UsageError(f"--config {file} is no YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise UsageError(f"--config {file}: expected lines of the form 'flag: value'.")
    values = {key: value for key, value in values.items() if key not in left_out}
    known = set(names())
    words = []
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"--config {file}: unknown key '{key}'; --help lists them.")
        if value is False and key in FALSE_WORDS:
            value = FALSE_WORDS[key]
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, (dict, list)) for item in items):
            raise UsageError(f"--config {file}: '{key}' must be one value or a list of values.")
        if isinstance(value, list) and value:
            words += [f"--{key}", *map(str, value)]
        elif value is not None and value != []:
            words.append(f"--{key}={value}")
    return words


def _without_effect(words):
    """Settings of the file that the `--objective` on the command line has no use for; none without one."""
    parser = _ConfigParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--objective")
    objective = parser.parse_known_args(words)[0].objective
    return not_for(objective) if objective else set()


class _OneLine:
    def error(self, message):
        raise UsageError(message)


class _Parser(_OneLine, HfArgumentParser):
    def add_argument(self, *names, **kwargs):
        """Leaves out our own metadata of a field."""
        return super().add_argument(*names, **{key: kwargs[key] for key in kwargs.keys() - set(METADATA)})


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _ConfigParser(_OneLine, argparse.ArgumentParser):
    pass


def parse_args(input_args: list[str] | None = None, description: str | None = None) -> DistillationArguments:
    """The settings from the command line, over those of `--config`, over the defaults.

    Raises:
        UsageError: an unknown flag or key, or a value that cannot work.
    """
    words = list(sys.argv[1:] if input_args is None else input_args)
    config = _ConfigParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config")
    config, words = config.parse_known_args(words)
    parser = _Parser(GROUPS, description=description, formatter_class=_Help, allow_abbrev=False)
    parser.add_argument("--config", help="A YAML file with any of these flags; the command line wins.")
    given = {word.split("=")[0].removeprefix("--") for word in words if word.startswith("--")}
    replaced = {other for name, other in INSTEAD.items() if name in given} | _without_effect(words)
    from_file = _read_config(config.config, left_out=replaced - given) if config.config else []
    try:  # alone, so that a wrong value is blamed on the file
        _, unknown = parser.parse_known_args(from_file)
    except UsageError as error:
        raise UsageError(f"--config {config.config}: {error}") from None
    if unknown:
        raise UsageError(f"--config {config.config}: '{unknown[0]}' is one value too many.")
    namespace, unknown = parser.parse_known_args([*from_file, *words])
    if unknown and not unknown[0].startswith("-"):
        raise UsageError(f"'{unknown[0]}' is one value too many: quote text with spaces, put commas in lists.")
    if unknown:
        like = get_close_matches(unknown[0].split("=")[0], [f"--{name}" for name in names()], n=1)
        raise UsageError(f"unknown flag {unknown[0]}; {f'did you mean {like[0]}? ' if like else ''}--help lists them.")
    return DistillationArguments(**{name: getattr(namespace, name) for name in names()})
