# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The demo in lower precision, from its training to its Fréchet distance: does the GPU's arithmetic learn as well?"""

import json
from pathlib import Path
from statistics import median

import torch
from accelerate.state import AcceleratorState

from disback_diffusers import DisBackPipeline
from disback_diffusers.evaluation.judge import Judge
from disback_diffusers.files import LOG
from disback_diffusers.models.embedded import PROMPTS
from disback_diffusers.models.families import StableDiffusion
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.distill import distill

from .lab import memory, release, seconds_of
from .training import PRESETS


ON_CPU = Path(__file__).parents[1] / "results" / "demo.json"
QUICK = """
    --no_backtracking --max_train_steps 2 --train_batch_size 4 --lora_rank 2 --validation_steps 0
    --validation_prompts cat
""".split()


def distances(folder, device, count=None):
    """FD and retrieval of the student of a run, with the noise of benchmarks/embedded_teacher.py."""
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
    noise = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    prompts, pipe, judge = prompts[:count], DisBackPipeline.from_pretrained(folder).to(device), Judge(device=device)
    pipe.set_progress_bar_config(disable=True)
    images = [
        pipe(prompts[i : i + 64], latents=noise[i : i + 64][: len(prompts) - i], output_type="pt").images
        for i in range(0, len(prompts), 64)
    ]
    features = judge.image_features(torch.cat(images))
    retrieval = judge.retrieval(features, judge.text_features(prompts))
    return {"fd": round(judge.frechet_distance(features), 3), "retrieval": round(retrieval, 4)}


def demo(lab):
    """A part: bf16, then fp16; a rehearsal, for which a CPU is too slow in bf16 and unable in fp16, in float32."""
    rows = json.loads(ON_CPU.read_text(encoding="utf-8"))["rows"]
    on_cpu = next(row["FD"] for row in rows if row["model"] == "student, 1 step")
    lab.report(settings={"preset": "demo"}, fd_on_cpu_in_float32=on_cpu)
    for precision in ("no",) if lab.rehearse else ("bf16", "fp16"):
        release()
        AcceleratorState._reset_state(reset_partial_state=True)  # it allows no second precision
        folder = lab.work / f"demo_{precision}"
        words = ["--config", str(PRESETS / "demo.yaml"), "--output_dir", str(folder), "--mixed_precision", precision]
        if lab.rehearse:
            (lab.work / "few.txt").write_text("\n".join(PROMPTS.read_text(encoding="utf-8").splitlines()[:16]))
            words += [*QUICK, "--prompt_dataset", str(lab.work / "few.txt")]
        args = parse_args(words)
        seconds = seconds_of(lambda args=args: distill(args, [StableDiffusion]))
        updates = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
        found = {
            "seconds": round(seconds, 2),
            "seconds_an_update": median(line["seconds_per_step"] for line in updates),
            **memory(),
            **distances(folder, lab.device, 16 if lab.rehearse else None),
        }
        line = f"FD {found['fd']:.3f} (on a CPU in float32 {on_cpu:.3f}) after {seconds:.0f} s"
        lab.report(f"{precision}: {line}", **{precision: found})
