# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What is particular to an architecture: how its network is loaded, called and conditioned; what its samples are."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

from ...diffusion.noise import NoiseSchedule
from ...errors import UsageError, one_line
from ..conditions import Conditions
from ..lora_file import LoraFile
from ..lora_targets import present_targets
from ..sizes import Bucket
from ..source import ModelSource
from ..teacher_scheduler import check_scheduler, check_steps


if TYPE_CHECKING:
    from ..denoiser import Denoiser  # which imports this module


class Family:
    """A teacher of one architecture. The constructor reads and checks configs; weights come with the `load_*` methods.

    A family overrides what its architecture does otherwise. It must give `pipeline_name`, `network_class`, `call`,
    `buckets`, `decode` and `sample`. Without `load_encoder` it is unconditional.

    Args:
        source (`ModelSource`): folder or repository of the teacher.

    Attributes:
        name (`str`): the teacher's, as given. commit (`str` or `None`): of a Hub repository.
        schedule (`NoiseSchedule`). scheduler_config, network_config (`dict`).
        warnings (`list[str]`): what a user should know before training.
        lora (`LoraFile` or `None`): of `add_lora`. lora_strength (`float`).
        interface (`dict`): what another base model of the student must have in common with the teacher.

    Raises:
        UsageError: a teacher that cannot be distilled.
    """

    pipeline_name: str  # the class in model_index.json
    network_class: type  # a `ModelMixin` of diffusers
    network_folder = "unet"
    uses_prompts = False
    prompt_tokens: int | None = None  # how many of a prompt are read
    classes = 0  # of a class-conditional teacher
    class_names: list[str] | None = None
    grid_period: int | None = None  # pixels of the grid that an upsampling decoder may leave
    can_be_empty = True  # whether the network knows the empty condition, which guidance needs
    served = False  # whether `DisBackPipeline` loads its students
    supports: frozenset[str] = frozenset()  # settings that not every family has, such as "student_unet"
    conditioning_timestep: float = 399  # the default t*
    guidance_scale = 2.0  # the default of the target
    stock_guidance_scale = 1.0  # the default of the stock pipeline
    # Suffixes of the layers that a LoRA adapts, by the name that users give; those a network lacks are left out.
    lora_targets: dict[str, tuple[str, ...]] = {}

    def __init__(self, source: ModelSource):
        self.source, self.warnings, self.interface = source, [], {}
        self.lora, self.lora_strength = None, 1.0
        self.name, self.commit = source.name, source.commit
        self.network_config = source.config(self.network_class, self.network_folder)
        self.scheduler_config = source.scheduler_config()
        if seems := source.refuse_distilled(self.network_config, self.scheduler_config):
            self.warnings.append(seems)
        self.schedule = self._read_schedule()

    def error(self, message: str) -> UsageError:
        """A UsageError about the teacher; the message has no subject."""
        return self.source.error(message)

    def _read_schedule(self) -> NoiseSchedule:
        try:
            return NoiseSchedule.from_scheduler(self.scheduler_config)
        except UsageError as error:
            raise self.error(f"has a scheduler/ that this package cannot distill: {error}") from None
        except Exception as error:  # of whatever is in the config
            raise self.error(f"has no valid scheduler/ config: {one_line(error)}") from None

    # -----------------------------------------------------------------------------------------------------------------
    # The network

    def load_network(self, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        """The teacher's network on the CPU, frozen, in eval mode."""
        network = self.source.model(self.network_class, self.network_folder, dtype=dtype).eval()
        if self.lora:
            self.lora.fuse_into(network, self.lora_strength)
        return network

    def add_lora(self, lora: LoraFile, strength: float = 1.0) -> None:
        """Let the teacher be the model with this LoRA, at this strength.

        Raises:
            UsageError: it does not fit the network.
        """
        with torch.device("meta"):
            lora.check_layers(self.build_network())
        self.lora, self.lora_strength = lora, strength

    def build_network(self, config: dict | None = None) -> torch.nn.Module:
        """A network of random weights; on the meta device, under `torch.device("meta")`, one without weights."""
        return self.network_class.from_config(config or self.network_config)

    def call(
        self, network: torch.nn.Module, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """The raw prediction, `(n, ...)`. Callers go through `Denoiser`, which sees to precision and device."""
        raise NotImplementedError

    @property
    def bottleneck_channels(self) -> int | None:
        """Channels of what the network's bottleneck gives; None for a network without one."""
        widths = self.network_config.get("block_out_channels")
        return widths[-1] if widths and self.network_config.get("mid_block_type", "") is not None else None

    def bottleneck(self, network: torch.nn.Module) -> torch.nn.Module:
        """The module in the middle of the network whose output `(n, channels, h, w)` a discriminator sees."""
        return network.mid_block

    def find_lora_targets(self, network: torch.nn.Module, wanted: Iterable[str]) -> list[str]:
        """Suffixes of layers: those of a name in `lora_targets`, as far as the network has them; else as wanted."""
        wanted = list(wanted)
        if len(wanted) == 1 and wanted[0] in self.lora_targets:
            return present_targets(network, self.lora_targets[wanted[0]])
        return wanted

    # -----------------------------------------------------------------------------------------------------------------
    # Conditions

    def longer_than_read(self, prompts: list[str]) -> int:
        """How many prompts are longer than what the network is conditioned on; the end of those has no effect."""
        return 0

    def load_encoder(
        self, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> Callable[[list[str]], Conditions]:
        """A function from n prompts to their `Conditions` of n rows, on `device`."""
        return lambda prompts: Conditions(rows=len(prompts))

    def example_conditions(self) -> Conditions:
        """Conditions of one row with tensors of the right shapes and any values."""
        return Conditions(rows=1)

    def count_encoder_parameters(self) -> int:
        """Of the text encoders; no weights are loaded."""
        return 0

    # -----------------------------------------------------------------------------------------------------------------
    # Samples

    def buckets(self, resolution: list[str]) -> list[Bucket]:
        """The sizes to train at.

        Args:
            resolution (`list[str]`): "1024" or "832x1216" (width x height); empty for the teacher's own size.

        Raises:
            UsageError: no such size, or one that the family cannot take.
        """
        raise NotImplementedError

    def check_timestep(self, timestep: float) -> None:
        """Raise a UsageError where a student cannot start from this timestep."""
        first, last = self.schedule.time_range
        if not first <= timestep <= last:
            raise UsageError(f"{timestep} is outside of the teacher's schedule, {first} to {last}.")
        alpha, _ = self.schedule.alpha_sigma(timestep, torch.zeros(1))
        if self.schedule.prediction_type == "epsilon" and alpha == 0:
            raise UsageError(
                f"{timestep} is pure noise (zero terminal SNR), from which a teacher that predicts noise cannot "
                "start: take an earlier one."
            )

    def check_scheduler(self, name: str) -> None:
        """Raise a UsageError where the scheduler class of this name cannot sample the teacher."""
        check_scheduler(self.scheduler_config, name)

    def check_sampling(self, steps: int, scheduler: str | None = None) -> None:
        """Raise a UsageError where `sample` would fail in this number of steps, or with this scheduler."""
        check_steps(self.scheduler_config, self.schedule, steps, scheduler)

    def use_vae(self, name: str) -> None:
        """Decode with another VAE (folder or Hub id).

        Raises:
            UsageError: there is none, or it does not fit.
        """
        raise UsageError("is for teachers with a VAE, and this one has none: leave it out.")

    def prepare_decoder(self) -> None:
        """Load what `decode` needs; a broken file should be found before training."""

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Samples `(n, ...)` to images `(n, 3, H, W)` in [0, 1], float32 on the CPU."""
        raise NotImplementedError

    def image_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width in pixels of the image of a sample of this shape, without n."""
        return shape[-2], shape[-1]

    @property
    def image_encoder(self) -> str:
        """Identifies what `encode` encodes with, where that is not the teacher's own."""
        return ""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images `(n, 3, H, W)` in [0, 1] to samples `(n, ...)`, float32 on the CPU: what `decode` undoes."""
        raise NotImplementedError

    def sample(
        self,
        teacher: "Denoiser",
        z: torch.Tensor,
        conditions: Conditions,
        empty: Conditions,
        steps: int,
        guidance_scale: float = 1.0,
        scheduler: str | None = None,
    ) -> torch.Tensor:
        """Samples of the teacher, by the stock pipeline of the architecture.

        Args:
            teacher (`Denoiser`).
            z (`torch.Tensor` of shape `(n, ...)`): standard normal.
            conditions, empty (`Conditions`): n rows each: the prompts, and the empty prompt.
            steps (`int`): evaluations of the network, with guidance of twice the batch.
            guidance_scale (`float`, *optional*, defaults to 1): 1 is no guidance.
            scheduler (`str`, *optional*): a scheduler class of diffusers; by default the teacher's own.

        Returns:
            x0, a tensor of the shape of `z`, float32.
        """
        raise NotImplementedError
