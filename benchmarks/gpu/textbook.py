# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The same training step as it is usually written, with three full UNets, beside ours."""

import torch

from disback_diffusers.diffusion.losses import denoising_loss, distribution_matching_gradient, guide, surrogate_loss
from disback_diffusers.data.bank import PromptBank
from disback_diffusers.training.batches import BatchSource
from disback_diffusers.training.learner import Learner
from disback_diffusers.training.build import DTYPES

from .lab import OUT_OF_MEMORY, release, unless_out_of_memory
from .training import checked, describe, measure_training, measure_updates, settings_of


# Two batches an update, so that gradients of one are there while the other is worked on, as in a longer accumulation.
SAME = {"gradient_accumulation_steps": 2, "learning_rate": 1e-6, "fake_score_learning_rate": 1e-6}


class TextbookStep:
    """Distribution matching with a frozen teacher in lower precision, and a student and a fake score in float32.

    As in the code of DMD2: the student's gradient is taken without the fake score's graph, and the fake score is then
    trained by a forward of its own with other noise. There is no moving average.

    Args:
        update (`bool`): False leaves the optimizers out: less than it really takes.
    """

    def __init__(self, args, teacher, prompts, accelerator, update=True):
        device, dtype = accelerator.device, DTYPES[accelerator.mixed_precision]
        self.args, self.accelerator, self.schedule, self.update = args, accelerator, teacher.schedule, update
        self.parts = args.gradient_accumulation_steps
        self.teacher = teacher.load_unet(dtype)
        self.student, self.fake = self._trained(teacher), self._trained(teacher)
        rates = {self.student: args.learning_rate, self.fake: args.fake_score_learning_rate}
        self.learners = {unet: Learner(unet.parameters(), rate, args, accelerator) for unet, rate in rates.items()}
        bank = PromptBank(prompts, teacher.load_encoder(device, dtype), cache="memory", show_progress=False)
        last = self.schedule.num_train_timesteps - 1
        self.batches = BatchSource(
            bank,
            teacher.buckets(args.resolution),
            (round(0.02 * last), round(0.98 * last)),
            args.train_batch_size,
            args.proportion_empty_prompts,
            args.seed,
            device=device,
        )

    def _trained(self, teacher):
        unet = teacher.load_unet().requires_grad_(True)
        if self.args.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        return unet

    def forward(self, unet, x_t, t, conditioning):
        with self.accelerator.autocast():
            return unet(x_t.to(unet.dtype), t, **conditioning.kwargs()).sample

    def train_step(self, step):
        """One update of both; returns metrics, as the stages of a run do."""
        for part in range(self.parts):
            batch = self.batches.draw("textbook", step, part, self.parts)
            t = torch.full_like(batch.t, self.args.conditioning_timestep)
            output = self.forward(self.student, batch.noise, t, batch.conditioning)
            x0 = self.schedule.to_x0(output, batch.noise, t)
            samples = x0.detach()
            student_loss = surrogate_loss(x0, self.gradient(samples, batch))
            self.learners[self.student].backward(student_loss / self.parts)

            epsilon, t = self.batches.fresh_diffusion("textbook", step, part, 1, samples.shape)
            x_t = self.schedule.add_noise(samples, epsilon, t)
            output = self.forward(self.fake, x_t, t, batch.score_conditioning)
            fake_loss = denoising_loss(output, samples, epsilon, t, self.schedule)
            self.learners[self.fake].backward(fake_loss / self.parts)
        for learner in self.learners.values():
            if self.update:
                learner.step()
            else:
                learner.optimizer.zero_grad()
        return {"loss_student": student_loss.detach(), "loss_fake": fake_loss.detach()}

    @torch.no_grad()
    def gradient(self, samples, batch):
        """Of Eq. 8, by the fake score and the guided teacher."""
        x_t = self.schedule.add_noise(samples, batch.epsilon, batch.t)
        fake = self.forward(self.fake, x_t, batch.t, batch.score_conditioning)
        both = batch.empty.cat(batch.score_conditioning)
        target = self.forward(self.teacher, torch.cat([x_t, x_t]), torch.cat([batch.t, batch.t]), both)
        target = classifier_free_guidance(*target.chunk(2), self.args.guidance_scale)
        x0_fake, x0_target = (self.schedule.to_x0(output, x_t, batch.t) for output in (fake, target))
        alpha, sigma = self.schedule.alpha_sigma(batch.t, samples)
        weighting = self.args.gradient_weighting
        return distribution_matching_gradient(samples, x0_fake, x0_target, weighting, alpha=alpha, sigma=sigma)


# ---------------------------------------------------------------------------------------------------------------------


def measure_textbook(lab, preset, seconds, update=True, **changes):
    release()
    args, teacher, prompts, accelerator, _ = checked(lab, preset, **changes)
    step = TextbookStep(args, teacher, prompts, accelerator, update)
    return measure_updates(lab, step, step.batches, seconds)


def first_that_fits(lab, preset, seconds, **changes):
    """What the textbook's step takes, by optimizer; all but the last one are out of memory.

    On a card that is too small for AdamW, 8-bit AdamW is tried, and at last no optimizer at all.
    """
    tries = {"AdamW": {"use_8bit_adam": False}, "8-bit AdamW": {"use_8bit_adam": True}, "no optimizer": {}}
    if "bitsandbytes" in lab.left_out:
        del tries["8-bit AdamW"]
    found = {}
    for name, optimizer in tries.items():
        update, settings = name != "no optimizer", {**changes, **optimizer}
        found[name] = unless_out_of_memory(lambda u=update, s=settings: measure_textbook(lab, preset, seconds, u, **s))
        if found[name] != OUT_OF_MEMORY:
            break
    return found


def compare(lab, preset, seconds, **changes):
    """The textbook's step and ours with a full and with a LoRA student, at the same settings."""
    family, changes = preset.split("_")[0], {**SAME, **changes}
    found = first_that_fits(lab, preset, seconds, **changes)
    *too_large, optimizer = found
    theirs, results = found[optimizer], {"textbook": found}
    note = f"; with {' and '.join(too_large)} it is out of memory" if too_large else ""
    lab.report(f"{family}, three UNets, {optimizer}: {describe(theirs)}{note}", **{family: results})
    for student in ("full", "lora"):
        run = checked(lab, preset, student=student, use_8bit_adam=optimizer == "8-bit AdamW", **changes)
        ours = unless_out_of_memory(lambda run=run: measure_training(lab, run, seconds))
        line, results[student] = f"{family}, ours, {student} student: {describe(ours)}", ours
        if OUT_OF_MEMORY not in (ours, theirs):
            memory, time = (round(ours[name] / theirs[name], 4) for name in ("peak_gib", "seconds_an_update"))
            results[student] |= {"of_the_textbooks_memory": memory, "of_the_textbooks_time": time}
            line += f"; {memory:.2f} of the memory, {time:.2f} of the time"
        lab.report(line, {f"{family}, {student}": settings_of(run[0])}, **{family: results})


def textbook(lab):
    """A part: SDXL at a batch of one, then SD 1.5 at its preset's batch; a rehearsal is content with the first."""
    compare(lab, "sdxl_24gb", 6, train_batch_size=1)
    if not lab.rehearse:
        compare(lab, "sd15_24gb", 4)
