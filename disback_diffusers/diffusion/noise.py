# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How noise is added, and what a network predicts: x_t = alpha(t) x0 + sigma(t) noise.

Everything is computed in float32 whatever goes in (bf16 or fp16 in, float32 out), or in float64 as soon as one input
is float64. Gradients flow through every method.
"""

import math

import torch

from ..errors import UsageError
from .scheduler_config import EDM_SETTINGS, SchedulerOrConfig, alphas, full_config


PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
Time = int | float | torch.Tensor  # of shape () or (n,)


def same_shape_floats(**tensors: torch.Tensor) -> list[torch.Tensor]:
    """The tensors in the precision this package computes in: float64 if any of them is float64, else float32.

    Raises:
        ValueError: the shapes differ; the message names both tensors and their shapes.
    """
    first, *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != first[1].shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} but {first[0]} has {tuple(first[1].shape)}")
    double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
    return [tensor.to(torch.float64 if double else torch.float32) for tensor in tensors.values()]


class NoiseSchedule:
    """The noise schedule of a teacher. Build it with `from_scheduler` or `edm`.

    A time `t` is one number for the whole batch, or a tensor of shape `(n,)` with one time a sample: an integer
    timestep in 0 .. T-1 for a schedule made from betas, the noise level sigma itself for an EDM schedule (alpha = 1).
    Times that are Python numbers or on the CPU are checked and raise ValueError outside `time_range`; times on
    an accelerator are not, as looking at them would make the host wait.

    Attributes:
        prediction_type (`str`): what the network predicts: "epsilon" (the noise), "sample" (x0), "v_prediction"
            (see `velocity`), or, for an EDM schedule only, "edm" (the raw network inside EDM's preconditioning:
            x0 = c_skip x_t + c_out output; diffusers' EDM schedulers call this "epsilon").
        num_train_timesteps (`int` or `None`): T; None for an EDM schedule, whose time is continuous.
        time_range (`tuple`): the first and the last time, (0, T-1) or (sigma_min, sigma_max).
        data_std (`float`): standard deviation of the data in EDM's preconditioning; 1 for a schedule made from betas.
    """

    def __init__(
        self,
        prediction_type: str,
        time_range: tuple[int, int] | tuple[float, float],
        alphas: torch.Tensor | None = None,
        data_std: float = 1.0,
    ):
        self.time_range = time_range
        self.num_train_timesteps = None if alphas is None else len(alphas)
        self._alphas = alphas
        self.data_std = data_std
        self._cache = {}
        self._reaches_zero_alpha = alphas is not None and bool(alphas[-1] == 0)
        self.prediction_type = None
        self.prediction_type = self._checked_type(prediction_type)

    @classmethod
    def from_scheduler(cls, config_or_scheduler: SchedulerOrConfig) -> "NoiseSchedule":
        """The schedule behind any diffusers scheduler that is defined by betas, or behind an EDM scheduler.

        The table is computed from the settings in float64: alpha = sqrt(cumprod(1 - beta)), sigma = sqrt(1 - alpha^2).
        With `trained_betas` their number is T. With `rescale_betas_zero_snr` the last alpha is exactly 0 (some
        samplers keep 2^-12 there for their own sake). Settings missing from a config that names its diffusers class
        take that class's defaults.

        Args:
            config_or_scheduler (`SchedulerMixin`, `FrozenDict` or `dict`): a scheduler or its config.

        Raises:
            UsageError: flow matching or another unsupported setting; names it and what is supported.
        """
        config, owner = full_config(config_or_scheduler)
        prediction_type = config.get("prediction_type", "epsilon")
        if EDM_SETTINGS <= config.keys():
            # These schedulers call the raw network "epsilon"; here that word always means the noise.
            prediction_type = "edm" if prediction_type == "epsilon" else prediction_type
            return cls.edm(config["sigma_min"], config["sigma_max"], config["sigma_data"], prediction_type)
        table = alphas(config, owner)
        return cls(prediction_type, (0, len(table) - 1), alphas=table)

    @classmethod
    def edm(
        cls, sigma_min: float, sigma_max: float, sigma_data: float = 0.5, prediction_type: str = "sample"
    ) -> "NoiseSchedule":
        """EDM, or variance exploding: x_t = x0 + t noise, the time is the noise level.

        Args:
            sigma_min (`float`): smallest noise level, above 0.
            sigma_max (`float`): largest noise level.
            sigma_data (`float`, *optional*, defaults to 0.5): standard deviation of the data in EDM's
                preconditioning; it matters to the prediction types "edm" and "v_prediction" only.
            prediction_type (`str`, *optional*, defaults to "sample"): "sample" is EDM's denoiser D(x; sigma).

        Raises:
            UsageError: not 0 < sigma_min < sigma_max < infinity, sigma_data not above 0, unknown prediction type.
        """
        if not (0 < sigma_min < sigma_max < math.inf and 0 < sigma_data < math.inf):
            got = f"sigma_min {sigma_min}, sigma_max {sigma_max}, sigma_data {sigma_data}"
            raise UsageError(f"an EDM schedule needs 0 < sigma_min < sigma_max and sigma_data > 0, all finite; {got}")
        return cls(prediction_type, (float(sigma_min), float(sigma_max)), data_std=float(sigma_data))

    def alpha_sigma(self, t: Time, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha(t) and sigma(t) on the device of `like`.

        Args:
            t (`int`, `float` or `torch.Tensor` of shape `()` or `(n,)`): times.
            like (`torch.Tensor` of shape `(n, ...)`): what they are to be multiplied with.

        Returns:
            two tensors of shape `(n, 1, 1, ...)`, float64 if `like` is float64, else float32.

        Raises:
            ValueError: `t` outside `time_range` or of wrong shape, or floats where timesteps are integers.
        """
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        times = self._times_on(t, like, dtype)
        if self._alphas is None:
            alpha, sigma = torch.ones_like(times), times
        else:
            # index_select and not [...]: a negative index must not wrap around to the last, noisiest step.
            alpha, sigma = (table.index_select(0, times) for table in self._tables(like.device, dtype))
        ones = (1,) * (like.ndim - 1)
        return tuple(x.reshape(-1, *ones).expand(like.shape[0], *ones) for x in (alpha, sigma))

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, t: Time) -> torch.Tensor:
        """x_t = alpha(t) x0 + sigma(t) noise; all of shape `(n, ...)` (Alg. 1-2; there alpha = 1)."""
        x0, noise = same_shape_floats(x0=x0, noise=noise)
        alpha, sigma = self.alpha_sigma(t, x0)
        return alpha * x0 + sigma * noise

    def scale_input(self, x_t: torch.Tensor, t: Time) -> torch.Tensor:
        """c_in(t) x_t, the input of the network: x_t itself, but 1 / sqrt(sigma^2 + sigma_data^2) of it for the raw
        network inside EDM's preconditioning (Karras et al., 2022). All of shape `(n, ...)`.
        """
        if self._alphas is not None or self.prediction_type not in ("edm", "v_prediction"):
            return x_t
        (x_t,) = same_shape_floats(x_t=x_t)
        return x_t / self._total_std(*self.alpha_sigma(t, x_t))

    def pure_noise(self, z: torch.Tensor, t: Time) -> torch.Tensor:
        """The noisy input from which a sample is generated at time t, z being standard normal; `(n, ...)`.

        It is z itself, with an EDM schedule sigma z.
        """
        return z if self._alphas is not None else self.alpha_sigma(t, z)[1] * z

    def velocity(self, x0: torch.Tensor, noise: torch.Tensor, t: Time) -> torch.Tensor:
        """The prediction target of a "v_prediction" network: alpha noise - sigma x0.

        An EDM schedule takes the variance-preserving view of x_t / sqrt(sigma^2 + sigma_data^2), as diffusers' EDM
        schedulers do: (sigma_data noise - sigma x0 / sigma_data) / sqrt(sigma^2 + sigma_data^2).
        """
        return self.prediction_target(x0, noise, t, "v_prediction")

    def prediction_target(
        self, x0: torch.Tensor, noise: torch.Tensor, t: Time, prediction_type: str | None = None
    ) -> torch.Tensor:
        """What the network should predict at x_t = alpha x0 + sigma noise, in its own parameterisation."""
        kind = self._checked_type(prediction_type)
        x0, noise = same_shape_floats(x0=x0, noise=noise)
        alpha, sigma = self.alpha_sigma(t, x0)
        if kind in ("epsilon", "sample"):
            return noise if kind == "epsilon" else x0
        total = self._total_std(alpha, sigma)
        velocity = alpha * self.data_std / total * noise - sigma / (self.data_std * total) * x0
        return velocity if kind == "v_prediction" else -velocity

    def to_x0(
        self, model_output: torch.Tensor, x_t: torch.Tensor, t: Time, prediction_type: str | None = None
    ) -> torch.Tensor:
        """The network's estimate of x0 (Eq. 20).

        Args:
            model_output (`torch.Tensor` of shape `(n, ...)`): the prediction of the network.
            x_t (`torch.Tensor` of shape `(n, ...)`): its noisy input, before any scaling of inputs.
            t (`int`, `float` or `torch.Tensor` of shape `()` or `(n,)`): times.
            prediction_type (`str`, *optional*): another reading of `model_output` than the schedule's own.

        Raises:
            ValueError: shapes differ, `t` out of range, unknown prediction type, or an "epsilon" where alpha(t) = 0.
        """
        kind, output, x_t, alpha, sigma = self._read(model_output, x_t, t, prediction_type)
        if kind == "sample":
            return output
        if kind == "epsilon":
            self._refuse_zero(alpha)
            return (x_t - sigma * output) / alpha
        total = self._total_std(alpha, sigma)
        return alpha * (self.data_std / total) ** 2 * x_t - sigma * self.data_std / total * output

    def to_epsilon(
        self, model_output: torch.Tensor, x_t: torch.Tensor, t: Time, prediction_type: str | None = None
    ) -> torch.Tensor:
        """The network's estimate of the noise (Eq. 19). Arguments and errors as in `to_x0`; fine at alpha = 0."""
        kind, output, x_t, alpha, sigma = self._read(model_output, x_t, t, prediction_type)
        if kind == "epsilon":
            return output
        if kind == "sample":
            return (x_t - alpha * output) / sigma
        total = self._total_std(alpha, sigma)
        return sigma / total**2 * x_t + alpha * self.data_std / total * output

    def to_score(
        self, model_output: torch.Tensor, x_t: torch.Tensor, t: Time, prediction_type: str | None = None
    ) -> torch.Tensor:
        """The network's estimate of grad log p_t(x_t) = (alpha x0 - x_t) / sigma^2 (Eq. 5, 19-20); see `to_x0`."""
        noise = self.to_epsilon(model_output, x_t, t, prediction_type)
        return -noise / self.alpha_sigma(t, noise)[1]

    def _read(self, model_output, x_t, t, prediction_type):
        kind = self._checked_type(prediction_type)
        output, x_t = same_shape_floats(model_output=model_output, x_t=x_t)
        if kind == "edm":
            kind, output = "v_prediction", -output
        return kind, output, x_t, *self.alpha_sigma(t, x_t)

    def _total_std(self, alpha, sigma):
        return ((alpha * self.data_std) ** 2 + sigma**2).sqrt()

    def _checked_type(self, prediction_type):
        kind = self.prediction_type if prediction_type is None else prediction_type
        supported = PREDICTION_TYPES if self._alphas is not None else (*PREDICTION_TYPES, "edm")
        if kind not in supported:
            raise UsageError(f"prediction_type {kind!r} is not supported; supported: {', '.join(supported)}")
        return kind

    def _refuse_zero(self, alpha):
        # Looking at alpha makes the host wait for an accelerator: only schedules that do reach 0 pay for it.
        if self._reaches_zero_alpha and bool((alpha == 0).any()):
            raise ValueError(
                f"alpha is 0 at timestep {self.time_range[1]} (zero terminal SNR): there an epsilon prediction does "
                "not determine x0; use an earlier timestep, or a v_prediction or sample network"
            )

    def _tables(self, device, dtype):
        if (device, dtype) not in self._cache:
            # Tensors born in inference mode could not be used for training later on.
            with torch.inference_mode(False):
                tables = (self._alphas, (1 - self._alphas**2).sqrt())
                self._cache[device, dtype] = [table.to(dtype).to(device) for table in tables]
        return self._cache[device, dtype]

    def _times_on(self, t, like, dtype):
        times = torch.as_tensor(t, dtype=torch.float64 if isinstance(t, float) else None)
        if times.ndim > 1 or times.numel() not in (1, like.shape[0]):
            raise ValueError(f"t must be one time or one for each of {like.shape[0]}; got shape {tuple(times.shape)}")
        if self._alphas is not None:
            if times.is_floating_point():
                raise ValueError(f"timesteps are integers in 0 .. {self.time_range[1]}; got {times.dtype}")
            dtype = torch.long
        if times.device.type != "cpu":
            return times.reshape(-1).to(like.device, dtype)
        self._check_range(times)
        if times.ndim == 0:
            return torch.full((1,), times.item(), dtype=dtype, device=like.device)
        return times.to(dtype).to(like.device, non_blocking=True)

    def _check_range(self, times):
        low, high = self.time_range
        slack = 0 if self._alphas is not None else 1e-5  # the ends, once rounded, may be just outside
        if not bool(((times >= low * (1 - slack)) & (times <= high * (1 + slack))).all()):  # NaN fails too
            raise ValueError(f"t must be in {low} .. {high}; got {times.tolist()}")
