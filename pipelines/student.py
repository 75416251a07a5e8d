# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the pipelines of all students share: loading, saving and publishing."""

import os
import tempfile
from pathlib import Path

import torch
from diffusers.utils import logging

from disback_diffusers.artifact.load import (
    ADAPTER,
    INDEX_NAME,
    UNET_CONFIGS,
    Artifact,
    fetch,
    read_json,
    student_settings,
)
from disback_diffusers.artifact.networks import HUB_KWARGS
from disback_diffusers.artifact.teacher_lora import fuse_teacher_lora
from disback_diffusers.errors import UsageError, one_line
from disback_diffusers.files import CONFIG_NAME
from disback_diffusers.hub import create_hub_repo, upload_pipeline
from disback_diffusers.models.pipeline_files import refuse_single_file, weights_hint
from disback_diffusers.models.text_parts import has_vocabulary

from .adapters import adapters
from .saving import save_stock


logger = logging.get_logger(__name__)

HUB_ARGUMENTS = ("repo_id", "token", "commit_message", "private", "create_pr")
FAMILIES = {}  # class in the model_index.json of a base model -> pipeline of its students


def _missing_weights(component):
    """Names of the weights that no file had: diffusers leaves them without values. Offloading does so on purpose."""
    if not isinstance(component, torch.nn.Module) or getattr(component, "hf_device_map", None):
        return []
    return [name for name, parameter in component.named_parameters() if parameter.is_meta]


class StudentPipeline:
    """Base of the pipelines of all students. Each derives from this class and from its `stock_class`.

    Attributes:
        stock_class (`type`): the class that a student is saved as.
        stock_options (`tuple[str]`): options of its constructor, beside the components.
        student_options (`tuple[str]`): options of the constructor that the stock class does not have.
        base_classes (`tuple[str]`): classes of base models, beside the stock class.
        merges_lora (`bool`): whether a LoRA student is merged into the weights.
    """

    stock_class = None
    stock_options = ()
    student_options = ()
    base_classes = ()
    merges_lora = False
    _student_is_off = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "stock_class" in vars(cls):
            FAMILIES.update(dict.fromkeys((cls.stock_class.__name__, *cls.base_classes), cls))

    # -----------------------------------------------------------------------------------------------------------------
    # Loading

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        base_model: str | os.PathLike | None = None,
        *,
        base_revision: str | None = None,
        conditioning_timestep: int | None = None,
        conditioning_sigma: float | None = None,
        **kwargs,
    ) -> "StudentPipeline":
        """Load a student from a folder or from the Hub. There are three kinds:

        - A whole pipeline (model_index.json) is loaded as it is.
        - A LoRA (pytorch_lora_weights.safetensors) is loaded into its base model as the adapter "disback"; on pixels
          it is merged into the weights.
        - A UNet (unet/config.json) replaces the one of its base model.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): a folder or a Hub id.
            base_model (`str` or `os.PathLike`, *optional*): folder or Hub id of the base model. The default is the one
                in disback_config.json, or else in the model card.
            base_revision (`str`, *optional*): of the base model. The default is the recorded one.
            conditioning_timestep (`int`, *optional*): the default is the one in disback_config.json or, for a whole
                pipeline, in its scheduler. Without either it is 399, with a warning.
            conditioning_sigma (`float`, *optional*): the same for a base with noise levels; there it is the highest.
            kwargs: as in diffusers, with these differences:
                - `revision` is that of the student's repository, never of the base.
                - `variant` is that of the whole pipeline or of the base model. The default is the one that was used in
                  training. Our LoRAs and UNets have no variants.
                - A component, such as `unet`, replaces the one that would be loaded. `unet=None` loads no student, for
                  encoding prompts only.
                - All components are loaded in float32 unless `dtype` is given.
                - Pickled weights are only read with `use_safetensors=False`.

        Raises:
            UsageError: the student cannot be loaded, or its base model is unknown or does not fit.
            RunError: the Hub cannot be reached and the files are not in the cache.
        """
        if not isinstance(pretrained_model_name_or_path, str | os.PathLike):
            raise UsageError(f"from_pretrained: {pretrained_model_name_or_path!r} is no folder and no Hub id.")
        if ADAPTER in adapters(kwargs.get("unet")):
            raise UsageError(
                "unet already carries a student's LoRA: give a UNet without one, or use from_pipe on its pipeline."
            )
        kwargs.setdefault("use_safetensors", True)
        if "torch_dtype" not in kwargs:  # transformers would take the precision of the file, diffusers float32
            kwargs.setdefault("dtype", torch.float32)
        hub = {key: kwargs[key] for key in HUB_KWARGS if key in kwargs}
        artifact = Artifact.find(str(pretrained_model_name_or_path), kwargs.pop("revision", None), **hub)
        if artifact.kind == "full":
            base, revision, folder = artifact.source, artifact.revision, artifact.folder
            family = cls._family(base, folder)
            kwargs.setdefault("variant", artifact.config.get("variant"))
            if base_model is not None:
                logger.warning(f"{artifact.source} is a whole pipeline: base_model={base_model} is not needed.")
        else:
            base, revision, variant = artifact.base(base_model, base_revision)
            kwargs.setdefault("variant", variant)
            folder, family = cls._base(artifact, base, revision, hub)
        if artifact.kind == "unet" and "unet" not in kwargs:
            artifact.check_base(base, folder)
            kwargs["unet"] = artifact.load_unet(kwargs)
        elif artifact.kind == "lora" and "unet" not in kwargs and family.merges_lora:
            kwargs["unet"] = artifact.load_merged_unet(base, folder, revision, kwargs)
        given = {"conditioning_timestep": conditioning_timestep, "conditioning_sigma": conditioning_sigma}
        settings = family._settings(artifact, {name: value for name, value in given.items() if value is not None})
        pipe = family._load(base, revision=revision, **settings, **kwargs)
        if artifact.kind == "lora" and pipe.unet is not None and not family.merges_lora:
            if lora := artifact.config.get("teacher_lora"):
                fuse_teacher_lora(pipe, artifact.source, artifact.folder, lora["strength"])
            artifact.attach_lora(pipe, base)
        pipe._student_config = artifact.config
        pipe._check_student()
        return pipe

    @classmethod
    def _settings(cls, artifact, given):
        """The options of the constructor: those given, or those of disback_config.json."""
        if unknown := given.keys() - set(cls.student_options):
            raise UsageError(f"{min(unknown)}: {artifact.source} is a student of {cls._kind()}: leave it out.")
        recorded = student_settings(artifact.config)
        if recorded.keys() - set(cls.student_options):
            raise UsageError(f"{artifact.source} does not fit its base model, which has {cls._kind()}.")
        return {**recorded, **given}

    @classmethod
    def _kind(cls):
        return "noise levels" if "conditioning_sigma" in cls.student_options else "timesteps"

    @classmethod
    def _load(cls, source, **kwargs):
        """`from_pretrained` of the stock class."""
        try:
            pipe = super().from_pretrained(source, **kwargs)
        except UsageError:
            raise
        except Exception as error:  # of four libraries: files that are missing, damaged, or of another variant
            safe = kwargs.get("use_safetensors")
            hint = weights_hint(source, kwargs.get("variant"), kwargs.get("revision")) if safe else None
            raise UsageError(f"{source} cannot be loaded: {hint or one_line(error)}") from error
        for name, component in pipe.components.items():
            if missing := _missing_weights(component):
                more = f"{missing[0]} in {name}/ (and {len(missing) - 1} more)"
                raise UsageError(f"{source} lacks {more}: restore it, or download it again.")
            if name.startswith("tokenizer") and component is not None and not has_vocabulary(component):
                raise UsageError(f"{source} has no vocabulary in {name}/: files are missing there, download it again.")
        return pipe

    @classmethod
    def _base(cls, artifact, base, revision, hub):
        """The folder with the small files of the base model, and its family."""
        try:
            refuse_single_file(base)
            folder = fetch(base, [INDEX_NAME, *UNET_CONFIGS, CONFIG_NAME], revision, **hub)
            if (folder / CONFIG_NAME).is_file():
                raise UsageError(f"{base} is a student itself, not the model that it was distilled from.")
            return folder, cls._family(base, folder)
        except UsageError as error:
            raise UsageError(
                f"the base model of {artifact.source} cannot be used: {error} Another one can be given with "
                "base_model=..."
            ) from None

    @staticmethod
    def _family(source, folder):
        name = read_json(folder / INDEX_NAME).get("_class_name") if (folder / INDEX_NAME).is_file() else None
        if name not in FAMILIES:
            what = f"is a {name}" if name else f"has no {INDEX_NAME}"
            raise UsageError(f"{source} {what}; there are students of: {', '.join(FAMILIES)}.")
        return FAMILIES[name]

    # -----------------------------------------------------------------------------------------------------------------
    # Saving

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Save a whole pipeline that plain diffusers can load too. Arguments as in diffusers.

        Active LoRAs are fused into the saved weights, as a pipeline folder cannot contain LoRAs. In fp16 or bf16 this
        rounds the weights once more. The UNet is marked as guidance-distilled, so that plain diffusers makes no
        unconditional pass. README.md is the model card.

        Raises:
            UsageError: an argument is not valid, there is no student, or the token cannot write to the repository.
            RunError: a file cannot be written, or the upload failed.
        """
        hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        save_directory = Path(save_directory).expanduser()
        if save_directory.is_file():
            raise UsageError(f"save_pretrained: {save_directory} is a file; give a folder.")
        if push_to_hub:
            hub["repo_id"] = create_hub_repo(hub.get("repo_id") or save_directory.name, hub.get("token"),
                                             hub.pop("private", None))  # fmt: skip
        save_stock(self, save_directory, hub.get("repo_id"), **kwargs)
        if push_to_hub:
            upload_pipeline(save_directory, **hub)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
        **kwargs,
    ) -> str:
        """Save the pipeline as in `save_pretrained` and upload it. Arguments as in diffusers.

        A model card that was edited on the Hub is not replaced.

        Returns:
            `str`: the address of the commit.

        Raises:
            UsageError: the name is not valid, or the token cannot write there.
            RunError: the Hub cannot be reached, or the upload failed.
        """
        repo_id = create_hub_repo(repo_id, token, private)
        with tempfile.TemporaryDirectory() as folder:
            save_stock(self, Path(folder), repo_id, **kwargs)
            return upload_pipeline(folder, repo_id, token, commit_message, create_pr, subfolder)

    def _warn_if_student_is_off(self):
        pass

    def _check_student(self):
        """Raise a UsageError where the student does not fit the base model it was loaded with."""

    def _stock(self):
        """The pipeline to save, of the stock class, and the numbers of steps it can take."""
        raise NotImplementedError

    def _times(self, steps):
        """The entry of disback_config.json that says when the student starts."""
        raise NotImplementedError
