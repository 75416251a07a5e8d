# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The settings of a run: one dataclass behind the command line and the YAML presets."""

import argparse
import math
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import yaml
from transformers import HfArgumentParser

from ..errors import UsageError, one_line


def flag(default, help, **kwargs):
    """A field with its help text; lists need a factory."""
    kwargs["metadata"] = {"help": help}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), **kwargs)
    return field(default=default, **kwargs)


@dataclass
class DistillationArguments:
    """Everything `train_disback_*.py` can be told. Steps count optimizer updates; sizes are pixels."""

    # Teacher and prompts
    pretrained_teacher_model: str | None = flag(None, "Folder or Hub id of the teacher; 'embedded' is the tiny one.")
    teacher_revision: str | None = flag(None, "Revision (branch, tag, commit) of the teacher on the Hub.")
    variant: str | None = flag(None, "Weights variant of the teacher, such as 'fp16'.")
    pretrained_vae_model_name_or_path: str | None = flag(
        None, "Another VAE (folder or Hub id), such as SDXL's fp16-fix, to draw samples with; training needs none."
    )
    prompt_dataset: str | None = flag(
        None, "Training prompts: .txt (one a line), .jsonl, .csv, .parquet, or a Hub dataset id; 'embedded' has 1,644."
    )
    caption_column: str = flag("text", "Column of the prompts in .jsonl, .csv, .parquet or a Hub dataset.")
    cache_text_embeddings: Literal["off", "memory", "disk"] = flag(
        "off",
        "Encode all prompts once, in advance, and free the text encoders; 'disk' is a file in the output folder.",
    )

    # Run
    output_dir: str = flag("disback-model", "Where everything is written.")
    seed: int = flag(0, "Seed of all randomness; on a CPU the same seed gives the same run bit for bit.")
    resolution: list[str] = flag(
        [],
        "Image size in pixels, 1024 or WIDTHxHEIGHT; of several each batch draws one; by default the teacher's own.",
    )
    train_batch_size: int = flag(8, "Samples a step, on each process.")
    gradient_accumulation_steps: int = flag(1, "Batches an update.")
    gradient_checkpointing: bool = flag(False, "Save memory, at about one third more time.")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        None, "Precision of the frozen base and of autocast; by default that of `accelerate config`."
    )
    allow_tf32: bool = flag(False, "TF32 matrix products on Ampere and later.")
    compile: bool = flag(False, "torch.compile the UNet.")
    enable_xformers_memory_efficient_attention: bool = flag(False, "xformers attention (CUDA, needs xformers).")

    # Roles
    student: Literal["lora", "full"] = flag("lora", "A LoRA on the teacher's UNet, or a whole UNet of its own.")
    student_unet: str | None = flag(
        None,
        "A full student starts as this UNet (folder or Hub id), such as a smaller one; it must predict what the "
        "teacher's does (noise, v or x0).",
    )
    lcm_lora: str | None = flag(
        None, "The student starts as this LCM-LoRA (file, folder or Hub id) and keeps its rank, layers and key style."
    )
    lora_rank: int = flag(64, "Rank of the adapters (target, fake score and LoRA student).")
    lora_alpha: float | None = flag(None, "Scale of the adapters is alpha / rank; by default alpha = rank.")
    lora_target_modules: list[str] = flag(["all"], "'attention', 'all' (14 suffixes of LCM-LoRA), or module suffixes.")
    conditioning_timestep: int | None = flag(
        None, "Timestep at which the student runs its one step; by default 399, with --lcm_lora 999."
    )

    # Stage 1, degradation recording
    degradation_steps: int = flag(200, "Updates of stage 1 (Alg. 1).")
    degradation_nodes: int = flag(7, "Nodes saved on the way.")
    node_spacing: Literal["geometric", "uniform"] = flag(
        "geometric", "Steps between nodes: doubling, or equal (paper)."
    )
    degradation_learning_rate: float = flag(2e-4, "Learning rate of the degrading target.")
    degradation_path: str | None = flag(None, "Reuse a recorded path (a 'degradation' folder) and skip stage 1.")

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
    proportion_empty_prompts: float = flag(0.1, "Share of prompts emptied for the fake score and the target.")

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
    adam_beta1: float = flag(0.9, "Adam's first beta.")
    adam_beta2: float = flag(0.999, "Adam's second beta.")
    adam_weight_decay: float = flag(0.0, "Weight decay (AdamW).")
    adam_epsilon: float = flag(1e-8, "Adam's epsilon.")
    max_grad_norm: float = flag(1.0, "Gradient clipping, for each role.")
    use_8bit_adam: bool = flag(False, "8-bit AdamW of bitsandbytes.")
    ema_decay: float = flag(0.99, "Decay of the student's moving average, which is what is validated and saved.")

    # Checkpoints, logging, validation
    checkpointing_steps: int = flag(500, "Save a checkpoint every so many updates.")
    checkpoints_total_limit: int | None = flag(None, "Keep this many checkpoints, the oldest go.")
    resume_from_checkpoint: str | None = flag(None, "'latest', or the folder of the last checkpoint.")
    logging_steps: int = flag(1, "A line in log.jsonl every so many updates.")
    log_mismatch_every: int = flag(
        0, "Log the mismatch degree (Eq. 9), which takes about 3 updates' time, every so many updates; 0: never."
    )
    log_fd_every: int = flag(0, "Log the Fréchet distance to --fd_reference every so many updates; 0: never.")
    fd_reference: str | None = flag(
        None, "Statistics of real images, a file of evaluate_disback.py --save_reference; 'embedded' has the emoji's."
    )
    fd_images: int = flag(2000, "Images drawn for it, of as many training prompts.")
    report_to: list[str] = flag([], "Trackers of accelerate: tensorboard, wandb, ...")
    logging_dir: str = flag("logs", "Folder of the trackers, in output_dir.")
    validation_prompts: list[str] = flag([], "Prompts drawn in samples/, or one .txt file; by default 8 of the data.")
    validation_steps: int = flag(500, "Draw samples every so many updates of stage 2; 0: only at the end.")

    # Hub
    push_to_hub: bool = flag(False, "Upload the result.")
    hub_model_id: str | None = flag(None, "Repository, by default the name of output_dir.")
    hub_token: str | None = flag(None, "Token; better: `hf auth login`.")
    dry_run: bool = flag(False, "Check flags and files, print what the run would cost, and stop.")

    def __post_init__(self):
        self.variant = self.variant or None
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
        """Everything that shapes the result, as plain values (for the manifest of a run); no token."""
        values = asdict(self)
        del values["hub_token"]
        return values


# What YAML 1.1 reads as false, though it is the name of a choice.
FALSE_WORDS = {"mixed_precision": "no", "cache_text_embeddings": "off"}


def _read_config(file):
    """A YAML file of flag names and values, as command-line words."""
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"--config {file}: {error.strerror}.") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter: no UTF-8, or a date that is none
        raise UsageError(f"--config {file} is no YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise UsageError(f"--config {file}: expected lines of the form 'flag: value'.")
    known = {f.name for f in fields(DistillationArguments)}
    words = []
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"--config {file}: unknown key '{key}'; --help lists them.")
        if value is False and key in FALSE_WORDS:
            value = FALSE_WORDS[key]
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, (dict, list)) for item in items):
            raise UsageError(f"--config {file}: '{key}' must be one value or a list of values.")
        if isinstance(value, list) and value:
            words += [f"--{key}", *map(str, value)]
        elif value is not None and value != []:
            words.append(f"--{key}={value}")
    return words


class _OneLine:
    def error(self, message):
        raise UsageError(message)


class _Parser(_OneLine, HfArgumentParser):
    pass


class _ConfigParser(_OneLine, argparse.ArgumentParser):
    pass


def parse_args(input_args=None, description=None, **defaults):
    """The settings from the command line, over those of `--config`, over `defaults`, over the dataclass.

    Raises:
        UsageError: an unknown flag or key, or a value that cannot work.
    """
    words = list(sys.argv[1:] if input_args is None else input_args)
    config = _ConfigParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config")
    config, words = config.parse_known_args(words)
    parser = _Parser(DistillationArguments, description=description, allow_abbrev=False)
    parser.add_argument("--config", help="A YAML file with any of these flags; the command line wins.")
    parser.set_defaults(**defaults)
    from_file = _read_config(config.config) if config.config else []
    try:  # alone, so that a wrong value is blamed on the file
        _, unknown = parser.parse_known_args(from_file)
    except UsageError as error:
        raise UsageError(f"--config {config.config}: {error}") from None
    if unknown:
        raise UsageError(f"--config {config.config}: '{unknown[0]}' is one value too many.")
    arguments, *_, unknown = parser.parse_args_into_dataclasses(
        [*from_file, *words], return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise UsageError(f"unknown flag {unknown[0]}; --help lists them.")
    return arguments
