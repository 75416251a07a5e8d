# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The settings of a run: one dataclass behind the command line and the YAML presets."""

import math
import os
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Literal

from ..errors import UsageError
from ..models.embedded import EMBEDDED


# What a setting shapes. It must be the same in a resumed run unless it shapes nothing.
TEACHER = "teacher"  # which weights the run starts from: recorded as the base model
PATH = "path"  # the degradation path and the result: recorded in the path's manifest and in disback_config.json
RESULT = "result"  # the result only: recorded in disback_config.json
NOTHING = "nothing"  # neither, up to rounding: speed, memory, logs, and where things are written


def flag(default, help, shapes=RESULT, local=False):
    """A field with its help text, what it shapes, and whether it may name a local file or folder."""
    metadata = {"help": help, "shapes": shapes, "local": local}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def names(**metadata):
    """The settings whose metadata have these values, in their order (`list[str]`)."""
    return [f.name for f in fields(DistillationArguments) if metadata.items() <= f.metadata.items()]


@dataclass
class DistillationArguments:
    """The settings of `train_disback_*.py`. Steps count optimizer updates; sizes are pixels."""

    # Teacher and prompts
    pretrained_teacher_model: str | None = flag(
        None, "Folder or Hub id of the teacher; 'embedded' is the tiny one.", shapes=TEACHER, local=True
    )
    teacher_revision: str | None = flag(
        None, "Revision (branch, tag, commit) of the teacher on the Hub.", shapes=TEACHER
    )
    variant: str | None = flag(None, "Weights variant of the teacher, such as 'fp16'.", shapes=TEACHER)
    pretrained_vae_model_name_or_path: str | None = flag(
        None,
        "Another VAE (folder or Hub id), such as SDXL's fp16-fix, to draw samples with; training needs none.",
        shapes=NOTHING,
        local=True,
    )
    prompt_dataset: str | None = flag(
        None,
        "Training prompts: .txt (one a line), .jsonl, .csv, .parquet, or a Hub dataset id; 'embedded' has 1,644.",
        shapes=PATH,
        local=True,
    )
    caption_column: str = flag(
        "text", "Column of the prompts in .jsonl, .csv, .parquet or a Hub dataset.", shapes=PATH
    )
    cache_text_embeddings: Literal["off", "memory", "disk"] = flag(
        "off",
        "Encode all prompts once, in advance, and free the text encoders; 'disk' is a file in the output folder.",
        shapes=NOTHING,
    )

    # Run
    output_dir: str = flag("disback-model", "Where everything is written.", shapes=NOTHING, local=True)
    seed: int = flag(0, "Seed of all randomness; on a CPU the same seed gives the same run bit for bit.", shapes=PATH)
    resolution: list[str] = flag(
        [],
        "Image size in pixels, 1024 or WIDTHxHEIGHT; of several each batch draws one; by default the teacher's own.",
        shapes=PATH,
    )
    train_batch_size: int = flag(8, "Samples a step, on each process.", shapes=PATH)
    gradient_accumulation_steps: int = flag(1, "Batches an update.", shapes=PATH)
    gradient_checkpointing: bool = flag(False, "Save memory, at about one third more time.", shapes=NOTHING)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        None, "Precision of the frozen base and of autocast; by default that of `accelerate config`.", shapes=PATH
    )
    allow_tf32: bool = flag(False, "TF32 matrix products on Ampere and later.", shapes=PATH)
    compile: bool = flag(False, "torch.compile the UNet.", shapes=NOTHING)
    enable_xformers_memory_efficient_attention: bool = flag(
        False, "xformers attention (CUDA, needs xformers).", shapes=NOTHING
    )

    # Roles
    student: Literal["lora", "full"] = flag(
        "lora", "A LoRA on the teacher's UNet, or a whole UNet of its own.", shapes=PATH
    )
    student_unet: str | None = flag(
        None,
        "A full student starts as this UNet (folder or Hub id), such as a smaller one; it must predict what the "
        "teacher's does (noise, v or x0).",
        shapes=PATH,
        local=True,
    )
    lcm_lora: str | None = flag(
        None,
        "The student starts as this LCM-LoRA (file, folder or Hub id) and keeps its rank, layers and key style.",
        shapes=PATH,
        local=True,
    )
    lora_rank: int = flag(64, "Rank of the adapters (target, fake score and LoRA student).", shapes=PATH)
    lora_alpha: float | None = flag(
        None, "Scale of the adapters is alpha / rank; by default alpha = rank.", shapes=PATH
    )
    lora_target_modules: list[str] = flag(
        ["all"], "'attention', 'all' (14 suffixes of LCM-LoRA), or module suffixes.", shapes=PATH
    )
    conditioning_timestep: int | None = flag(
        None, "Timestep at which the student runs its one step; by default 399, with --lcm_lora 999.", shapes=PATH
    )

    # Stage 1, degradation recording
    degradation_steps: int = flag(200, "Updates of stage 1 (Alg. 1).", shapes=PATH)
    degradation_nodes: int = flag(7, "Nodes saved on the way.", shapes=PATH)
    node_spacing: Literal["geometric", "uniform"] = flag(
        "geometric", "Steps between nodes: doubling, or equal (paper).", shapes=PATH
    )
    degradation_learning_rate: float = flag(2e-4, "Learning rate of the degrading target.", shapes=PATH)
    degradation_path: str | None = flag(
        None, "Reuse a recorded path (a 'degradation' folder) and skip stage 1.", local=True
    )

    # Stage 2, distribution backtracking
    max_train_steps: int = flag(10_000, "Updates of stage 2, all nodes together.")
    steps_per_node: int = flag(100, "Updates at each node but the last (the teacher), which gets what is left.")
    node_switching: Literal["fixed", "adaptive"] = flag(
        "adaptive",
        "fixed walks the path always, adaptive only from a --student_unet that has learned nothing yet and whose "
        "samples of one prompt vary less than the teacher's.",
    )
    no_backtracking: bool = flag(False, "Diff-Instruct: the teacher is the only target (baseline).")
    fake_score_init: Literal["node", "teacher", "fit", "random"] | None = flag(
        None,
        "Start of the fake score: last node (default), teacher (default without backtracking), fit (what the last "
        "node would be, for runs without a path), random.",
    )
    fake_score_updates_per_step: int = flag(1, "Updates of the fake score a student update.")
    gradient_weighting: Literal["dmd", "vsd", "uniform"] = flag("dmd", "Weight of Eq. 8 over noise levels.")
    guidance_scale: float = flag(2.0, "Classifier-free guidance of the target; 1 is off.")
    fake_guidance_scale: float = flag(1.0, "Classifier-free guidance of the fake score; 1 is off.")
    guidance_max_timestep: int = flag(600, "Guide only up to this timestep; guiding at all of them gave a worse FD.")
    proportion_empty_prompts: float = flag(
        0.1, "Share of prompts emptied for the fake score and the target.", shapes=PATH
    )

    proportion_later_steps: float | None = flag(
        None,
        "Share of an LCM-LoRA's samples trained at a later step of 8, so that 2 and 4 still work; by default 0.25.",
    )

    # Optimization
    learning_rate: float = flag(1e-4, "Learning rate of the student.")
    fake_score_learning_rate: float = flag(2e-4, "Learning rate of the fake score.")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = flag(
        "constant", "Schedule of stage 2's learning rates."
    )
    fake_score_lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] | None = flag(
        None, "Another one for the fake score's, which has to follow the student to the end."
    )
    lr_warmup_steps: int = flag(0, "Warm-up updates of the schedules.")
    adam_beta1: float = flag(0.9, "Adam's first beta.", shapes=PATH)
    adam_beta2: float = flag(0.999, "Adam's second beta.", shapes=PATH)
    adam_weight_decay: float = flag(0.0, "Weight decay (AdamW).", shapes=PATH)
    adam_epsilon: float = flag(1e-8, "Adam's epsilon.", shapes=PATH)
    max_grad_norm: float = flag(1.0, "Gradient clipping, for each role.", shapes=PATH)
    use_8bit_adam: bool = flag(False, "8-bit AdamW of bitsandbytes.", shapes=PATH)
    ema_decay: float = flag(0.99, "Decay of the student's moving average, which is what is validated and saved.")

    # Checkpoints, logging, validation
    checkpointing_steps: int = flag(500, "Save a checkpoint every so many updates.", shapes=NOTHING)
    checkpoints_total_limit: int | None = flag(None, "Keep this many checkpoints, the oldest go.", shapes=NOTHING)
    resume_from_checkpoint: str | None = flag(
        None, "'latest', or the folder of the last checkpoint.", shapes=NOTHING, local=True
    )
    logging_steps: int = flag(1, "A line in log.jsonl every so many updates.", shapes=NOTHING)
    log_mismatch_every: int = flag(
        0,
        "Log the mismatch degree (Eq. 9), which takes about 3 updates' time, every so many updates; 0: never.",
        shapes=NOTHING,
    )
    log_fd_every: int = flag(
        0, "Log the Fréchet distance to --fd_reference every so many updates; 0: never.", shapes=NOTHING
    )
    fd_reference: str | None = flag(
        None,
        "Statistics of real images, a file of evaluate_disback.py --save_reference; 'embedded' has the emoji's.",
        shapes=NOTHING,
        local=True,
    )
    fd_images: int = flag(2000, "Images drawn for it, of as many training prompts.", shapes=NOTHING)
    report_to: list[str] = flag([], "Trackers of accelerate: tensorboard, wandb, ...", shapes=NOTHING)
    logging_dir: str = flag("logs", "Folder of the trackers, in output_dir.", shapes=NOTHING, local=True)
    validation_prompts: list[str] = flag(
        [], "Prompts drawn in samples/, or one .txt file; by default 8 of the data.", shapes=NOTHING
    )
    validation_steps: int = flag(
        500, "Draw samples every so many updates of stage 2; 0: only at the end.", shapes=NOTHING
    )

    # Hub
    push_to_hub: bool = flag(False, "Upload the result.", shapes=NOTHING)
    push_degradation_path: bool = flag(
        False, "Upload the degradation path too, which is several times as large as a LoRA student.", shapes=NOTHING
    )
    hub_model_id: str | None = flag(None, "Repository, by default the name of output_dir.", shapes=NOTHING)
    hub_token: str | None = flag(None, "Token; better: `hf auth login`.", shapes=NOTHING)
    dry_run: bool = flag(False, "Check flags and files, print what the run would cost, and stop.", shapes=NOTHING)

    def __post_init__(self):
        self.variant = self.variant or None
        for name in names(local=True):
            if getattr(self, name):
                setattr(self, name, os.path.expanduser(getattr(self, name)))
        if len(self.validation_prompts) == 1 and self.validation_prompts[0].lower().endswith(".txt"):
            self.validation_prompts = [os.path.expanduser(self.validation_prompts[0])]
        if self.report_to == ["none"]:  # as transformers has it
            self.report_to = []
        if self.conditioning_timestep is None:
            self.conditioning_timestep = 999 if self.lcm_lora else 399
        if self.proportion_later_steps is None:
            self.proportion_later_steps = 0.25 if self.lcm_lora else 0.0
        if self.lora_alpha is None:
            self.lora_alpha = float(self.lora_rank)
        if self.fake_score_init is None:
            self.fake_score_init = "teacher" if self.no_backtracking else "node"
        self.validate()

    def validate(self):
        """Raise UsageError for the first value that cannot work, whatever the teacher is."""
        for name in ("pretrained_teacher_model", "prompt_dataset"):
            if not getattr(self, name):
                raise UsageError(f"--{name} is required.")
        positive = """
            train_batch_size gradient_accumulation_steps lora_rank lora_alpha degradation_steps degradation_nodes
            degradation_learning_rate max_train_steps steps_per_node fake_score_updates_per_step learning_rate
            fake_score_learning_rate adam_epsilon max_grad_norm checkpointing_steps checkpoints_total_limit
            logging_steps fd_images guidance_scale fake_guidance_scale conditioning_timestep
        """.split()
        for name in positive:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # also refuses NaN
                raise UsageError(f"--{name} must be a number greater than 0, not {value}.")
        for name in (
            "lr_warmup_steps",
            "validation_steps",
            "log_mismatch_every",
            "log_fd_every",
            "adam_weight_decay",
            "guidance_max_timestep",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name} must be 0 or greater, not {getattr(self, name)}.")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be at least 0 and below 2**32, not {self.seed}.")
        for name in ("adam_beta1", "adam_beta2", "ema_decay", "proportion_empty_prompts", "proportion_later_steps"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"--{name} must be at least 0 and below 1, not {getattr(self, name)}.")
        self._validate_path()
        self._validate_rest()

    def _validate_path(self):
        if self.no_backtracking and self.degradation_path:
            raise UsageError("--no_backtracking walks no path: leave --degradation_path out.")
        if self.no_backtracking and self.fake_score_init == "node":
            raise UsageError("--fake_score_init node needs a path: with --no_backtracking use teacher, fit or random.")
        if self.degradation_nodes > self.degradation_steps:
            raise UsageError(
                f"--degradation_nodes {self.degradation_nodes} is more than --degradation_steps "
                f"{self.degradation_steps}: at most one node a step."
            )
        may_walk = self.node_switching == "fixed" or self.student_unet
        if may_walk and not self.no_backtracking and not self.degradation_path:
            stretch = (self.degradation_nodes - 1) * self.steps_per_node
            if stretch >= self.max_train_steps:
                raise UsageError(
                    f"--max_train_steps {self.max_train_steps} leaves no step for the true teacher: "
                    f"{self.degradation_nodes - 1} nodes take --steps_per_node {self.steps_per_node} each, "
                    f"{stretch} together. Take fewer of either, or more steps."
                )

    def _validate_rest(self):
        if self.lcm_lora and self.student == "full":
            raise UsageError("--lcm_lora is the student, and a LoRA: leave --student full out.")
        if self.student_unet and self.student != "full":
            raise UsageError("--student_unet needs --student full: a LoRA student runs on the teacher's own UNet.")
        if self.log_fd_every and not self.fd_reference:
            raise UsageError("--log_fd_every needs --fd_reference: what the student's images are compared with.")
        if self.proportion_later_steps and not self.lcm_lora:
            raise UsageError("--proportion_later_steps is for an --lcm_lora: other students have one step.")
        if self.hub_token and "wandb" in self.report_to:
            raise UsageError("--hub_token would be logged by --report_to wandb: use `hf auth login` instead.")

    def settings(self):
        """All settings but the token, as plain values; local files that are read by their full path (`dict`)."""
        values = asdict(self)
        del values["hub_token"]
        for name in set(names(local=True)) - set(names(shapes=NOTHING)):
            if values[name] not in (None, EMBEDDED) and os.path.exists(values[name]):
                values[name] = os.path.abspath(values[name])
        return values

    @staticmethod
    def defaults():
        """The default of every setting (`dict`)."""
        return {
            f.name: f.default if f.default_factory is MISSING else f.default_factory()
            for f in fields(DistillationArguments)
        }

    def recorded(self, *shapes):
        """The settings that shape one of these (`dict`)."""
        return {name: getattr(self, name) for kind in shapes for name in names(shapes=kind)}
