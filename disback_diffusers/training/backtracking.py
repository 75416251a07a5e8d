# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Stage 2, distribution backtracking (Alg. 2): the student follows the path back, node by node, to the teacher."""

import logging
from functools import cached_property

import torch
from safetensors.torch import load_file, save_file

from ..diffusion.losses import denoising_loss, distribution_matching_gradient, guide, surrogate_loss
from ..errors import UsageError
from ..files import atomic_write
from ..models.lcm_lora import later_timesteps
from .stage import Stage
from .switching import NodeWalk, targets


logger = logging.getLogger(__name__)


class DistributionBacktracking(Stage):
    """Trains the student by Eq. 8 and the role "fake" by Eq. 5, against the targets N-1, ..., 0; 0 is the teacher.

    Args:
        path (`DegradationPath`, *optional*): None is Diff-Instruct, with the teacher as the only target.
    """

    name = "backtracking"
    fake, target = "fake", "target"

    def __init__(self, context, path):
        args = context.args
        super().__init__(context, args.max_train_steps)
        self.path = path
        first, config = args.conditioning_timestep, context.teacher.scheduler_config
        self.later = later_timesteps(config, first) if args.proportion_later_steps else []
        self.adaptive = path is not None and args.node_switching == "adaptive"
        walk = not self.adaptive or path.verdict()[0]
        self.walk = NodeWalk(targets(len(path) if path else 1, walk), args.steps_per_node)
        parameters, rate = self.student.parameters(), args.learning_rate
        self.student_learner = self.make_learner("student", parameters, rate, self.total_steps)
        parameters, rate = self.roles.parameters(self.fake), args.fake_score_learning_rate
        fake_steps = self.total_steps * args.fake_score_updates_per_step
        self.fake_learner = self.make_learner("fake", parameters, rate, fake_steps, args.fake_score_lr_scheduler)

    @property
    def node(self):
        return self.walk.node

    @property
    def walks(self):
        """Whether there are other targets than the teacher."""
        return len(self.walk.numbers) > 1

    def start(self):
        if self.context.is_main and self.adaptive:
            walked, why = self.path.verdict()
            logger.info(f"{'The path is walked' if walked else 'No path is needed'}, as {why} (--node_switching).")
        self._load_target()

    def _load_target(self):
        if self.node > 0:
            self.path.load_into(self.roles, self.node, role=self.target)

    # -----------------------------------------------------------------------------------------------------------------

    def train_step(self, step):
        sums, drawn = {}, []
        for part in range(self.parts):
            metrics, samples, batch = self._student_and_fake_losses(step, part)
            drawn.append((samples, batch))
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value / self.parts
        sums["grad_norm_student"] = self.student_learner.step()
        sums["grad_norm_fake"] = self.fake_learner.step()
        for repeat in range(1, self.args.fake_score_updates_per_step):
            loss, norm = self._further_fake_update(drawn, step, repeat)
            sums["loss_fake"] += (loss - sums["loss_fake"]) / (repeat + 1)  # mean of the updates
            sums["grad_norm_fake"] = torch.maximum(sums["grad_norm_fake"], norm)
        self.student.update_ema()
        return sums

    def _student_and_fake_losses(self, step, part):
        """Backward of Eq. 8 and of Eq. 5 with one forward of the fake score for both."""
        batch = self.batches.draw(self.name, step, part, self.parts)
        with self.autocast():
            x0 = self._student_samples(batch, step, part)
        samples = x0.detach()
        x_t = self.schedule.add_noise(samples, batch.epsilon, batch.t)
        fake_output = self.forward(self.fake, x_t, batch.t, batch.score_conditioning)
        fake_loss = denoising_loss(fake_output, samples, batch.epsilon, batch.t, self.schedule)
        self.fake_learner.backward(fake_loss / self.parts)  # at once, so that its graph is gone before the target runs

        x0_fake = self.guided_x0(self.fake, x_t, batch, self.args.fake_guidance_scale, fake_output.detach())
        x0_target = self.guided_x0(self.target if self.node else None, x_t, batch, self.args.guidance_scale)
        alpha, sigma = self.schedule.alpha_sigma(batch.t, samples)
        gradient = distribution_matching_gradient(
            samples, x0_fake, x0_target, self.args.gradient_weighting, alpha=alpha, sigma=sigma
        )
        student_loss = surrogate_loss(x0, gradient)
        self.student_learner.backward(student_loss / self.parts)
        gap = (x0_fake - x0_target).abs().mean()
        return {"loss_student": student_loss.detach(), "loss_fake": fake_loss.detach(), "gap": gap}, samples, batch

    def _student_samples(self, batch, step, part):
        """x0 of the student, in one step; for a share of an LCM-LoRA's in a later step, from its own noised sample."""
        if not self.later:
            return self.student(batch.noise, batch.conditioning)
        x_t, t = batch.noise.clone(), torch.full_like(batch.t, self.student.timestep)
        drawn = self.batches.later_steps(
            self.name, step, part, x_t.shape, self.args.proportion_later_steps, self.later
        )
        rows, epsilon, times = drawn
        if len(rows):
            with torch.no_grad():
                first = self.student(x_t[rows], batch.conditioning[rows])
            x_t[rows], t[rows] = self.schedule.add_noise(first, epsilon, times), times
        return self.student.denoise(x_t, t, batch.conditioning)

    def _further_fake_update(self, drawn, step, repeat):
        """Eq. 5 on the step's samples with fresh noise; the loss and the norm of its gradient."""
        total = 0.0
        for part, (samples, batch) in enumerate(drawn):
            epsilon, t = self.batches.fresh_diffusion(self.name, step, part, repeat, samples.shape)
            output = self.forward(self.fake, self.schedule.add_noise(samples, epsilon, t), t, batch.score_conditioning)
            loss = denoising_loss(output, samples, epsilon, t, self.schedule) / self.parts
            self.fake_learner.backward(loss)
            total = total + loss.detach()
        return total, self.fake_learner.step()

    @torch.no_grad()
    def guided_x0(self, role, x_t, batch, scale, conditional=None):
        """x0 prediction of a role (None: the teacher) under classifier-free guidance, float32, like x_t.

        Guidance acts up to `--guidance_max_timestep` (benchmarks/results/guidance.json). Where the prompt was
        emptied it has no effect: both branches are the same.
        """
        guided = torch.where(batch.t <= self.args.guidance_max_timestep, scale, 1.0)
        conditioning = batch.score_conditioning
        if scale == 1:
            output = self.forward(role, x_t, batch.t, conditioning) if conditional is None else conditional
        elif conditional is None:
            both = batch.empty.cat(conditioning)
            output = self.forward(role, torch.cat([x_t, x_t]), torch.cat([batch.t, batch.t]), both)
            output = guide(*output.chunk(2), guided)
        else:
            output = guide(self.forward(role, x_t, batch.t, batch.empty), conditional, guided)
        return self.schedule.to_x0(output, x_t, batch.t)

    # -----------------------------------------------------------------------------------------------------------------

    def after_step(self, step, metrics):
        if self.walk.advance():
            self._load_target()

    def save(self, folder):
        self.roles.save(self.fake, folder / "fake.safetensors")
        weights = {"student": self.student.state_dict()}
        weights["ema"] = {str(i): value for i, value in enumerate(self.student.ema.shadow_params)}
        for name, tensors in weights.items():
            tensors = {key: value.contiguous() for key, value in tensors.items()}
            atomic_write(
                folder / f"{name}.safetensors", lambda temporary, tensors=tensors: save_file(tensors, temporary)
            )
        super().save(folder)

    def load(self, folder):
        self.roles.load(self.fake, folder / "fake.safetensors")
        self.student.load_state_dict(load_file(folder / "student.safetensors"), folder / "student.safetensors")
        shadow = load_file(folder / "ema.safetensors")
        for i, value in enumerate(self.student.ema.shadow_params):
            value.copy_(shadow[str(i)])
        super().load(folder)
        self._load_target()

    @cached_property
    def _origin(self):
        path = [node.sha256 for node in self.path.nodes] if self.path else None
        return {**super()._origin, "path": path}

    def _check_origin(self, folder, state):
        super()._check_origin(folder, state)
        if state["path"] != self._origin["path"]:
            raise UsageError(f"{folder} was trained along another path: {self.path.folder} was recorded anew since.")

    def state(self):
        ema_step = self.student.ema.optimization_step
        return {"node": self.node, "switch": {"node_step": self.walk.node_step}, "ema_step": ema_step}

    def load_state(self, state):
        self.walk.position = self.walk.numbers.index(state["node"])
        self.walk.node_step = state["switch"]["node_step"]
        self.student.ema.optimization_step = state["ema_step"]
