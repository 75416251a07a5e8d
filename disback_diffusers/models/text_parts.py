# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A pipeline's tokenizers and text encoders: whether they fit each other and the prompts, without loading weights."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real

from transformers import CLIPTextConfig, CLIPTokenizer, PretrainedConfig

from ..errors import UsageError, one_line


# The warnings of diffusers (one each time a long prompt is encoded) and of transformers (one in all).
LONG_PROMPT = ("The following part of your input was truncated", "Token indices sequence length is longer")
LOGGERS = (
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "transformers.tokenization_utils_base",
)


SHORTEST = 3  # tokens of a prompt: its beginning, its end, and one between them


def has_vocabulary(tokenizer: CLIPTokenizer) -> bool:
    """Whether it knows any token but special ones; transformers loads it without its files as well."""
    return len(tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)) > 0


class TextPart:
    """One text encoder, by its config, and its tokenizer.

    Args:
        load: `load(what, function, **kwargs)` calls a `from_pretrained` on the pipeline; its UsageErrors are complete.
        index (`dict`): model_index.json. folders (`set[str]`): those of the pipeline.
        encoder (`str`): "text_encoder" or "text_encoder_2".
        kind (`str`): the class that the encoder must have, such as "CLIPTextModel".

    Raises:
        UsageError: one of them is missing, of another class, or does not fit the other; the message has no subject.
    """

    def __init__(self, load: Callable, index: dict, folders: set[str], encoder: str, kind: str):
        self.encoder, self.tokenizer_name = encoder, encoder.replace("text_encoder", "tokenizer")
        for name, expected in ((encoder, kind), (self.tokenizer_name, "CLIPTokenizer")):
            entry = index.get(name)
            found = entry[1] if isinstance(entry, list | tuple) and len(entry) == 2 else None
            if found is None or name not in folders:
                raise UsageError(f"has no {name}: take a complete pipeline.")
            if found.removesuffix("Fast") != expected:
                raise UsageError(f"has a {found} as its {name}: only a {expected} is supported there.")
        settings, _ = load(f"{encoder}/ config", PretrainedConfig.get_config_dict, subfolder=encoder)
        if not isinstance(settings, dict):
            raise UsageError(f"has no valid {encoder}/ config: it is a {type(settings).__name__}, not an object.")
        if settings.get("model_type") not in ("clip_text_model", "clip"):
            raise UsageError(f"has a {settings.get('model_type')} in {encoder}/: only a {kind} is supported there.")
        self.config = load(f"{encoder}/ config", CLIPTextConfig.from_pretrained, subfolder=encoder)
        self.tokenizer = load(f"{self.tokenizer_name}/", CLIPTokenizer.from_pretrained, subfolder=self.tokenizer_name)
        self._check_tokenizer()

    def _check_tokenizer(self):
        name, limit = self.tokenizer_name, self.config.vocab_size
        tokens = 1 + max(self.tokenizer.get_vocab().values(), default=-1)
        if not has_vocabulary(self.tokenizer):
            raise UsageError(f"has no vocabulary in {name}/: files are missing there, download it again.")
        if tokens > limit:
            raise UsageError(
                f"has {tokens:,} tokens in {name}/, but embeddings of {limit:,} in {self.encoder}/: take its own "
                "tokenizer, or resize_token_embeddings() of the encoder."
            )
        length, positions = self.tokenizer.model_max_length, self.config.max_position_embeddings
        if not isinstance(length, Real) or length < SHORTEST:
            raise UsageError(
                f"has model_max_length {length!r} in {name}/tokenizer_config.json: set it to {positions}, what "
                f"{self.encoder} reads."
            )
        if length > positions:
            said = f"model_max_length {length:,}" if length < 10**9 else "no model_max_length"
            raise UsageError(
                f"has {said} in {name}/tokenizer_config.json, but {self.encoder} reads {positions} tokens: set it to "
                f"{positions}."
            )
        if self.tokenizer.pad_token is None:
            raise UsageError(f"has no pad_token in {name}/tokenizer_config.json: prompts cannot be padded. Set it.")

    def longer_than_read(self, prompts: list[str]) -> int:
        """How many prompts have more tokens than the encoder reads (`int`).

        Raises:
            UsageError: a prompt that cannot be tokenized; the message has no subject.
        """
        try:
            return count_longer(self.tokenizer, prompts)
        except Exception:  # of two libraries
            raise UsageError(f"cannot be tokenized by {self.tokenizer_name}/: {self._first_wrong(prompts)}") from None

    def _first_wrong(self, prompts):
        for number, prompt in enumerate(prompts, 1):
            try:
                self.tokenizer(prompt, verbose=False)
            except Exception as error:  # as above
                return f"number {number}, {prompt[:50]!r} ({one_line(error)})"
        return "all of them together"


def count_longer(tokenizer: CLIPTokenizer, prompts: list[str], batch_size: int = 10_000) -> int:
    """How many prompts have more tokens than `model_max_length`."""
    length, count = tokenizer.model_max_length, 0
    prompts = [prompt for prompt in prompts if len(prompt.encode()) > length - 2]  # a token has at least one byte
    for i in range(0, len(prompts), batch_size):
        ids = tokenizer(prompts[i : i + batch_size], verbose=False).input_ids
        count += sum(len(one) > length for one in ids)
    return count


@contextmanager
def without_truncation_warnings() -> Iterator[None]:
    """Silence the libraries' warnings about each long prompt; the scripts print one count instead."""
    loggers = [logging.getLogger(name) for name in LOGGERS]

    def keep(record):
        return not str(record.msg).startswith(LONG_PROMPT)

    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
