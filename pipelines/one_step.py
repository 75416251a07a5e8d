# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the one-step pipelines of all families share."""

import copy
import inspect

from diffusers import LCMScheduler
from diffusers.utils import logging

from disback_diffusers.errors import UsageError
from disback_diffusers.hub import public_config, write_artefact_config

from .artefact import HUB_KWARGS, INDEX_NAME, UNET_CONFIGS, Artefact, fetch, read_json


logger = logging.get_logger(__name__)

DEFAULT_TIMESTEP = 399
FAMILIES = {}  # the class a base model's model_index.json names -> the pipeline of its students


def one_step_scheduler(scheduler, timestep):
    """The LCMScheduler of the same noise schedule, cut off after `timestep`.

    Its one and only step starts there, also in plain diffusers where nobody passes `timesteps=[...]`. The step is the
    plain x0 estimate (Eq. 20): the boundary condition LCM adds shares out c_skip = 1 / (1 + 400 timestep^2), 1.6e-8 at
    timestep 399, to the noise.

    Args:
        scheduler (`SchedulerMixin`): of a model trained with betas.
        timestep (`int`): the conditioning timestep.

    Raises:
        UsageError: the timestep is outside of the schedule.
    """
    known = inspect.signature(LCMScheduler.__init__).parameters
    config = {key: value for key, value in scheduler.config.items() if key in known or key.startswith("_")}
    whole = LCMScheduler.from_config(config)
    if not 0 < timestep < len(whole.betas):
        raise UsageError(
            f"conditioning timestep {timestep} is outside of the base model's schedule, 1 to {len(whole.betas) - 1}."
        )
    return LCMScheduler.from_config(
        whole.config,
        trained_betas=whole.betas[: timestep + 1].tolist(),
        rescale_betas_zero_snr=False,  # these betas are already
        num_train_timesteps=timestep + 1,
        original_inference_steps=1,
    )


def fused_copy(unet):
    """A copy of a UNet with its active adapters, at their current weights, worked into it; without any, itself."""
    if not getattr(unet, "peft_config", None):
        return unet
    fused = copy.deepcopy(unet)
    fused.fuse_lora()
    fused.unload_lora()
    return fused


class OneStepPipeline:
    """What the families share: loading three kinds of artefact, and saving as the stock pipeline of the family.

    A family is a class that derives from this one and from `stock_class`.
    """

    stock_class = None
    stock_options = ()  # of the constructor, beside the components

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "stock_class" in vars(cls):
            FAMILIES[cls.stock_class.__name__] = cls

    def _make_one_step(self, conditioning_timestep):
        """At the end of a constructor; not before the stock one, which mends outdated scheduler settings."""
        self.register_modules(scheduler=one_step_scheduler(self.scheduler, conditioning_timestep))
        self.register_to_config(conditioning_timestep=conditioning_timestep)
        self._artefact_config = {}

    @property
    def conditioning_timestep(self):
        """The timestep at which the student was trained to turn pure noise into an image."""
        return self.config.conditioning_timestep

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        base_model=None,
        *,
        base_revision=None,
        conditioning_timestep=None,
        **kwargs,
    ):
        """Load a student from a folder or from the Hub, whichever of three kinds it is.

        A whole pipeline (model_index.json) is loaded as it is. A LoRA (pytorch_lora_weights.safetensors) or a UNet
        (unet/config.json) is put on its base model, and the LoRA stays an adapter, named "disback".

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): a folder or a Hub id.
            base_model (`str` or `os.PathLike`, *optional*): folder or Hub id of the base model; by default the one
                that disback_config.json, or else the model card, names.
            base_revision (`str`, *optional*): of the base model; by default the recorded one.
            conditioning_timestep (`int`, *optional*): by default the one in disback_config.json; without either it is
                taken to be 399, with a warning.
            kwargs: as in diffusers. `revision` is that of the student's repository, never the base's. `variant` is
                that of the whole pipeline, or of the base model: a LoRA or a UNet of ours has no variants. Pickled
                weights are only read with `use_safetensors=False`.

        Raises:
            UsageError: nothing that can be loaded, no or an unsuitable base model, a broken disback_config.json.
            RunError: the Hub cannot be reached and the cache does not hold what is needed.
        """
        kwargs.setdefault("use_safetensors", True)
        hub = {key: kwargs[key] for key in HUB_KWARGS if key in kwargs}
        artefact = Artefact.find(str(pretrained_model_name_or_path), kwargs.pop("revision", None), **hub)
        if artefact.kind == "full":
            base, revision, family = artefact.source, artefact.revision, cls._family(artefact.source, artefact.folder)
            if base_model is not None:
                logger.warning(f"{artefact.source} is a whole pipeline: base_model={base_model} is not needed.")
        else:
            base, revision = artefact.base(base_model, base_revision)
            base_folder, family = cls._base(artefact, base, revision, hub)
        if artefact.kind == "unet":
            artefact.check_base(base, base_folder)
            kwargs["unet"] = artefact.load_unet(kwargs)
        load = super(OneStepPipeline, family).from_pretrained
        timestep = cls._timestep(artefact) if conditioning_timestep is None else conditioning_timestep
        pipe = load(base, revision=revision, conditioning_timestep=timestep, **kwargs)
        if artefact.kind == "lora":
            artefact.attach_lora(pipe, base)
        pipe._artefact_config = artefact.config
        return pipe

    @staticmethod
    def _timestep(artefact):
        timestep = artefact.config.get("conditioning_timestep")
        if timestep is None:
            timestep = DEFAULT_TIMESTEP
            logger.warning(
                f"{artefact.source} has no disback_config.json: taking {timestep} as its conditioning timestep. "
                "If it is another one, images are blurred or noisy: pass conditioning_timestep=..."
            )
        return timestep

    @classmethod
    def _base(cls, artefact, base, revision, hub):
        """The folder with the base model's small files, and its family."""
        try:
            folder = fetch(base, [INDEX_NAME, UNET_CONFIGS[0]], revision, **hub)
            return folder, cls._family(base, folder)
        except UsageError as error:
            raise UsageError(
                f"the base model of {artefact.source} cannot be used: {error} Another one can be given with "
                "base_model=..."
            ) from None

    @staticmethod
    def _family(source, folder):
        name = read_json(folder / INDEX_NAME).get("_class_name") if (folder / INDEX_NAME).is_file() else None
        if name not in FAMILIES:
            what = f"is a {name}" if name else f"has no {INDEX_NAME}"
            raise UsageError(f"{source} {what}; there are students of: {', '.join(FAMILIES)}.")
        return FAMILIES[name]

    def save_pretrained(self, save_directory, **kwargs):
        """Save a whole pipeline that plain diffusers loads as well, under the stock class's name; arguments as there.

        A LoRA is fused into the saved UNet: model_index.json has no place for one, and who loads the pipeline without
        this package would get the base model. In fp16 or bf16 the weights are rounded once more by that.
        """
        config = {key: value for key, value in self._artefact_config.items() if not key.startswith("lora_")}
        config |= {"student": "full", "conditioning_timestep": self.conditioning_timestep}
        # First of all, as `push_to_hub=True` uploads the folder at the end of the stock method.
        write_artefact_config(save_directory, public_config(config))
        components = {**self.components, "unet": fused_copy(self.unet)}
        stock = self.stock_class(**components, **{name: self.config[name] for name in self.stock_options})
        stock.save_pretrained(str(save_directory), **kwargs)

    def _check_one_step(self, num_inference_steps, timesteps, guidance_scale, negative_prompt, negative_prompt_embeds):
        """Refuse what has no effect on a one-step student; accept what merely says so, as a stock call would."""
        at = self.conditioning_timestep
        if num_inference_steps not in (None, 1):
            raise UsageError(f"num_inference_steps={num_inference_steps}: the student was trained for 1 step.")
        if timesteps is not None and list(timesteps) != [at]:
            raise UsageError(f"timesteps={list(timesteps)}: the student was trained for timesteps=[{at}].")
        if guidance_scale is not None and guidance_scale > 1:
            raise UsageError(
                f"guidance_scale={guidance_scale}: the student has learned guidance and makes no unconditional pass; "
                "leave it out, or give 0 or 1."
            )
        if negative_prompt or negative_prompt_embeds is not None:
            raise UsageError("negative_prompt: the student makes no unconditional pass in which it could act.")
