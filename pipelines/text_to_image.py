# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the text-to-image pipelines share: timesteps, the student's LoRA, calls, and taking over other pipelines."""

from functools import cached_property

from diffusers import DiffusionPipeline
from diffusers.utils import logging

from disback_diffusers.artifact.load import config_of_folder, student_settings
from disback_diffusers.errors import UsageError
from disback_diffusers.models.lcm_lora import lcm_scheduler, timesteps_by_steps

from .adapters import StudentLoraMixin, fused_copy
from .call_arguments import chosen_steps, chosen_timesteps, without_effect
from .call_checks import checked, finite_images, is_count
from .schedulers import few_step_scheduler, has_timesteps, one_step_scheduler, one_step_timestep, starting_timestep
from .student import FAMILIES, StudentPipeline


logger = logging.get_logger(__name__)


class TextToImagePipeline(StudentLoraMixin, StudentPipeline):
    """Base of the text-to-image pipelines."""

    student_options = ("conditioning_timestep", "few_step", "student_timesteps", "inference_steps")

    def _make_student(self, conditioning_timestep, few_step, student_timesteps, inference_steps):
        """Call it at the end of a constructor: the stock one corrects outdated scheduler settings first."""
        self._student_config = {}
        if inference_steps is not None:
            self._make_guided_student(conditioning_timestep, few_step, student_timesteps, inference_steps)
            return
        self.register_to_config(inference_steps=None)
        if student_timesteps and len(student_timesteps) > 1 and one_step_timestep(self.scheduler) is None:
            self._make_few_step_student(conditioning_timestep, few_step, list(student_timesteps))
            return
        timestep = starting_timestep(self.scheduler, conditioning_timestep)
        few_step = bool(few_step) and one_step_timestep(self.scheduler) is None
        scheduler = one_step_scheduler(self.scheduler, timestep)  # also checks the timestep
        if few_step:
            scheduler = lcm_scheduler(self.scheduler.config)
        self.register_modules(scheduler=scheduler)
        self.register_to_config(conditioning_timestep=timestep, few_step=few_step, student_timesteps=None)

    def _make_guided_student(self, conditioning_timestep, few_step, student_timesteps, inference_steps):
        given = {"conditioning_timestep": conditioning_timestep, "few_step": few_step or None,
                 "student_timesteps": student_timesteps}  # fmt: skip
        if wrong := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{wrong[0]}: this student takes the steps of its base model's scheduler: leave it out.")
        if not is_count(inference_steps):
            raise UsageError(f"inference_steps={inference_steps!r} must be a whole number greater than 0.")
        nothing = dict.fromkeys(("conditioning_timestep", "student_timesteps"))
        self.register_to_config(**nothing, few_step=False, inference_steps=inference_steps)

    def _make_few_step_student(self, conditioning_timestep, few_step, timesteps):
        first = timesteps[0] if conditioning_timestep is None else conditioning_timestep
        if first != timesteps[0] or few_step:
            given = "few_step=True" if few_step else f"conditioning_timestep={first}"
            raise UsageError(f"{given} contradicts student_timesteps={timesteps}: leave it out.")
        self.register_modules(scheduler=few_step_scheduler(self.scheduler, timesteps))
        self.register_to_config(conditioning_timestep=first, few_step=False, student_timesteps=timesteps)

    @property
    def conditioning_timestep(self) -> int | None:
        """The timestep at which the student was trained to turn pure noise into an image; None where it is not."""
        return self.config.conditioning_timestep

    @cached_property
    def _timesteps_by_steps(self):
        if own := self.config.student_timesteps:
            return {count: own[:count] for count in range(1, len(own) + 1)}
        first, trained = self.conditioning_timestep, self._student_config.get("timesteps")
        return timesteps_by_steps(self.scheduler.config, first, trained) if self.config.few_step else {1: [first]}

    # -----------------------------------------------------------------------------------------------------------------
    # Loading

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs) -> "TextToImagePipeline":
        """A pipeline with the same components, for SDXL a `DisBackXLPipeline`.

        The precision stays the same unless `dtype` is given. (diffusers would convert to float32.)

        Args:
            pipeline (`DiffusionPipeline`): a Stable Diffusion or SDXL pipeline with the UNet of a student.
            kwargs: components and options that replace those of the pipeline. The default of `conditioning_timestep`
                is that of the pipeline, of the folder it was loaded from, or of its scheduler. Without any it is 399,
                with a warning.

        Raises:
            UsageError: `pipeline` is of another kind, or an argument is unknown.
        """
        if not isinstance(pipeline, DiffusionPipeline):
            remedy = "use from_pretrained for a folder or Hub id" if isinstance(pipeline, str) else "give a pipeline"
            raise UsageError(f"from_pipe: {pipeline!r} is not a pipeline; {remedy}.")
        other = FAMILIES.get(getattr(pipeline, "stock_class", type(pipeline)).__name__)
        if other and not issubclass(other, TextToImagePipeline):
            return other.from_pipe(pipeline, **kwargs)
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        family = FAMILIES[
            "StableDiffusionXLPipeline" if "text_encoder_2" in pipeline.components else "StableDiffusionPipeline"
        ]
        saved, config = config_of_folder(pipeline.config.get("_name_or_path")), dict(pipeline.config)
        # Where a stock class was made of one of ours, it has kept our options under other names.
        kept = {name: config[f"_{name}"] for name in family.student_options if f"_{name}" in config}
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
        """Call the stock pipeline with the arguments (`dict`) of a call of ours.

        Raises:
            UsageError: an argument is not valid.
            NotFiniteError: an image has NaN or infinite values.
        """
        self._warn_if_student_is_off()
        arguments = checked(self, without_effect(given))
        steps, timesteps = arguments.pop("num_inference_steps"), arguments.pop("timesteps")
        if own := self.config.inference_steps:
            arguments["num_inference_steps"] = chosen_steps(steps, timesteps, own)
        else:
            default = len(self.config.student_timesteps or [None])
            arguments["timesteps"] = chosen_timesteps(self._timesteps_by_steps, steps, timesteps, default)
        return finite_images(self, stock_call, arguments)

    # -----------------------------------------------------------------------------------------------------------------
    # Saving

    def _stock(self):
        components = {name: fused_copy(component) for name, component in self.components.items()}
        options = {name: self.config[name] for name in self.stock_options}
        if own := self.config.inference_steps:
            return self.stock_class(**components, **options), [own]
        steps, last = list(self._timesteps_by_steps), self.scheduler.config.num_train_timesteps - 1
        own = self.config.student_timesteps
        if own and not has_timesteps(self.scheduler, own):
            logger.warning(
                f"The saved pipeline has one step only: plain diffusers would space several steps evenly, and not as "
                f"student_timesteps={own}."
            )
            steps, components["scheduler"] = [1], one_step_scheduler(self.scheduler, self.conditioning_timestep)
        elif self.conditioning_timestep != last:  # where an LCMScheduler starts by default
            if len(steps) > 1:
                logger.warning(
                    f"The saved pipeline has one step only: plain diffusers would start several steps at {last}, not "
                    f"at conditioning_timestep={self.conditioning_timestep}."
                )
            steps, components["scheduler"] = [1], one_step_scheduler(self.scheduler, self.conditioning_timestep)
        return self.stock_class(**components, **options), steps

    def _times(self, steps):
        if own := self.config.inference_steps:
            return {"inference_steps": own}
        if self.config.student_timesteps and len(steps) > 1:
            return {"timesteps": list(self.config.student_timesteps)}
        timesteps = {t for count in steps for t in self._timesteps_by_steps[count]}
        of_sequence = {"student_steps": 1} if self.config.student_timesteps else {}  # one step of several is left
        return {"timesteps": sorted(timesteps, reverse=True), **of_sequence}
