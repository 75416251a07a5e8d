# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The files of a teacher, and loading its parts with errors of one line."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from ..errors import UsageError, one_line
from ..files import CONFIG_NAME
from .distilled import signs_of_distillation
from .embedded import resolve
from .pipeline_files import PipelineFiles


class ModelSource:
    """A teacher's folder or Hub repository. The constructor reads the configs only (a few kB).

    Attributes:
        name (`str`): as the user gave it. path (`str`): folder or Hub id.
        index (`dict`): model_index.json. commit (`str` or `None`): of a Hub repository.

    Args:
        name (`str`): folder, Hub id, or "embedded".
        revision (`str`, *optional*), variant (`str`, *optional*): as in `from_pretrained`.

    Raises:
        UsageError: there is no pipeline that can be read.
        RunError: the Hub cannot be reached and the cache does not hold it.
    """

    def __init__(self, name: str, revision: str | None = None, variant: str | None = None):
        self.name, self.path, self.revision, self.variant = name, resolve(name), revision, variant
        self.files = PipelineFiles(self.path, revision)
        self.is_student = CONFIG_NAME in self.files.names
        if self.is_student and "model_index.json" not in self.files.names:
            raise self.error(
                "is the output folder of a DisBack training; a student cannot be a teacher. Take the model it was "
                "distilled from (base_model in its disback_config.json)."
            )
        self.index, self.commit = self.load("model_index.json", DiffusionPipeline.load_config, return_commit_hash=True)
        self._object("model_index.json", self.index)

    def error(self, message: str) -> UsageError:
        """A UsageError about the teacher; the message has no subject."""
        return UsageError(f"{self.name} {message}")

    def load(self, what: str, function: Callable, **kwargs) -> Any:
        """`function(path, ...)`, such as a `from_pretrained`; any failure as a UsageError of one line."""
        try:
            return function(self.path, revision=self.revision, **kwargs)
        except UsageError:
            raise
        except Exception as error:  # missing, truncated or unreadable files and connection errors, of four libraries
            raise self.error(f"has no readable {what}: {one_line(error)}") from None

    def config(self, cls: type, subfolder: str) -> dict:
        """The config of a diffusers model, with the defaults of its class (`dict`)."""
        place = self.files.place(subfolder)
        config = self._object(subfolder, self.load(f"{subfolder}/ config", cls.load_config, subfolder=place))
        kind = config.get("_class_name")
        if kind not in (None, cls.__name__):
            raise self.error(f"has a {kind} in {subfolder}/: only a {cls.__name__} is supported there.")
        parameters = inspect.signature(cls.__init__).parameters.values()
        config = {**{p.name: p.default for p in parameters if p.default is not p.empty}, **config}
        self.check_builds(subfolder, lambda: cls.from_config(config))
        return config

    def check_builds(self, subfolder: str, build: Callable) -> None:
        """Build a model without weights, which finds settings that make no sense or contradict each other."""
        try:
            with torch.device("meta"):
                build()
        except Exception as error:  # of whatever is in the config
            raise self.error(f"has no valid {subfolder}/ config: {_named(error)}") from None

    def _object(self, where, config):
        if not isinstance(config, dict):
            raise self.error(f"has no valid {where} config: it is a {type(config).__name__}, not an object.")
        return config

    def scheduler_config(self) -> dict:
        """The config of its scheduler (`dict`)."""
        place = self.files.place("scheduler", DDIMScheduler.config_name)
        config = self.load("scheduler/ config", DDIMScheduler.load_config, subfolder=place)
        return self._object("scheduler/", config)

    def check_weights(self, parts: list[str]) -> None:
        """Raise a UsageError where a part has no weights that can be loaded, by the names and headers of its files."""
        places = [self.files.place(part) for part in parts]
        variants = [self.files.variant(place, self.variant) for place in places]
        for place, variant in zip(places, variants, strict=True):
            self.files.check_readable(place, variant)
        if self.variant and not any(variants):
            raise self.error(f'has no weights of variant="{self.variant}": leave it out.')

    def model(self, cls: type, subfolder: str, **kwargs) -> torch.nn.Module:
        """A diffusers model, frozen."""
        model = self.load(f"{subfolder}/", cls.from_pretrained, **self._weights(subfolder), **kwargs)
        self._check_complete(subfolder, [name for name, parameter in model.named_parameters() if parameter.is_meta])
        return model.requires_grad_(False)

    def text_encoder(self, cls: type, subfolder: str, dtype: torch.dtype) -> torch.nn.Module:
        """A transformers model."""
        options = {**self._weights(subfolder), "dtype": dtype, "output_loading_info": True}
        model, info = self.load(f"{subfolder}/", cls.from_pretrained, **options)
        self._check_complete(subfolder, sorted(info["missing_keys"]))  # which transformers would fill at random
        return model

    def _weights(self, subfolder):
        place = self.files.place(subfolder)
        variant = self.files.variant(place, self.variant)
        return {"subfolder": place, "variant": variant, "use_safetensors": True}

    def _check_complete(self, subfolder, missing):
        if missing:
            raise self.error(f"lacks {missing[0]} in {subfolder}/ (and {len(missing) - 1} more): download it again.")

    def refuse_distilled(self, unet_config: dict, scheduler_config: dict) -> str | None:
        """Raise a UsageError for a model that has been distilled to a few steps already.

        Returns:
            what only seems so (`str`), or None.
        """
        files_say, seems = signs_of_distillation(
            self.path, self.index, unet_config, scheduler_config, has_our_config=self.is_student
        )
        if files_say:
            raise self.error(
                f"{files_say}. A few-step model does not predict noise at every timestep, so it cannot be a teacher: "
                "take the model it was distilled from."
            )
        return (
            seems
            and f"{self.name} may have been distilled to a few steps already, as {seems}. A student of it "
            "would then be of no use. Take the model it came from, unless you are sure that it is an ordinary one."
        )


def _named(error):
    """A KeyError's message alone is only the key."""
    return f"{type(error).__name__} {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
