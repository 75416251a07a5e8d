# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The parts of a run, without a process of its own."""

from dataclasses import dataclass

import pytest
import torch
from accelerate import Accelerator

from disback_diffusers.training.arguments import DistillationArguments, not_for
from disback_diffusers.training.batches import BatchSource
from disback_diffusers.training.build import build
from disback_diffusers.training.distill import Distillation
from disback_diffusers.training.networks import Networks
from disback_diffusers.training.objectives import OBJECTIVES
from disback_diffusers.training.parallel import Replicated
from disback_diffusers.training.prepare import make_accelerator
from disback_diffusers.training.probes import make_probes
from disback_diffusers.training.run_folder import RunFolder
from disback_diffusers.training.sources import Sources, open_extractor, open_sources
from disback_diffusers.training.trainer import Trainer
from disback_diffusers.training.validation import Validator


PROMPTS = ("a red cat", "a blue dog", "a photo of the square", "on a circle", "the cat")
QUICK = {"degradation_steps": 8, "degradation_nodes": 3, "steps_per_node": 2, "max_train_steps": 8, "lora_rank": 4,
         "train_batch_size": 2, "learning_rate": 1e-3, "fake_score_learning_rate": 1e-3,
         "degradation_learning_rate": 1e-3, "guidance_scale": 1.0, "resolution": ["16"],
         "lora_target_modules": ["to_q", "to_v", "conv1"], "log_health_every": 0}  # fmt: skip


@dataclass
class Context:
    """What `distill` opens, loads and hands to the stages."""

    args: DistillationArguments
    sources: Sources
    accelerator: Accelerator
    parallel: Replicated
    networks: Networks
    batches: BatchSource

    @property
    def parts(self):
        """The first three arguments of stages, probes and validators."""
        return self.networks, self.batches, self.parallel

    @property
    def family(self):
        return self.networks.family

    @property
    def roles(self):
        return self.networks.roles

    @property
    def student(self):
        return self.networks.student

    @property
    def probes(self):
        """Those that the settings ask for."""
        return make_probes(self.args.run, self.sources, *self.parts, self.args.objective.guidance_scale)

    def validator(self, folder):
        scale = self.args.objective.guidance_scale
        return Validator(*self.parts, self.sources.shown, self.args.run, scale, folder)

    def trainer(self, folder, **more):
        """A trainer that writes to this folder, open already, without a validator and probes if not given."""
        return Trainer(self.accelerator, self.parallel, folder, self.args.run, **more)

    @torch.no_grad()
    def output(self, denoiser):
        """The prediction for two fixed noisy samples at timestep 399."""
        z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        return denoiser.output(z, torch.full((2,), 399), self.batches.conditions([0, 1]))

    def distillation(self, trainer):
        """The run, which hands its stages to this trainer."""
        folder = RunFolder(self.args.run.output_dir)
        shared = self.args, self.sources, self.parallel, folder, self.networks, self.batches
        objective = OBJECTIVES[self.args.objective.objective]
        return Distillation(*shared, validator=None, trainer=trainer, objective=objective)


@pytest.fixture
def make_args(sd_folder, tmp_path):
    """A function from settings to those of a quick run with the tiny random teacher (or another)."""
    prompts = tmp_path / "training-prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    files = {"pretrained_teacher_model": str(sd_folder), "prompt_dataset": str(prompts)}

    def make(**settings):
        unused = not_for(settings.get("objective", "dmd"))
        quick = {name: value for name, value in QUICK.items() if name not in unused}
        return DistillationArguments(**{**files, "output_dir": str(tmp_path / "run"), **quick, **settings})

    return make


@pytest.fixture
def make_context(make_args):
    """A function from settings to a `Context`."""

    def make(**settings):
        args = make_args(**settings)
        sources = open_sources(args)
        accelerator = make_accelerator(args.system, args.run)
        open_extractor(sources, accelerator.device)
        parallel = Replicated(accelerator)
        networks, batches = build(args, sources, parallel, RunFolder(args.run.output_dir).folder)
        return Context(args, sources, accelerator, parallel, networks, batches)

    return make
