# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the pipelines of all families share: loading three kinds of artifact, generating, saving and publishing."""

import os
import tempfile
from functools import cached_property
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from disback_diffusers.artifact.load import (
    HUB_KWARGS,
    INDEX_NAME,
    UNET_CONFIGS,
    Artifact,
    config_of_folder,
    fetch,
    read_json,
    student_settings,
)
from disback_diffusers.errors import UsageError, one_line
from disback_diffusers.files import CONFIG_NAME
from disback_diffusers.hub import create_hub_repo, upload_pipeline
from disback_diffusers.models.lcm_lora import lcm_scheduler, timesteps_by_steps
from disback_diffusers.models.pipeline_files import refuse_single_file, weights_hint
from disback_diffusers.models.text_parts import has_vocabulary

from .adapters import ADAPTER, StudentLoraMixin, adapters
from .call_arguments import chosen_timesteps, without_effect
from .call_checks import checked, finite_images
from .saving import save_stock
from .schedulers import (
    DEFAULT_TIMESTEP,
    checked_timestep,
    one_step_scheduler,
    one_step_timestep,
)


logger = logging.get_logger(__name__)

STUDENT_OPTIONS = ("conditioning_timestep", "few_step")  # of the constructors, beside the stock ones
HUB_ARGUMENTS = ("repo_id", "token", "commit_message", "private", "create_pr")
FAMILIES = {}  # the class a base model's model_index.json names -> the pipeline of its students


class OneStepPipeline(StudentLoraMixin):
    """What the families share. A family is a class that derives from this one and from `stock_class`."""

    stock_class = None
    stock_options = ()  # of the constructor, beside the components

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "stock_class" in vars(cls):
            FAMILIES[cls.stock_class.__name__] = cls

    def _make_student(self, conditioning_timestep, few_step):
        """At the end of a constructor; not before the stock one, which corrects outdated scheduler settings."""
        made_for, timestep = one_step_timestep(self.scheduler), conditioning_timestep
        if timestep is None and made_for is None:
            timestep = DEFAULT_TIMESTEP
            logger.warning(
                f"Nothing says at which timestep the student was trained to start: taking {timestep}. If it is "
                "another one, images are blurred or noisy: pass conditioning_timestep=..."
            )
        timestep = made_for if timestep is None else checked_timestep(timestep)
        few_step = bool(few_step) and made_for is None
        scheduler = one_step_scheduler(self.scheduler, timestep)  # checks the timestep in any case
        if few_step:
            scheduler = lcm_scheduler(self.scheduler.config)
        self.register_modules(scheduler=scheduler)
        self.register_to_config(conditioning_timestep=timestep, few_step=few_step)
        self._student_config = {}

    @property
    def conditioning_timestep(self) -> int:
        """The timestep at which the student was trained to turn pure noise into an image (`int`)."""
        return self.config.conditioning_timestep

    @cached_property
    def _timesteps_by_steps(self):
        first = self.conditioning_timestep
        return timesteps_by_steps(self.scheduler.config, first) if self.config.few_step else {1: [first]}

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
        **kwargs,
    ) -> "OneStepPipeline":
        """Load a student from a folder or from the Hub, whichever of three kinds it is.

        A whole pipeline (model_index.json) is loaded as it is. A LoRA (pytorch_lora_weights.safetensors) or a UNet
        (unet/config.json) is put on its base model, and the LoRA stays an adapter, named "disback".

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): a folder or a Hub id.
            base_model (`str` or `os.PathLike`, *optional*): folder or Hub id of the base model; by default the one
                that disback_config.json, or else the model card, names.
            base_revision (`str`, *optional*): of the base model; by default the recorded one.
            conditioning_timestep (`int`, *optional*): by default the one in disback_config.json or, of a whole
                pipeline, in its scheduler; without any it is taken to be 399, with a warning.
            kwargs: as in diffusers. `revision` is that of the student's repository, never the base's. `variant` is
                that of the whole pipeline, or of the base model, by default the one it was trained with; a LoRA or a
                UNet of ours has no variants. A component, such as `unet`, takes the place of the one that would be
                loaded; `unet=None` leaves the student out, to encode prompts only. All parts are loaded in float32
                unless `dtype` is given. Pickled weights are only read with `use_safetensors=False`.

        Raises:
            UsageError: nothing that can be loaded, no or an unsuitable base model, a broken disback_config.json.
            RunError: the Hub cannot be reached and the cache does not hold what is needed.
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
        settings = student_settings(artifact.config)
        if conditioning_timestep is not None:
            settings["conditioning_timestep"] = checked_timestep(conditioning_timestep)
        pipe = family._load(base, revision=revision, **settings, **kwargs)
        if artifact.kind == "lora" and pipe.unet is not None:
            artifact.attach_lora(pipe, base)
        pipe._student_config = artifact.config
        return pipe

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
        for name, part in pipe.components.items():
            if name.startswith("tokenizer") and part is not None and not has_vocabulary(part):
                raise UsageError(f"{source} has no vocabulary in {name}/: files are missing there, download it again.")
        return pipe

    @classmethod
    def _base(cls, artifact, base, revision, hub):
        """The folder with the base model's small files, and its family."""
        try:
            refuse_single_file(base)
            folder = fetch(base, [INDEX_NAME, UNET_CONFIGS[0], CONFIG_NAME], revision, **hub)
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

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs) -> "OneStepPipeline":
        """A pipeline of the same components, of the family that `pipeline` has: SDXL becomes a `DisBackXLPipeline`.

        The precision stays as it is, unless `dtype` is given (diffusers would convert to float32).

        Args:
            pipeline (`DiffusionPipeline`): a Stable Diffusion or SDXL pipeline, with a student's UNet.
            kwargs: components and options that take the place of the pipeline's; `conditioning_timestep` is by default
                the pipeline's own, that of the folder it was loaded from, or that of its scheduler; without any it is
                taken to be 399, with a warning.

        Raises:
            UsageError: a pipeline of another kind.
        """
        if not isinstance(pipeline, DiffusionPipeline):
            remedy = "use from_pretrained for a folder or Hub id" if isinstance(pipeline, str) else "give a pipeline"
            raise UsageError(f"from_pipe: {pipeline!r} is not a pipeline; {remedy}.")
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        family = FAMILIES[
            "StableDiffusionXLPipeline" if "text_encoder_2" in pipeline.components else "StableDiffusionPipeline"
        ]
        saved, config = config_of_folder(pipeline.config.get("_name_or_path")), dict(pipeline.config)
        kept = {name: config[f"_{name}"] for name in STUDENT_OPTIONS if f"_{name}" in config}  # by a stock class
        given = {**student_settings(saved), **kept, **config, **pipeline.components, **kwargs}
        missing = {"vae", "text_encoder", "tokenizer", "unet", "scheduler"} - given.keys()
        if missing:
            raise UsageError(f"from_pipe: a {type(pipeline).__name__} has no {min(missing)}; give an SD or SDXL one.")
        components, options = family._get_signature_keys(family)
        known = {*components, *options}
        if unknown := kwargs.keys() - known:
            raise UsageError(f"from_pipe: a {family.__name__} has no {min(unknown)}.")
        new = family(**{name: value for name, value in given.items() if name in known})
        new.register_to_config(_name_or_path=config.get("_name_or_path"))
        new._student_config = getattr(pipeline, "_student_config", saved)
        return new if dtype is None else new.to(dtype=dtype)

    # -----------------------------------------------------------------------------------------------------------------
    # Generating

    def _generate(self, stock_call, given):
        """Call the stock pipeline with the arguments of ours (`dict`).

        Raises:
            UsageError: an argument that cannot work.
            NotFiniteError: images with values that are not finite numbers.
        """
        self._warn_if_student_is_off()
        arguments = checked(self, without_effect(given))
        steps, timesteps = arguments.pop("num_inference_steps"), arguments.pop("timesteps")
        arguments["timesteps"] = chosen_timesteps(self._timesteps_by_steps, steps, timesteps)
        return finite_images(self, stock_call, arguments)

    # -----------------------------------------------------------------------------------------------------------------
    # Saving

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Save a whole pipeline that plain diffusers loads as well, under the stock class's name; arguments as there.

        LoRAs that are active are fused into the saved weights: model_index.json has no place for one, and who loads
        the pipeline without this package would get the base model. In fp16 or bf16 the weights are rounded once more
        by that. The UNet is marked as guidance-distilled, so that plain diffusers makes no unconditional pass.
        README.md is the model card.
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
        """Save as `save_pretrained` does, and upload; arguments as in diffusers.

        A model card that somebody has edited on the Hub stays as it is.

        Returns:
            the address of the commit.

        Raises:
            UsageError: no valid name, or no token that may write there.
            RunError: the Hub cannot be reached, or the upload failed.
        """
        repo_id = create_hub_repo(repo_id, token, private)
        with tempfile.TemporaryDirectory() as folder:
            save_stock(self, Path(folder), repo_id, **kwargs)
            return upload_pipeline(folder, repo_id, token, commit_message, create_pr, subfolder)
