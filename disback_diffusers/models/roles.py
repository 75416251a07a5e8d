# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Several LoRA adapters as *roles* on one frozen network: the teacher is the network with all of them off."""

import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

import peft
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn import Parameter
from torch.utils.checkpoint import checkpoint

from ..errors import RunError, UsageError
from .adapter_files import base_fingerprint, config_difference, read_adapter, tensor_difference, write_adapter
from .lora_targets import ATTENTION_TARGETS, present_targets


class Roles:
    """The adapters of one network, switched by writing two attributes a layer and never by touching `requires_grad`.

    So a graph that still waits for its backward loses nothing, and a switch costs a fraction of a millisecond. The
    network is frozen. Its `enable_gradient_checkpointing`, if it has one, becomes the one of this class, which
    recomputes every block with the role that ran it. Roles are float32 in any case. Do not call two methods of the
    network any more: `to(dtype)` would convert the roles too, and `set_adapter` would freeze all but one.

        roles = Roles(network)
        roles.add("fake", rank=64, alpha=64, targets=ALL_TARGETS)
        with roles("fake"): ...     # with roles(): the teacher; with roles("lcm", "student"): the sum of two adapters

    Args:
        network: The teacher's network, any `torch.nn.Module` without adapters.

    Raises:
        RunError: The installed PEFT does not switch adapters in the way relied on here.
        ValueError: The network already carries adapters.
    """

    def __init__(self, network: torch.nn.Module):
        _check_peft()
        if getattr(network, "peft_config", None):
            raise ValueError(f"The network already carries the adapters {list(network.peft_config)}.")
        self.network = network.requires_grad_(False)
        self._base_modules = dict(network.named_modules())
        self._layers: dict[str, BaseTunerLayer] = {}
        self._configs: dict[str, LoraConfig] = {}
        self._stock_checkpointing = getattr(network, "enable_gradient_checkpointing", None)
        if getattr(network, "is_gradient_checkpointing", False):
            self.enable_gradient_checkpointing()
        if self._stock_checkpointing:
            network.enable_gradient_checkpointing = self.enable_gradient_checkpointing

    # -----------------------------------------------------------------------------------------------------------------
    # Which role runs

    @property
    def names(self) -> tuple[str, ...]:
        """All roles, in the order they were added."""
        return tuple(self._configs)

    @property
    def active(self) -> tuple[str, ...]:
        """The roles a forward runs with now; empty for the teacher."""
        layer = next(iter(self._layers.values()), None)
        return () if layer is None or layer.disable_adapters else tuple(layer.active_adapters)

    def use(self, *names: str) -> None:
        """Let the following forwards run with these roles added to the base; without a name, as the teacher."""
        for name in names:
            self._config(name)
        if names != self.active:
            self._switch(names)

    @contextmanager
    def __call__(self, *names: str) -> Iterator[None]:
        """As `use`, for the length of a `with` block."""
        before = self.active
        self.use(*names)
        try:
            yield
        finally:
            self.use(*before)

    def enable_gradient_checkpointing(self) -> None:
        """Save memory; each block is recomputed with the role of its forward, whatever is active by then.

        Raises:
            UsageError: The network cannot do it.
        """
        if self._stock_checkpointing is None:
            raise UsageError(f"{type(self.network).__name__} has no gradient checkpointing.")

        def run_checkpointed(block, *args):
            names = self.active

            def run(*args):
                with self(*names):
                    return block(*args)

            return checkpoint(run, *args, use_reentrant=False)

        self._stock_checkpointing(run_checkpointed)

    def _switch(self, names: Iterable[str]) -> None:
        state = {"_active_adapter": list(names), "_disable_adapters": False} if names else {"_disable_adapters": True}
        for layer in self._layers.values():
            vars(layer).update(state)  # nn.Module's own attribute setting is ten times slower

    # -----------------------------------------------------------------------------------------------------------------
    # Making roles

    def add(self, name: str, rank: int, alpha: float, targets: Iterable[str], seed: int = 0) -> None:
        """Add a trainable float32 LoRA that starts as the teacher. The active role and the global RNG do not change.

        Args:
            name: An identifier, not yet used.
            rank: Rank of the update B A of each adapted weight.
            alpha: The update is scaled by alpha / rank.
            targets: Suffixes of the names of the linear and convolution layers to adapt.
            seed: Of the initial A, see `reset`.

        Raises:
            UsageError: Rank or alpha out of range, or a suffix that names no linear or convolution layer.
            ValueError: The name is taken or no identifier.
        """
        if not name.isidentifier() or name in self._configs:
            raise ValueError(f"'{name}' is no free role name: take an identifier other than {list(self._configs)}.")
        targets = list(targets)
        self._check_lora(rank, alpha, targets)
        before, flags = self.active, [(p, p.requires_grad) for role in self.names for p in self.parameters(role)]
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
        with torch.device("meta"), warnings.catch_warnings():  # `reset` initialises, without the global RNG
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what we want
            inject_adapter_in_model(config, self.network, name)
        self._layers = {key: layer for key, layer in self.network.named_modules() if isinstance(layer, BaseTunerLayer)}
        self._configs[name] = config
        for _, layer, bank in self._banks(name):
            bank[name].to(torch.float32).to_empty(device=layer.weight.device).requires_grad_(True)
        for parameter, flag in flags:  # which PEFT has set to False
            parameter.requires_grad_(flag)
        self._switch(before)  # on every layer: PEFT has left old and new ones in different states
        self.reset(name, seed)

    def reset(self, name: str, seed: int) -> None:
        """Back to the start, in place: A from U(-1/sqrt(n), 1/sqrt(n)), n its fan-in; B = 0, which is the teacher."""
        self._initialise(name, seed, zero_b=True)

    def randomize(self, name: str, seed: int) -> None:
        """Random A and B, in place, both as A in `reset`: the teacher, disturbed."""
        self._initialise(name, seed, zero_b=False)

    @torch.no_grad()
    def copy(self, source: str, target: str) -> None:
        """Make one role equal to another, in place. Raises a ValueError where rank, alpha or targets differ."""
        state, slot = self.state_dict(source), self.state_dict(target)
        difference = config_difference(self.lora_config(source), self.lora_config(target))
        if difference := difference or tensor_difference(state, slot):
            raise ValueError(f"Role '{source}' cannot be copied to '{target}': {difference}.")
        for key, value in slot.items():
            value.copy_(state[key])

    @torch.no_grad()
    def _initialise(self, name, seed, zero_b):
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same numbers on every device
        for key, parameter in self.named_parameters(name):
            if parameter.is_meta:  # where only names and sizes are wanted
                continue
            value = torch.zeros(parameter.shape)
            if not (zero_b and ".lora_B." in key):
                torch.nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)
            parameter.copy_(value)

    # -----------------------------------------------------------------------------------------------------------------
    # Weights and files

    def named_parameters(self, name: str) -> Iterator[tuple[str, Parameter]]:
        """The role's parameters under PEFT's file keys, such as `mid_block.resnets.0.conv1.lora_A.weight`."""
        self._config(name)
        for prefix, _, bank in self._banks(name):
            yield f"{prefix}.weight", bank[name].weight

    def parameters(self, name: str) -> list[Parameter]:
        """What an optimizer of this role needs. They stay the same objects in everything this class does."""
        return [parameter for _, parameter in self.named_parameters(name)]

    def lora_config(self, name: str) -> dict:
        """The role's LoraConfig as plain JSON values, for `save_lora_weights(unet_lora_adapter_metadata=...)`."""
        return json.loads(json.dumps(self._config(name).to_dict(), default=sorted))

    def state_dict(self, name: str) -> dict[str, torch.Tensor]:
        """The role's weights under PEFT's file keys: detached, but sharing memory with the parameters."""
        return {key: parameter.detach() for key, parameter in self.named_parameters(name)}

    @torch.no_grad()
    def load_state_dict(self, name: str, state: Mapping[str, torch.Tensor], source: str = "the state dict") -> None:
        """Overwrite the role's weights in place; all of them or, with an error, none.

        Raises:
            UsageError: A tensor is missing, unknown, of another shape, or not finite; names `source` and the tensor.
        """
        slot = self.state_dict(name)
        if difference := tensor_difference(state, slot):
            raise UsageError(f"{source} does not fit the role '{name}': {difference}.")
        for key, value in slot.items():
            value.copy_(state[key])

    def save(self, name: str, file: str | os.PathLike, metadata: Mapping[str, str] | None = None) -> None:
        """Write the role to a safetensors file that `load` and diffusers' `load_lora_adapter(prefix=None)` read.

        Raises:
            RunError: The file cannot be written.
        """
        write_adapter(file, self.state_dict(name), self.lora_config(name), self.fingerprint, metadata or {})

    def load(self, name: str, file: str | os.PathLike) -> None:
        """Overwrite the role's weights, in place, with what `save` wrote; all of them or, with an error, none.

        Raises:
            UsageError: The file is unreadable, was recorded on another base, or does not fit the role; it names the
                file and the first difference.
        """
        slot = self.lora_config(name)
        state, config = read_adapter(file, self.fingerprint)
        if difference := config_difference(config, slot):
            raise UsageError(f"{file} does not fit the role '{name}': {difference}.")
        self.load_state_dict(name, state, source=str(file))

    @cached_property
    def fingerprint(self) -> str:
        """Of the base, see `base_fingerprint`; computed once."""
        return base_fingerprint(self.network)

    # -----------------------------------------------------------------------------------------------------------------
    # Helpers

    def _config(self, name: str) -> LoraConfig:
        if name not in self._configs:
            raise ValueError(f"There is no role '{name}', only {list(self._configs)}.")
        return self._configs[name]

    def _banks(self, name: str) -> Iterator[tuple[str, BaseTunerLayer, torch.nn.ModuleDict]]:
        for key, layer in self._layers.items():
            for factor in ("lora_A", "lora_B"):
                bank = getattr(layer, factor)
                if name in bank:
                    yield f"{key}.{factor}", layer, bank

    def _check_lora(self, rank: int, alpha: float, targets: list[str]) -> None:
        if rank < 1:
            raise UsageError(f"the rank of a LoRA must be at least 1, not {rank}.")
        if not alpha > 0:
            raise UsageError(f"the alpha of a LoRA must be positive, not {alpha}.")
        if not targets:
            raise UsageError("no module is named: name at least one suffix.")
        for suffix in targets:
            hits = [module for key, module in self._base_modules.items() if f".{key}".endswith(f".{suffix}")]
            if not hits or not all(isinstance(module, torch.nn.Linear | torch.nn.Conv2d) for module in hits):
                raise UsageError(
                    f"'{suffix}' is not the end of the name of a linear or convolution layer of this network. "
                    f"Take for example {', '.join(self._examples())}."
                )

    def _examples(self) -> list[str]:
        present = present_targets(self.network, ATTENTION_TARGETS)
        adaptable = (key for key, m in self._base_modules.items() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
        return present or list(adaptable)[:3]


def _check_peft() -> None:
    """Switching writes two attributes that PEFT keeps to itself: see that its public properties follow them."""
    layer = BaseTunerLayer.__new__(BaseTunerLayer)
    seen = []
    for state in ({"_active_adapter": ["probe"], "_disable_adapters": False}, {"_disable_adapters": True}):
        vars(layer).update(state)
        seen.append((getattr(layer, "active_adapters", None), getattr(layer, "disable_adapters", None)))
    if seen != [(["probe"], False), (["probe"], True)]:
        raise RunError(
            f"peft {peft.__version__} no longer switches adapters by _active_adapter and _disable_adapters: "
            "install one from 0.18 to 0.21, and report it to the authors."
        )
