# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Other LoRAs beside the student's: the student's stays active, also when the others are unloaded."""

import copy
import os

import torch
from diffusers.utils import logging, recurse_remove_peft_layers
from peft.tuners.tuners_utils import BaseTunerLayer

from disback_diffusers.artifact.load import ADAPTER


logger = logging.get_logger(__name__)


def lora_layers(model: object) -> list[BaseTunerLayer]:
    """The layers of a component that have adapters; empty for other components, such as a tokenizer."""
    is_network = isinstance(model, torch.nn.Module)
    return [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)] if is_network else []


def adapters(model: object) -> list[str]:
    """Names of all adapters of a model."""
    return list(getattr(model, "peft_config", None) or ())


def acting_adapters(model: object) -> list[str]:
    """Names of the adapters that a forward pass of the model uses."""
    return list(dict.fromkeys(name for layer in lora_layers(model) for name in _acting(layer)))


def _acting(layer):
    if layer.disable_adapters:
        return []
    return layer.merged_adapters if layer.merged else layer.active_adapters


def fused_copy(model: object) -> object:
    """A copy of a component with its active adapters merged into the weights, at their current strengths.

    A component without adapters is returned unchanged.
    """
    if not lora_layers(model):
        return model
    fused = copy.deepcopy(getattr(model, "_orig_mod", model))  # of a compiled model
    for layer in lora_layers(fused):
        if layer.disable_adapters and layer.merged:
            layer.unmerge()  # as a forward pass does
        elif not layer.disable_adapters and not layer.merged:
            layer.merge()
    remove_adapters(fused)
    return fused


def remove_adapters(model: torch.nn.Module) -> None:
    """Remove all adapters from the layers. What was merged stays in the weights."""
    recurse_remove_peft_layers(model)
    if hasattr(model, "peft_config"):
        del model.peft_config
    model._hf_peft_config_loaded = False


class StudentLoraMixin:
    """The LoRA methods of a pipeline whose UNet may have the student as the adapter "disback"."""

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | dict,
        adapter_name: str | None = None,
        **kwargs,
    ) -> None:
        """As in diffusers, but the student's LoRA and all other active LoRAs stay active.

        In diffusers a new LoRA replaces the active ones. Without the student's LoRA, the undistilled base model would
        generate in one step. `set_adapters(["disback", "style"], [1.0, 0.8])` sets the strength of each.
        """
        if isinstance(pretrained_model_name_or_path_or_dict, str):
            pretrained_model_name_or_path_or_dict = os.path.expanduser(pretrained_model_name_or_path_or_dict)
        if adapter_name is None:  # diffusers would count per component, and use a different name in each
            adapter_name = f"default_{len(adapters(self.unet))}"
        student_acts = ADAPTER in adapters(self.unet) and self._student_acts()
        before = [(model, adapters(model), acting_adapters(model)) for model in self._lora_models()]
        super().load_lora_weights(pretrained_model_name_or_path_or_dict, adapter_name, **kwargs)
        if not student_acts:
            return
        for model, present, acting in before:
            new = [name for name in adapters(model) if name not in present]
            for layer in lora_layers(model):
                layer.set_adapter([*acting, *new])

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs except the student's. If `fuse_lora` has merged the student's into the UNet, remove all."""
        fused = any(ADAPTER in layer.merged_adapters for layer in self._student_layers)
        if fused or ADAPTER not in adapters(self.unet):
            return super().unload_lora_weights()
        self.unet.delete_adapters([name for name in adapters(self.unet) if name != ADAPTER])
        for layer in lora_layers(self.unet):
            layer.set_adapter([ADAPTER])
            layer.enable_adapters(True)
        for model in self._lora_models():
            if model is not self.unet:
                remove_adapters(model)

    def delete_adapters(self, adapter_names: str | list[str]) -> None:
        """As in diffusers, with a warning if the student's LoRA is among them."""
        super().delete_adapters(adapter_names)
        if ADAPTER in ([adapter_names] if isinstance(adapter_names, str) else adapter_names):
            logger.warning(
                f'The student\'s LoRA "{ADAPTER}" is deleted: the undistilled base model generates from now on.'
            )

    def get_active_adapters(self) -> list[str]:
        """Names of the active LoRAs. diffusers returns those of one component only, without the student's."""
        return list(dict.fromkeys(name for model in self._lora_models() for name in acting_adapters(model)))

    @property
    def _student_is_off(self):
        return ADAPTER in adapters(self.unet) and not self._student_acts()

    def _warn_if_student_is_off(self):
        if self._student_is_off:
            logger.warning(
                f'The student\'s LoRA "{ADAPTER}" is not active: the undistilled base model generates in one step. '
                f'pipe.enable_lora() and pipe.set_adapters(["{ADAPTER}", ...]) activate it.'
            )

    def _student_acts(self):
        """Whether the student's LoRA is active in all of its layers, at a strength other than 0.

        Fusing only another LoRA with `fuse_lora` turns it off in some layers.
        """
        layers = self._student_layers
        return all(ADAPTER in _acting(layer) for layer in layers) and any(layer.scaling[ADAPTER] for layer in layers)

    @property
    def _student_layers(self):
        # Cached: finding them takes 20 ms for SDXL, a tenth of the time of an image.
        unet, layers = self.__dict__.get("_student_layers_of", (None, []))
        if unet is not self.unet:
            unet, layers = self.unet, [layer for layer in lora_layers(self.unet) if ADAPTER in layer.lora_A]
            self.__dict__["_student_layers_of"] = unet, layers
        return layers

    def _lora_models(self):
        models = (getattr(self, name, None) for name in self._lora_loadable_modules)
        return [model for model in models if model is not None]
