# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The one door to a network: whoever evaluates a network does it through a `Denoiser`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch.nn import Parameter

from ..diffusion.consistency import boundary_scalings
from ..diffusion.noise import NoiseSchedule
from .conditions import Conditions, to_device
from .families.base import Family
from .roles import Roles


class _Reached(Exception):
    """The bottleneck has been reached, with these features."""

    def __init__(self, features):
        super().__init__()
        self.features = features


class Denoiser:
    """A network at work: the teacher, a node of the path, the fake score or the student.

    Whether it is a role on the shared base or a network of its own makes no difference to the caller. Scaling of the
    input, precision, autocast and device are dealt with here and nowhere else.

    Args:
        family (`Family`): how the network is called.
        network (`torch.nn.Module`).
        schedule (`NoiseSchedule`): of its noisy inputs.
        roles (`Roles`, *optional*): the adapters on the network; None for a network without any.
        role (`str`, *optional*): the adapter that is on. None is the network itself, all adapters off: the teacher.
        device (`torch.device` or `str`): where it runs.
        autocast (`torch.dtype`, *optional*): precision of its matrix products and convolutions; by default that of
            the weights.
    """

    def __init__(
        self,
        family: Family,
        network: torch.nn.Module,
        schedule: NoiseSchedule,
        roles: Roles | None = None,
        role: str | None = None,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
    ):
        self.family, self.network, self.schedule = family, network, schedule
        self.roles, self.role, self.device, self._autocast = roles, role, torch.device(device), autocast

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within, calls of the network run with this role and precision."""
        with torch.autocast(self.device.type, self._autocast) if self._autocast else nullcontext():
            if self.roles is None:
                yield
            else:
                with self.roles(*([self.role] if self.role else [])):
                    yield

    def output(self, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """The raw prediction, in the parameterisation of the schedule.

        Args:
            x_t (`torch.Tensor` of shape `(n, ...)`): noisy samples.
            t (`torch.Tensor` of shape `(n,)`): their times.
            conditions (`Conditions`): n rows.

        Returns:
            a tensor of the shape of `x_t`, in the precision of the network.
        """
        x_t, t = to_device(x_t, self.device), to_device(t, self.device)
        dtype = next(self.network.parameters()).dtype
        conditions = conditions.map(lambda value: value.to(dtype) if value.is_floating_point() else value)
        with self.running():
            return self.family.call(self.network, self.schedule.scale_input(x_t, t).to(dtype), t, conditions)

    def output_and_features(
        self, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The raw prediction, and on the way what the network's bottleneck gave, `(n, channels, h, w)`."""
        found = []
        with self._at_bottleneck(found.append):
            output = self.output(x_t, t, conditions)
        return output, found[0]

    def features(self, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """What the network's bottleneck gives, `(n, channels, h, w)`; the rest of the network does not run."""

        def stop(features):
            raise _Reached(features)

        try:
            with self._at_bottleneck(stop):
                self.output(x_t, t, conditions)
        except _Reached as reached:
            return reached.features

    @contextmanager
    def _at_bottleneck(self, take):
        module = self.family.bottleneck(self.network)
        handle = module.register_forward_hook(lambda module, args, output: take(output))
        try:
            yield
        finally:
            handle.remove()

    def x0(self, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """The estimate of x0 (Eq. 20), float32. Arguments as in `output`."""
        return self.schedule.to_x0(self.output(x_t, t, conditions), x_t, t)

    def score(self, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """The estimate of grad log p_t(x_t) (Eq. 5), float32. Arguments as in `output`."""
        return self.schedule.to_score(self.output(x_t, t, conditions), x_t, t)

    # -----------------------------------------------------------------------------------------------------------------
    # Weights

    def parameters(self) -> list[Parameter]:
        """Those of the role, or of the network. The teacher of a base with roles has the base's, which are frozen."""
        return self.roles.parameters(self.role) if self.role else list(self.network.parameters())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Of the role, under PEFT's keys, or of the network; detached, sharing memory."""
        return self.roles.state_dict(self.role) if self.role else self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor], source: str) -> None:
        """Overwrite the weights in place. Raises where `state`, read from `source`, does not fit."""
        if self.role:
            self.roles.load_state_dict(self.role, state, source=source)
        else:
            self.network.load_state_dict(state)


class ConsistencyDenoiser(Denoiser):
    """With the boundary conditions of a latent consistency model, as an LCM-LoRA has them."""

    def x0(self, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """c_skip x_t + c_out x0, float32. Arguments as in `output`."""
        skip, out = boundary_scalings(t.float().view(-1, *[1] * (x_t.dim() - 1)))
        return skip * x_t + out * super().x0(x_t, t, conditions)
