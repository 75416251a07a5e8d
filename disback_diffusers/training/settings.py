# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The settings that shape the result, in groups. Steps count optimizer updates; sizes are pixels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .flags import NOTHING, PATH, RESULT, TEACHER, flag


if TYPE_CHECKING:
    from .path import DegradationPath  # slow to import


GAN = ("gan", "fdiv")  # objectives with a discriminator
MATCHING = ("dmd", *GAN, "asd", "dmd_regression")  # objectives with Eq. 8
FEW_STEPS = (*MATCHING, "sid")  # objectives with a fake score, for students of one or few steps
Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine"]


@dataclass
class TeacherArguments:
    """The model that is distilled."""

    pretrained_teacher_model: str | None = flag(
        None, "Folder or Hub id of the teacher; 'embedded' is a tiny Stable Diffusion.", shapes=TEACHER, local=True
    )
    teacher_revision: str | None = flag(
        None, "Revision (branch, tag, commit) of the teacher on the Hub.", shapes=TEACHER
    )
    variant: str | None = flag(None, "Weights variant of the teacher, such as 'fp16'.", shapes=TEACHER)
    teacher_lora: str | None = flag(
        None,
        "A LoRA of the teacher, such as your own style: the student learns the teacher with it (as --init_lora).",
        shapes=TEACHER,
        local=True,
    )
    teacher_lora_strength: float = flag(
        1.0, "Strength of --teacher_lora.", shapes=TEACHER, needs="teacher_lora", above=0
    )
    pretrained_vae_model_name_or_path: str | None = flag(
        None,
        "Another VAE (folder or Hub id) for the sample images, such as SDXL's fp16-fix; training needs none.",
        shapes=NOTHING,
        local=True,
    )


@dataclass
class DataArguments:
    """What the networks are trained on."""

    prompt_dataset: str | None = flag(
        None,
        "Training prompts: .txt (one a line), .jsonl, .csv, .parquet, or a Hub dataset id; 'embedded' has 1,644.",
        shapes=PATH,
        local=True,
    )
    class_labels: str | None = flag(
        None,
        "Classes of a class-conditional teacher to train on: 'all' (default), or numbers such as 0-9,17.",
        shapes=PATH,
    )
    caption_column: str = flag(
        "text", "Column of the prompts in .jsonl, .csv, .parquet or a Hub dataset.", shapes=PATH
    )
    cache_text_embeddings: Literal["off", "memory", "disk"] = flag(
        "off",
        "Encode all prompts once, in advance, and free the text encoders; 'disk' is a file in the output folder.",
        shapes=NOTHING,
    )
    resolution: list[str] = flag(
        [],
        "Image size in pixels, 1024 or WIDTHxHEIGHT; of several each batch takes one; by default the teacher's own.",
        shapes=PATH,
    )
    train_batch_size: int = flag(8, "Samples of a micro-batch, on each process.", shapes=PATH, above=0)
    gradient_accumulation_steps: int = flag(1, "Micro-batches of an update.", shapes=PATH, above=0)
    real_images: str | None = flag(
        None,
        "Real images, for the discriminator or for guidance: a folder, a .parquet file, a Hub dataset, or the "
        ".safetensors file of their latents that an earlier run wrote.",
        local=True,
        objectives=(*GAN, "guidance"),
    )
    negative_prompt: str | None = flag(
        None,
        "The prompt that guidance leads away from, for the target and the fake score, instead of an empty one.",
        shapes=PATH,
    )
    noise_levels: Literal["karras", "log-normal", "log-uniform"] = flag(
        "karras", "Distribution of the training noise levels, for EDM teachers.", shapes=PATH
    )
    proportion_empty_prompts: float = flag(
        0.1, "Share of prompts emptied for the fake score and the target.", shapes=PATH, at_least=0, below=1
    )


@dataclass
class StudentArguments:
    """The generator that is trained, and the adapters."""

    student: Literal["lora", "full"] = flag(
        "lora", "A LoRA on the teacher's network, or a whole network of its own.", shapes=PATH
    )
    student_unet: str | None = flag(
        None,
        "The student starts as this UNet (folder or Hub id), which predicts what the teacher's does (noise, v or x0): "
        "a full one exactly, also as a smaller one; a LoRA as near as its rank allows.",
        shapes=PATH,
        local=True,
    )
    lcm_lora: str | None = flag(
        None,
        "The student starts as this LCM-LoRA (file, folder or Hub id) and keeps its rank, layers and key style.",
        shapes=PATH,
        local=True,
        objectives=FEW_STEPS,
    )
    init_lora: str | None = flag(
        None,
        "The student starts as this LoRA, such as a few-step one (file, folder, Hub id, or Hub id/file); of SD and "
        "SDXL.",
        shapes=PATH,
        local=True,
    )
    init_fake_from_student: bool = flag(
        False, "The fake score starts as --init_lora or --student_unet too.", shapes=RESULT, objectives=FEW_STEPS
    )
    lora_rank: int = flag(64, "Rank of the adapters (target, fake score and LoRA student).", shapes=PATH, above=0)
    lora_alpha: float | None = flag(
        None, "Scale of the adapters is alpha / rank; by default alpha = rank.", shapes=PATH, above=0
    )
    lora_target_modules: list[str] = flag(
        ["all"], "'attention', 'all' (14 suffixes of LCM-LoRA), or module suffixes.", shapes=PATH
    )
    conditioning_timestep: int | None = flag(
        None,
        "Timestep of the student's one step; by default 399, with --lcm_lora 999. Not for EDM teachers.",
        shapes=PATH,
        above=0,
        objectives=FEW_STEPS,
    )
    student_steps: int = flag(
        1, "Steps in which the student generates, such as 1, 2, 4 or 8.", shapes=PATH, above=0, objectives=FEW_STEPS
    )
    timesteps: str | None = flag(
        None,
        "Timesteps of these steps, falling, such as 399,299,199,99; by default evenly down from "
        "--conditioning_timestep.",
        shapes=PATH,
        objectives=FEW_STEPS,
    )
    conditioning_sigma: float | None = flag(
        None, "Noise level of the student's one step, for EDM teachers; by default the largest.", shapes=PATH, above=0
    )
    proportion_later_steps: float | None = flag(
        None,
        "Share of an LCM-LoRA's samples trained at a later step of 8, so that 2 and 4 still work; by default 0.25.",
        at_least=0,
        below=1,
    )
    ema_decay: float = flag(
        0.99, "Decay of the student's moving average, which is what is validated and saved.", at_least=0, below=1
    )
    ema_half_life: int | None = flag(
        None, "Images after which older weights count half, instead of --ema_decay (see docs/guide.md).", above=0
    )

    @property
    def later_timesteps(self) -> list[int]:
        """Timesteps of the steps after the first, once `timesteps` is set."""
        return [int(t) for t in self.timesteps.split(",")[1:]] if self.student_steps > 1 else []

    @property
    def rollout_forwards(self) -> float:
        """Evaluations of the student for each training sample, before the one that is trained."""
        return (self.student_steps - 1) / 2 if self.student_steps > 1 else self.proportion_later_steps

    @property
    def conditioning_time(self) -> float | None:
        """The conditioning timestep or the conditioning sigma, whichever is set."""
        return self.conditioning_sigma if self.conditioning_timestep is None else self.conditioning_timestep


@dataclass
class PathArguments:
    """Stage 1, degradation recording, and how its path is walked back."""

    degradation_steps: int = flag(200, "Updates of stage 1 (Alg. 1).", shapes=PATH, above=0, objectives=FEW_STEPS)
    degradation_nodes: int = flag(7, "Nodes saved on the way.", shapes=PATH, above=0, objectives=FEW_STEPS)
    node_spacing: Literal["geometric", "uniform"] = flag(
        "geometric", "Steps between nodes: doubling, or equal (paper).", shapes=PATH, objectives=FEW_STEPS
    )
    degradation_learning_rate: float = flag(
        2e-4, "Learning rate of the degrading target.", shapes=PATH, above=0, objectives=FEW_STEPS
    )
    degradation_path: str | None = flag(
        None, "Reuse a recorded path (a 'degradation' folder) and skip stage 1.", local=True, objectives=FEW_STEPS
    )
    steps_per_node: str = flag(
        "auto",
        "Updates at each node but the last (the teacher), which gets what is left; or a number for each, as "
        "1000,1000,10000; auto: 5 percent of --max_train_steps for all of them together, at least 5 each.",
        objectives=FEW_STEPS,
    )
    node_switching: Literal["fixed", "adaptive"] = flag(
        "fixed",
        "fixed: always walk the path. adaptive: walk it only if the student's network cannot denoise yet and its "
        "samples of one prompt vary less than the teacher's, as measured before stage 1.",
        objectives=FEW_STEPS,
    )
    no_backtracking: bool = flag(False, "Diff-Instruct: the teacher is the only target (baseline).")

    def walks(self, path: "DegradationPath") -> bool:
        """Whether the nodes of a path are targets. Raises as `DegradationPath.should_walk`."""
        return not self.no_backtracking and (self.node_switching == "fixed" or path.should_walk()[0])


@dataclass
class OptimizationArguments:
    """Optimizers and learning rates."""

    max_train_steps: int = flag(10_000, "Updates of stage 2, all nodes together.", above=0)
    learning_rate: float = flag(1e-4, "Learning rate of the student.", above=0)
    fake_score_learning_rate: float = flag(2e-4, "Learning rate of the fake score.", above=0, objectives=FEW_STEPS)
    lr_scheduler: Schedule = flag("constant", "Schedule of stage 2's learning rates.")
    fake_score_lr_scheduler: Schedule | None = flag(
        None,
        "A separate schedule for the fake score, which has to keep up with the student to the end.",
        objectives=FEW_STEPS,
    )
    lr_warmup_steps: int = flag(0, "Warm-up updates of the schedules.", at_least=0)
    optimizer: Literal["adamw", "adam", "sgd"] = flag("adamw", "Optimizer of the student.")
    fake_score_optimizer: Literal["adamw", "adam", "sgd"] | None = flag(
        None,
        "Optimizer of the fake score and of stage 1; by default the student's, or adamw where that is sgd.",
        shapes=PATH,
        objectives=FEW_STEPS,
    )
    adam_beta1: float = flag(0.9, "Adam's first beta.", shapes=PATH, at_least=0, below=1)
    adam_beta2: float = flag(0.999, "Adam's second beta.", shapes=PATH, at_least=0, below=1)
    adam_weight_decay: float = flag(0.0, "Weight decay of every optimizer.", shapes=PATH, at_least=0)
    adam_epsilon: float = flag(1e-8, "Adam's epsilon.", shapes=PATH, above=0)
    max_grad_norm: float = flag(1.0, "Gradient clipping, for each role.", shapes=PATH, above=0)
    use_8bit_adam: bool = flag(False, "8-bit AdamW of bitsandbytes.", shapes=PATH)

    @property
    def fake_optimizer(self) -> str:
        """That of the fake score and of stage 1."""
        return self.fake_score_optimizer or ("adamw" if self.optimizer == "sgd" else self.optimizer)
