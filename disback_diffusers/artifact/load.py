# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Identifies the student in a folder or Hub repository by its small files, and loads it."""

import json
import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from diffusers import DiffusionPipeline, ModelMixin
from huggingface_hub import snapshot_download
from huggingface_hub.repocard import metadata_load
from safetensors import safe_open

from ..errors import RunError, UsageError, one_line
from ..files import CONFIG_NAME, LORA_NAME, TEACHER_LORA_NAME
from ..hub_errors import reading
from ..models.embedded import resolve
from ..models.lora_file import refuse_dora
from ..models.pipeline_files import INDEX_NAME, weights_hint
from ..models.student_unet import UNET_INTERFACE
from .layout import CARD_NAME, UNET_FOLDER, read_config
from .merge import merge_lora, read_lora
from .networks import NETWORKS, load_network, options_of_the_unet


ADAPTER = "disback"  # name of the student's LoRA in a pipeline
UNET_CONFIGS = ("unet/config.json", "config.json")


def fetch(source: str | os.PathLike, files: Sequence[str], revision: str | None = None, **hub) -> Path:
    """The folder with those of `files` that exist: `source` itself, or a snapshot of a Hub repository.

    Args:
        source (`str` or `os.PathLike`): a folder or a Hub id. Without a network the cache is used.
        files (`list[str]`): relative paths, or patterns.
        revision (`str`, *optional*): of the repository.
        hub: `token`, `cache_dir`, `local_files_only`, `force_download`.

    Raises:
        UsageError: `source` is neither a folder nor a repository that the token can read, or has no such revision.
        RunError: the Hub cannot be reached and the files are not in the cache.
    """
    if os.path.isdir(source):
        return Path(source)
    if os.path.isfile(source):
        raise UsageError(
            f"{source} is a file: give the folder that holds it, {os.path.dirname(source) or '.'}. A single-file "
            "checkpoint becomes a folder by StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)."
        )
    with reading(source, revision):
        return Path(snapshot_download(source, revision=revision, allow_patterns=files, **hub))


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UsageError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read as JSON ({error}).") from None


def student_settings(config: dict) -> dict[str, int | bool | float | list[int]]:
    """The options of our pipelines that disback_config.json implies: `conditioning_timestep` and `few_step` or
    `student_timesteps`, or `conditioning_sigma`, or `inference_steps`.
    """
    if not config:
        return {}
    if "sigmas" in config:
        return {"conditioning_sigma": config["sigmas"][0]}
    if "inference_steps" in config:
        return {"inference_steps": config["inference_steps"]}
    first, *later = config["timesteps"]
    if "student_steps" in config:
        return {"conditioning_timestep": first, "student_timesteps": config["timesteps"]}
    return {"conditioning_timestep": first, **({"few_step": True} if later else {})}


def config_of_folder(source: str | os.PathLike | None) -> dict:
    """disback_config.json of a whole pipeline, from its folder or from the cache of its Hub id; empty without one."""
    try:
        folder = fetch(source, [CONFIG_NAME, INDEX_NAME], local_files_only=True) if source else None
        return read_config(folder) if folder and (folder / INDEX_NAME).is_file() else {}
    except (UsageError, RunError):  # it was loaded from somewhere else
        return {}


@dataclass(frozen=True)
class Artifact:
    """A saved student, from a training run, from `DisBackPipeline.save_pretrained`, or put together by hand.

    Attributes:
        source (`str`): folder or Hub id.
        folder (`Path`): the folder with its small files.
        revision (`str` or `None`): of a Hub repository, the commit that all files are taken from.
        config (`dict`): disback_config.json, empty without one.
        kind (`str`): "full" (a whole pipeline), "lora" or "unet".
    """

    source: str
    folder: Path
    revision: str | None
    config: dict
    kind: str

    @classmethod
    def find(cls, source: str | os.PathLike, revision: str | None = None, **hub) -> "Artifact":
        """Identify a student by its files. If there are both a LoRA and a UNet, the config decides.

        Args:
            source (`str` or `os.PathLike`): a folder, a Hub id, or "embedded".
            revision (`str`, *optional*), hub: as in `fetch`.

        Raises:
            UsageError: there is no student, the configuration is broken, or as in `fetch`.
            RunError: as in `fetch`.
        """
        source = resolve(source)
        wanted = [CONFIG_NAME, CARD_NAME, INDEX_NAME, LORA_NAME, TEACHER_LORA_NAME, *UNET_CONFIGS]
        folder = fetch(source, wanted, revision, **hub)
        config = read_config(folder)
        has_unet = _unet_subfolder(folder) is not None
        if (folder / INDEX_NAME).is_file():
            kind = "full"
        elif (folder / LORA_NAME).is_file() and not (has_unet and config.get("student") == "full"):
            kind = "lora"
        elif has_unet:
            kind = "unet"
        else:
            raise UsageError(
                f"{source} holds no student: there is no {INDEX_NAME} (a pipeline), no {LORA_NAME} (a LoRA) and no "
                f"{' or '.join(UNET_CONFIGS)} of a UNet."
            )
        return cls(source, folder, None if os.path.isdir(source) else folder.name, config, kind)

    @property
    def unet_subfolder(self) -> str | None:
        """The folder of the UNet in `source`: "unet", or "" for the top level; None without a UNet."""
        return _unet_subfolder(self.folder)

    @property
    def unet_config(self) -> dict:
        """The config of its UNet.

        Raises:
            UsageError: it cannot be read.
        """
        return read_json(self.folder / self.unet_subfolder / "config.json")

    def base(
        self, base_model: str | os.PathLike | None = None, base_revision: str | None = None
    ) -> tuple[str, str | None, str | None]:
        """The base model: folder or Hub id, revision, and variant.

        The argument has precedence, then disback_config.json, then the card. The recorded revision and variant are
        only used with the recorded base.

        Raises:
            UsageError: none of them names a base.
        """
        recorded = self.config.get("base_model")
        base = str(base_model or recorded or self._base_of_card() or "")
        if not base:
            raise UsageError(f"{self.source} does not say which base model it belongs to: pass base_model=...")
        variant = None
        if base == recorded:
            base_revision = self.config.get("base_revision") if base_revision is None else base_revision
            variant = self.config.get("variant")
        return resolve(base), base_revision, variant

    def _base_of_card(self):
        card = self.folder / CARD_NAME
        try:
            base = (metadata_load(card) or {}).get("base_model") if card.is_file() else None
        except yaml.YAMLError:
            raise UsageError(
                f"the front matter of {card} is not valid YAML: correct it, or pass base_model=..."
            ) from None
        return base[0] if isinstance(base, list) and base else base

    def check_base(self, base: str, base_folder: Path) -> None:
        """Raise a UsageError if the UNet does not fit the base model.

        Args:
            base (`str`): folder or Hub id of the base, for the message.
            base_folder (`Path`): the folder with its small files.
        """
        place = _unet_subfolder(base_folder)
        theirs = read_json(base_folder / (UNET_FOLDER if place is None else place) / "config.json")
        ours = self.unet_config
        for key in UNET_INTERFACE:
            if ours.get(key) != theirs.get(key):
                raise UsageError(
                    f"{self.source} does not fit the base model {base}: its UNet has {key} {ours.get(key)}, the "
                    f"base's {theirs.get(key)}. Pass the base it was distilled from with base_model=..."
                )

    def load_unet(self, kwargs: dict) -> ModelMixin:
        """The student's UNet.

        Args:
            kwargs (`dict`): of `from_pretrained` of the pipeline; those that a model takes are passed on.

        Raises:
            UsageError: its files are missing or damaged.
        """
        with self._reading(f"{self.unet_subfolder or '.'}/"):
            cls = NETWORKS[self.unet_config["_class_name"]]
            options = {"subfolder": self.unet_subfolder, "revision": self.revision, **options_of_the_unet(kwargs)}
            return load_network(cls, self.source, **options)

    def load_merged_unet(self, base: str, base_folder: Path, revision: str | None, kwargs: dict) -> ModelMixin:
        """The UNet of the base model with the LoRA merged into its weights.

        Args:
            base (`str`): folder or Hub id of the base. revision (`str` or `None`): of it.
            base_folder (`Path`): the folder with its small files.
            kwargs (`dict`): as in `load_unet`, and `variant`.

        Raises:
            UsageError: a file cannot be read, or the LoRA does not fit.
        """
        place, variant = _unet_subfolder(base_folder), kwargs.get("variant")
        if place is None:
            raise UsageError(f"{base}/{UNET_FOLDER} cannot be loaded: it has no config.json of a UNet.")
        config = read_json(base_folder / place / "config.json")
        where = {"revision": revision, "subfolder": place, "variant": variant}
        try:
            network = load_network(NETWORKS[config["_class_name"]], base, **where, **options_of_the_unet(kwargs))
        except Exception as error:  # of several libraries: files that are missing, damaged, or of another kind
            problem = weights_hint(base, variant, revision) or one_line(error)
            raise UsageError(f"{base}/{UNET_FOLDER} cannot be loaded: {problem}") from None
        with self._reading(LORA_NAME):
            state, config = read_lora(self.folder / LORA_NAME)
            merge_lora(network, state, config)
        return network

    @contextmanager
    def _reading(self, name):
        try:
            yield
        except UsageError as error:
            raise UsageError(f"{self.source}/{name} {error}") from None
        except Exception as error:  # of four libraries: the file is missing, truncated or of another kind
            raise UsageError(
                f"{self.source}/{name} cannot be read ({one_line(error)}): restore it, or download it again."
            ) from None

    def attach_lora(self, pipe: DiffusionPipeline, base: str) -> None:
        """Load the LoRA into a pipeline as the adapter "disback".

        Args:
            pipe (`DiffusionPipeline`): of the base model.
            base (`str`): folder or Hub id of the base, for the message.

        Raises:
            UsageError: the file cannot be read, or not all of it fits the UNet. (diffusers would skip the rest with a
                warning.)
        """
        with self._reading(LORA_NAME):
            with safe_open(self.folder / LORA_NAME, "pt") as opened:
                refuse_dora(opened.keys())
            state, alphas, metadata = pipe.lora_state_dict(
                str(self.folder), weight_name=LORA_NAME, unet_config=pipe.unet.config, return_lora_metadata=True
            )
        problem = None
        try:
            # Not `load_lora_weights`: it would warn that the text encoder has no LoRA.
            pipe.load_lora_into_unet(state, alphas, pipe.unet, adapter_name=ADAPTER, metadata=metadata, _pipeline=pipe)
            loaded = sum(f".{ADAPTER}." in name for name, _ in pipe.unet.named_parameters())
            if loaded != len(state):
                problem = f"{loaded} of its {len(state)} tensors have a place there"
        except Exception as error:  # of four libraries, depending on what does not fit
            problem = one_line(error)
        if problem:
            raise UsageError(
                f"{self.source}/{LORA_NAME} does not fit the base model {base} ({problem}). "
                "Pass the base it was distilled from with base_model=..."
            )


def _unet_subfolder(folder):
    """The folder of a UNet in `folder`: "unet", or "" for the top level; None without a UNet."""
    for name in UNET_CONFIGS:
        file = folder / name
        # A config.json at the top level can be that of another kind of model.
        if file.is_file() and read_json(file).get("_class_name") in NETWORKS:
            return file.parent.relative_to(folder).as_posix().removeprefix(".")
    return None
