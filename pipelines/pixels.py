# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One-step generation with a student of a pixel-space teacher, unconditional or of classes."""

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDPMPipeline,
    ImagePipelineOutput,
    ModelMixin,
    SchedulerMixin,
)
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

from disback_diffusers.diffusion.noise import NoiseSchedule
from disback_diffusers.errors import UsageError
from disback_diffusers.models.edm_unet import EDMUNet2DModel
from disback_diffusers.models.labels import parse_labels

from .call_arguments import chosen_timesteps
from .call_checks import OUTPUT_TYPES, check_finite, checked_generator, checked_noise, is_count
from .schedulers import one_step_scheduler, starting_timestep
from .student import StudentPipeline


logger = logging.get_logger(__name__)

ONLY_STEP = 2  # steps of a one-level scheduler: the second one, at noise level 0, leaves the image unchanged


class PixelPipeline(StudentPipeline):
    """Base of the pipelines on pixels. A LoRA student is merged into the weights."""

    merges_lora = True

    def _check_unet(self):
        if self.unet is None:
            raise UsageError("unet=None: a pipeline on pixels has nothing else; leave it out.")
        self._student_config = {}

    def _stock(self):
        return self.stock_class(self.unet, self.scheduler), [1]

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Generate images in one evaluation of the network.

        Args:
            batch_size (`int`, *optional*): images; by default one per class label.
            class_labels (`int`, `list[int]` or `torch.Tensor` of shape `(n,)`, *optional*): the class of each image,
                or one for all. By default random classes, drawn by `generator`.
            num_inference_steps (`int`, *optional*): 1.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): for the noise; a list has one
                generator per image.
            latents (`torch.Tensor`, *optional*): the noise itself, standard normal, `(n, channels, size, size)`.
            output_type (`str`, *optional*, defaults to "pil"): "pil", "np" `(n, size, size, channels)`, "pt" `(n,
                channels, size, size)`, both in [0, 1], or "latent", the student's x0.
            return_dict (`bool`, *optional*, defaults to `True`): if `False`, return a tuple (images,).

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple.

        Raises:
            UsageError: a value is not valid, or the student was not trained for it. The message names the argument.
            NotFiniteError: an image has NaN or infinite values.
        """
        chosen_timesteps({1: []}, num_inference_steps, None)
        if output_type not in OUTPUT_TYPES:
            raise UsageError(f"output_type={output_type!r} must be one of {', '.join(OUTPUT_TYPES)}.")
        labels = self._labels(class_labels)
        n = self._count(batch_size, labels, latents)
        generator, config = checked_generator(generator, n), self.unet.config
        shape = (n, config.in_channels, config.sample_size, config.sample_size)
        device, dtype = self._execution_device, self.unet.dtype
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        z = checked_noise(latents, shape).to(device, dtype)
        x0 = self._generate(z, self._conditions(labels, n, generator, device))
        check_finite(x0, dtype)
        self.maybe_free_model_hooks()
        images = self._as(output_type, x0)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _generate(self, z, labels):
        self.scheduler.set_timesteps(1)
        (t,) = self.scheduler.timesteps
        x_t = z * self.scheduler.init_noise_sigma
        output = self.unet(self.scheduler.scale_model_input(x_t, t), t, class_labels=labels, return_dict=False)[0]
        return self.scheduler.step(output, t, x_t, return_dict=False)[0].float()

    def _as(self, output_type, x0):
        if output_type == "latent":
            return x0
        images = (x0 / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.cpu().permute(0, 2, 3, 1).numpy()
        return images if output_type == "np" else self.numpy_to_pil(images)

    # -----------------------------------------------------------------------------------------------------------------
    # Class labels

    @property
    def class_labels(self) -> list[int]:
        """The classes that the student was trained for; empty for an unconditional one."""
        rows, trained = self.unet.config.num_class_embeds or 0, self._student_config.get("class_labels")
        return parse_labels(trained or "all", rows) if rows else []

    def _labels(self, given):
        """The labels of a call, as a list, an `int` or None."""
        if given is None:
            return None
        if not self.class_labels:
            raise UsageError("class_labels: this student is unconditional; leave it out.")
        labels = given.tolist() if isinstance(given, torch.Tensor) else given
        wanted = [labels] if isinstance(labels, Integral) else labels
        if not isinstance(wanted, Sequence) or isinstance(wanted, str) or not wanted:
            raise UsageError(f"class_labels={given!r} must be a class, or a list of at least one.")
        known = set(self.class_labels)
        for label in wanted:
            if not isinstance(label, Integral) or isinstance(label, bool) or label not in known:
                classes = self._student_config.get("class_labels") or f"0-{max(known)}"
                raise UsageError(f"class_labels: {label!r} is not one of the student's classes, {classes}.")
        return labels

    def _count(self, batch_size, labels, latents):
        given = len(latents) if isinstance(latents, torch.Tensor) and latents.ndim else 1
        n = len(labels) if isinstance(labels, list | tuple) else given
        if batch_size is None:
            return n
        if not is_count(batch_size):
            raise UsageError(f"batch_size={batch_size!r} must be a whole number greater than 0.")
        if isinstance(labels, list | tuple) and n != batch_size:
            raise UsageError(f"class_labels: {n} labels were given for batch_size={batch_size}; give one per image.")
        return batch_size

    def _conditions(self, labels, n, generator, device):
        """Labels (n,) on the device; None for an unconditional student."""
        known = self.class_labels
        if not known:
            return None
        if labels is None:
            one = generator if isinstance(generator, torch.Generator) else None
            each = generator if isinstance(generator, list) else [one] * n
            drawn = [torch.randint(len(known), (1,), generator=g, device=g.device if g else None) for g in each]
            labels = [known[index] for index in torch.cat([index.cpu() for index in drawn]).tolist()]
        return torch.tensor([labels] * n if isinstance(labels, Integral) else labels, device=device)


# ---------------------------------------------------------------------------------------------------------------------
# Noise levels


class DisBackEDMPipeline(PixelPipeline, ConsistencyModelPipeline):
    """Images in one evaluation, with a student of an EDM teacher.

    It is a `ConsistencyModelPipeline` whose scheduler starts at the student's noise level, so that plain diffusers
    generates the same images in one step. `DisBackPipeline.from_pretrained` returns one if the base is EDM's.

    Args:
        unet (`UNet2DModel` or `EDMUNet2DModel`): its time embedding is changed in place where it was trained for
            other times than a `CMStochasticIterativeScheduler` gives.
        scheduler (`SchedulerMixin`): of the base model, or of a saved student.
        conditioning_sigma (`float`, *optional*): the noise level at which the student was trained to start. The
            default is that of a saved student; else it is the highest, with a warning.
    """

    stock_class = ConsistencyModelPipeline
    student_options = ("conditioning_sigma",)

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin, conditioning_sigma: float | None = None):
        super().__init__(unet, scheduler)
        self._check_unet()
        sigma = starting_level(scheduler, conditioning_sigma)
        take_consistency_times(unet, scheduler, sigma)
        self.register_modules(scheduler=one_level_scheduler(scheduler, sigma))
        self.register_to_config(conditioning_sigma=sigma)

    @property
    def conditioning_sigma(self) -> float:
        """The noise level at which the student was trained to turn pure noise into an image."""
        return self.config.conditioning_sigma

    def _times(self, steps):
        return {"sigmas": [self.conditioning_sigma]}


def starting_level(scheduler: SchedulerMixin, given: float | None) -> float:
    """The noise level to start at: the given one, or that of a scheduler made for a student, or the highest, with a
    warning.

    Raises:
        UsageError: it is no noise level of the scheduler, or not the one that the scheduler was made for.
    """
    made_for = _level_of(scheduler)
    if made_for is not None:
        if given not in (None, made_for):
            raise UsageError(
                f"conditioning_sigma={given}: this pipeline was saved for noise level {made_for:g}. Leave the "
                "argument out, or load the student from the folder it was trained in."
            )
        return made_for
    schedule = NoiseSchedule.from_scheduler(scheduler)
    first, last = schedule.time_range
    if schedule.prediction_type != "edm":
        raise UsageError(f"its scheduler has prediction_type {schedule.prediction_type}: EDM's own is needed.")
    if given is None:
        logger.warning(
            f"Nothing says at which noise level the student was trained to start: taking {last:g}. If it is another "
            "one, images are blurred or noisy: pass conditioning_sigma=..."
        )
        return last
    if not isinstance(given, Real) or isinstance(given, bool) or not first <= given <= last:
        raise UsageError(f"conditioning_sigma={given!r} must be a noise level of the base model, {first} to {last}.")
    return float(given)


def one_level_scheduler(scheduler: SchedulerMixin, sigma: float) -> CMStochasticIterativeScheduler:
    """A scheduler whose first step goes from noise level `sigma` straight to x0, by EDM's preconditioning (its
    `sigma_min` of 0 takes the boundary condition of the consistency models out of it).
    """
    sigma_data = scheduler.config["sigma_data"]
    return CMStochasticIterativeScheduler(
        ONLY_STEP, sigma_min=0.0, sigma_max=sigma, sigma_data=sigma_data, clip_denoised=False
    )


def _level_of(scheduler):
    """The noise level that `one_level_scheduler` made a scheduler for; else None."""
    is_ours = isinstance(scheduler, CMStochasticIterativeScheduler) and scheduler.config.sigma_min == 0
    return float(scheduler.config.sigma_max) if is_ours else None


@torch.no_grad()
def take_consistency_times(unet: ModelMixin, scheduler: SchedulerMixin, sigma: float) -> None:
    """Make a network of EDM's times, ln(sigma) / 4, one of the consistency models', which are a thousand times that.

    In place, and only right at noise level `sigma` for a `UNet2DModel`: the embedding of this time becomes part of
    the bias.
    """
    if isinstance(scheduler, CMStochasticIterativeScheduler):
        return
    if isinstance(unet, EDMUNet2DModel):
        unet.register_to_config(time_scale=1e-3)
        return
    layer = unet.time_embedding.linear_1
    t = torch.tensor([sigma], device=layer.weight.device).log() / 4
    embedded = layer.weight.float() @ unet.time_proj(t).float()[0]
    layer.bias.add_(embedded.to(layer.bias.dtype))
    layer.weight.zero_()


# ---------------------------------------------------------------------------------------------------------------------
# Timesteps


class DisBackDDPMPipeline(PixelPipeline, DDPMPipeline):
    """Images in one evaluation, with a student of a DDPM teacher.

    It is a `DDPMPipeline` whose scheduler is an `LCMScheduler` made for the student. Plain diffusers generates the
    same images with `num_inference_steps=1`.

    Args:
        unet (`UNet2DModel`).
        scheduler (`SchedulerMixin`): any scheduler of the base model, or of a saved student.
        conditioning_timestep (`int`, *optional*): as in `DisBackPipeline`.
    """

    stock_class = DDPMPipeline
    student_options = ("conditioning_timestep",)
    base_classes = ("DDIMPipeline",)

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin, conditioning_timestep: int | None = None):
        super().__init__(unet, scheduler)
        self._check_unet()
        timestep = starting_timestep(scheduler, conditioning_timestep)
        self.register_modules(scheduler=one_step_scheduler(scheduler, timestep))
        self.register_to_config(conditioning_timestep=timestep)

    @property
    def conditioning_timestep(self) -> int:
        """The timestep at which the student was trained to turn pure noise into an image."""
        return self.config.conditioning_timestep

    def _times(self, steps):
        return {"timesteps": [self.conditioning_timestep]}
