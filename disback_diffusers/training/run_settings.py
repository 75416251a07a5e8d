# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The settings that say how and where a run computes and writes, and not what. Steps count optimizer updates."""

from dataclasses import dataclass
from typing import Literal

from .flags import NOTHING, PATH, flag


@dataclass
class SystemArguments:
    """Randomness, precision, speed and memory."""

    seed: int = flag(
        0,
        "Seed of all randomness; on a CPU the same seed gives the same run bit for bit.",
        shapes=PATH,
        at_least=0,
        below=2**32,
    )
    gradient_checkpointing: bool = flag(False, "Save memory, at about one third more time.", shapes=NOTHING)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        None, "Precision of the frozen base and of autocast; by default that of `accelerate config`.", shapes=PATH
    )
    allow_tf32: bool = flag(False, "TF32 matrix products on Ampere and later.", shapes=PATH)
    compile: bool = flag(False, "torch.compile the network.", shapes=NOTHING)
    enable_xformers_memory_efficient_attention: bool = flag(
        False, "xformers attention (CUDA, needs xformers).", shapes=NOTHING
    )


@dataclass
class RunArguments:
    """The output folder, checkpoints, logs and sample images."""

    output_dir: str = flag("disback-model", "Where everything is written.", shapes=NOTHING, local=True)
    checkpointing_steps: int = flag(500, "Save a checkpoint every N updates.", shapes=NOTHING, above=0)
    checkpoints_total_limit: int | None = flag(
        None, "Keep this many checkpoints and delete older ones.", shapes=NOTHING, above=0
    )
    resume_from_checkpoint: str | None = flag(
        None, "'latest', or the folder of the last checkpoint.", shapes=NOTHING, local=True
    )
    logging_steps: int = flag(
        1, "A line in log.jsonl every N updates. Between them, nothing waits for the GPU.", shapes=NOTHING, above=0
    )
    log_mismatch_every: int = flag(
        0,
        "Log the mismatch degree (Eq. 9) every N updates; 0: never. It takes 512 evaluations of the network.",
        shapes=NOTHING,
        at_least=0,
    )
    log_fd_every: int = flag(
        0, "Log the Fréchet distance to --fd_reference every N updates; 0: never.", shapes=NOTHING, at_least=0
    )
    fd_reference: str | None = flag(
        None,
        "Statistics of real images, a file of evaluate_disback.py --save_reference; 'embedded' has the emoji's.",
        shapes=NOTHING,
        local=True,
        needs="log_fd_every",
    )
    fd_images: int = flag(
        2000,
        "Images of each FD measurement, spread over the training prompts or classes.",
        shapes=NOTHING,
        needs="log_fd_every",
        above=1,
    )
    log_health_every: int = flag(
        500,
        "Compare 16 samples with the teacher's every N updates, and warn of signs that the training goes wrong; 0: "
        "never.",
        shapes=NOTHING,
        at_least=0,
    )
    keep_best: Literal["fd", "mismatch"] | None = flag(
        None,
        "Save the student with the lowest measured FD, or mismatch degree, instead of the last one.",
        shapes=NOTHING,
    )
    report_to: list[str] = flag([], "Trackers of accelerate: tensorboard, wandb, ...", shapes=NOTHING)
    logging_dir: str = flag("logs", "Folder of the trackers, in output_dir.", shapes=NOTHING, local=True)
    validation_prompts: list[str] = flag(
        [], "Prompts or classes of the images in samples/, or one .txt file; default: 8 of the data.", shapes=NOTHING
    )
    validation_steps: int = flag(
        500, "Generate samples every N updates of stage 2; 0: only at the end.", shapes=NOTHING, at_least=0
    )
    validation_scheduler: str | None = flag(
        None,
        "Scheduler class of diffusers with which the teacher's samples are generated; by default its own.",
        shapes=NOTHING,
    )
    validation_inference_steps: int = flag(25, "Steps of the teacher's samples.", shapes=NOTHING, above=0)
    push_to_hub: bool = flag(False, "Upload the result.", shapes=NOTHING)
    push_degradation_path: bool = flag(
        False,
        "Upload the degradation path too, which is several times as large as a LoRA student.",
        shapes=NOTHING,
        needs="push_to_hub",
    )
    hub_model_id: str | None = flag(
        None, "Repository, by default the name of output_dir.", shapes=NOTHING, needs="push_to_hub"
    )
    hub_token: str | None = flag(None, "Token; better: `hf auth login`.", shapes=NOTHING, shown=False)
    dry_run: bool = flag(False, "Check flags and files, print what the run would cost, and stop.", shapes=NOTHING)
