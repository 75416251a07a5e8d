# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One-step generation with a student of a pixel-space teacher, unconditional or class-conditional."""

from collections.abc import Sequence
from numbers import Integral

import torch
from diffusers import (
    DiffusionPipeline,
    ImagePipelineOutput,
)
from diffusers.utils.torch_utils import randn_tensor

from disback_diffusers.artifact.load import config_of_folder, student_settings
from disback_diffusers.errors import UsageError
from disback_diffusers.models.labels import parse_labels

from .call_arguments import chosen_timesteps
from .call_checks import OUTPUT_TYPES, check_finite, checked_generator, checked_noise, is_count
from .student import FAMILIES, StudentPipeline


REMEDY = "pass the one it was distilled from with base_model=..."


class PixelPipeline(StudentPipeline):
    """Base of the pipelines on pixels. A LoRA student is merged into the weights."""

    merges_lora = True

    def _check_unet(self):
        if self.unet is None:
            raise UsageError("unet=None: a pipeline on pixels has nothing else; leave it out.")
        self._student_config = {}

    def _check_parts(self):
        """Raise a UsageError where the network or the scheduler is another than the constructor has prepared."""
        raise NotImplementedError

    def _check_student(self):
        if not self._student_config:
            return
        of_student, of_base = self._student_config.get("class_labels"), self.unet.config.num_class_embeds
        if bool(of_student) != bool(of_base):
            kinds = {True: "class-conditional", False: "unconditional"}
            student, base = kinds[bool(of_student)], kinds[bool(of_base)]
            raise UsageError(f"the student is {student}, and its base model is {base}: {REMEDY}")
        recorded = self._student_config.get("base_interface") or {}
        for key, value in self._interface().items():
            if recorded.get(key, value) != value:
                raise UsageError(f"the student has {key} {recorded[key]}, and its base model {value}: {REMEDY}")

    def _interface(self):
        """As far as it is known, what the family of the teacher records as its interface."""
        config = self.unet.config
        return {"image_shape": [config.in_channels, config.sample_size, config.sample_size]}

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs) -> "PixelPipeline":
        """A pipeline with the network and the scheduler of another one.

        Args:
            pipeline (`DiffusionPipeline`): one of ours, or a stock pipeline with the network of a student.
            kwargs: arguments of the constructor that replace those of the pipeline.

        Raises:
            UsageError: as in the constructor.
        """
        family = FAMILIES[getattr(pipeline, "stock_class", type(pipeline)).__name__]
        saved = config_of_folder(pipeline.config.get("_name_or_path"))
        new = family(**{**student_settings(saved), **pipeline.components, **kwargs})
        new._student_config = getattr(pipeline, "_student_config", saved)
        new._check_student()
        return new

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
        self._check_parts()
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
        labels = given.tolist() if hasattr(given, "tolist") else given  # of a tensor or an array
        labels = list(labels) if isinstance(labels, Sequence) and not isinstance(labels, str | bytes) else labels
        wanted = [labels] if isinstance(labels, Integral) else labels
        if not isinstance(wanted, list) or not wanted:
            raise UsageError(f"class_labels={given!r} must be a class, or a list of at least one.")
        known = set(self.class_labels)
        for label in wanted:
            if not isinstance(label, Integral) or isinstance(label, bool) or label not in known:
                classes = self._student_config.get("class_labels") or f"0-{max(known)}"
                raise UsageError(f"class_labels: {label!r} is not one of the student's classes, {classes}.")
        return labels

    def _count(self, batch_size, labels, latents):
        given = len(latents) if isinstance(latents, torch.Tensor) and latents.ndim else 1
        n = len(labels) if isinstance(labels, list) else given
        if batch_size is None and n:
            return n
        if isinstance(batch_size, str) or (
            isinstance(batch_size, list) and all(isinstance(p, str) for p in batch_size)
        ):
            raise UsageError(f"batch_size={batch_size!r}: this student takes no prompt, only a number of images.")
        if not is_count(batch_size):
            raise UsageError(f"batch_size={batch_size!r} must be a whole number greater than 0.")
        if isinstance(labels, list) and n != batch_size:
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
