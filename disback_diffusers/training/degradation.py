# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Stage 1, degradation recording (Alg. 1): the teacher learns the untrained student's samples; nodes are saved."""

import torch

from ..diffusion.losses import denoising_loss
from ..errors import RunError
from .path import UNTRAINED, node_steps
from .stage import Stage
from .switching import variation


PROBE_SAMPLES = 16
PROBE_TIMES = 4  # fixed noise levels a sample, spread evenly
PROBE_STEPS = 20
PROBE_DRAWS = 4  # of noise a prompt, of the same number of samples, where their variation is asked for


class DegradationRecording(Stage):
    """Trains the role "target" by Eq. 7 with the student frozen, and adds a node to `path` at each of `node_steps`.

    Each node keeps its error on fixed samples of the untrained student and of the teacher (unguided DDIM). The path
    keeps how the student started, where that decides whether it is walked.
    """

    name = "degradation"
    role = "target"

    def __init__(self, context, path, nodes):
        args = context.args
        super().__init__(context, args.degradation_steps)
        self.path, self.node_steps = path, node_steps(args.degradation_steps, nodes, args.node_spacing)
        self.learner = self.make_learner("target", self.roles.parameters(self.role), args.degradation_learning_rate)
        self.losses = []  # since the last node
        self._probes = None

    @property
    def node(self):
        """The node that is being approached."""
        return next((i for i, step in enumerate(self.node_steps, 1) if step > self.step), len(self.node_steps))

    def start(self):
        if self.context.is_main:
            untrained = self._untrained() if self.args.student_unet else None
            self.path.start(untrained, **self.probe(role=None))

    def train_step(self, step):
        total = 0.0
        for part in range(self.parts):
            batch = self.batches.draw(self.name, step, part, self.parts)
            with torch.no_grad(), self.autocast():
                x0 = self.student(batch.noise, batch.conditioning)
            x_t = self.schedule.add_noise(x0, batch.epsilon, batch.t)
            output = self.forward(self.role, x_t, batch.t, batch.score_conditioning)
            loss = denoising_loss(output, x0, batch.epsilon, batch.t, self.schedule) / self.parts
            self.learner.backward(loss)
            total = total + loss.detach()
        norm = self.learner.step()
        return {"loss_target": total, "grad_norm_target": norm}

    def after_step(self, step, metrics):
        self.losses.append(metrics["loss_target"])
        if step in self.node_steps:
            if self.context.is_main:
                mean = sum(self.losses) / len(self.losses)
                self.path.add(self.roles, step, role=self.role, loss=mean, **self.probe(self.role))
            self.losses = []

    def finish(self):
        if self.context.is_main:
            self.path.complete = True
            self.path.write_manifest()
            self.path.plot()

    # -----------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def probe(self, role):
        """Mean squared error of the noise that a role (None: the teacher) predicts, on both fixed sets of samples."""
        if self._probes is None:
            self._probes = self._make_probes()
        conditioning, epsilon, times, samples = self._probes
        losses = {}
        for name, x0 in samples.items():
            values = []
            for k in range(PROBE_TIMES):
                x_t = self.schedule.add_noise(x0, epsilon, times[k])
                output = self.forward(role, x_t, times[k], conditioning)
                predicted = self.schedule.to_epsilon(output, x_t, times[k])
                values.append((predicted - epsilon).square().mean())
            losses[f"{name}_loss"] = torch.stack(values).mean().item()
        return losses

    @torch.no_grad()
    def _untrained(self):
        """`DegradationPath.untrained`, of a few prompts."""
        batch = self.batches.draw("untrained", 1, samples=PROBE_SAMPLES)
        prompts = torch.arange(PROBE_SAMPLES // PROBE_DRAWS).repeat_interleave(PROBE_DRAWS)
        conditioning = batch.conditioning[prompts]
        student, teacher = self._samples(batch, conditioning).values()
        t = torch.full_like(batch.t, self.student.timestep)
        x_t = self.schedule.add_noise(teacher, batch.epsilon, t)
        with self.autocast():
            x0 = self.student.denoise(x_t, t, conditioning)
        nothing = self.schedule.to_x0(torch.zeros_like(x_t), x_t, t)
        error = (x0 - teacher).square().mean() / (nothing - teacher).square().mean()
        spreads = [variation(samples.unflatten(0, (-1, PROBE_DRAWS))) for samples in (student, teacher)]
        return dict(zip(UNTRAINED, (error.item(), *spreads), strict=True))

    def _make_probes(self):
        batch = self.batches.draw("probe", 1, samples=PROBE_SAMPLES)
        n, (low, high) = PROBE_SAMPLES, self.batches.timesteps
        grid = low + (torch.arange(n * PROBE_TIMES, device=batch.t.device) + 0.5) * (high - low) / (n * PROBE_TIMES)
        times = grid.long().view(n, PROBE_TIMES).T.contiguous()
        return batch.conditioning, batch.epsilon, times, self._samples(batch, batch.conditioning)

    @torch.no_grad()
    def _samples(self, batch, conditioning):
        """x0 of the student and of the teacher, of a batch's noise.

        Raises:
            RunError: they are not finite numbers.
        """
        with self.autocast():
            student = self.student(batch.noise, conditioning)
            with self.roles():
                teacher = self.context.teacher.sample(
                    self.roles.unet, batch.noise, conditioning, batch.empty, PROBE_STEPS
                )
        samples = {"student": student, "teacher": teacher}
        for name, x0 in samples.items():
            if not x0.isfinite().all():
                if self.context.accelerator.mixed_precision == "fp16":
                    remedy = "with --mixed_precision fp16 the UNet may overflow, try bf16"
                else:
                    remedy = "check the weights of the teacher, its text encoder and --student_unet for NaN"
                raise RunError(f"samples of the {name} are not finite numbers: {remedy}.")
        return samples

    # -----------------------------------------------------------------------------------------------------------------

    def save(self, folder):
        self.roles.save(self.role, folder / "target.safetensors")
        super().save(folder)

    def load(self, folder):
        self.roles.load(self.role, folder / "target.safetensors")
        super().load(folder)
        self.path.nodes = [node for node in self.path.nodes if node.step <= self.step]

    def state(self):
        return {"losses": self.losses}

    def load_state(self, state):
        self.losses = state["losses"]
