# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The same training step as it is usually written, with three full UNets, beside ours."""

import torch

from disback_diffusers.data.bank import PromptBank
from disback_diffusers.diffusion.guidance import guided_output
from disback_diffusers.diffusion.losses import denoising_loss, distribution_matching_gradient, surrogate_loss
from disback_diffusers.diffusion.times import training_times
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.training.batches import BatchSource
from disback_diffusers.training.build import DTYPES
from disback_diffusers.training.optimizers import RoleOptimizer
from disback_diffusers.training.parallel import Replicated

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

    def __init__(self, args, sources, accelerator, update=True):
        family, parallel, dtype = sources.family, Replicated(accelerator), DTYPES[accelerator.mixed_precision]
        self.args, self.family, self.parallel, self.schedule, self.update = (
            args, family, parallel, family.schedule, update
        )  # fmt: skip
        self.teacher = self._denoiser(family.load_network(dtype))
        self.student, self.fake = self._trained(), self._trained()
        rates = {"student": args.optimization.learning_rate, "fake": args.optimization.fake_score_learning_rate}
        self.optimizers = {
            name: RoleOptimizer(getattr(self, name).parameters(), rate, args.optimization, parallel)
            for name, rate in rates.items()
        }
        encode = family.load_encoder(parallel.device, dtype)
        bank = PromptBank(sources.prompts, encode, cache="memory", show_progress=False)
        buckets, times = family.buckets(args.data.resolution), training_times(self.schedule)
        self.batches = BatchSource(bank, buckets, times, args.data, args.system.seed, parallel)

    def _denoiser(self, network):
        where = {"device": self.parallel.device, "autocast": self.parallel.autocast}
        return Denoiser(self.family, network, self.schedule, **where)

    def _trained(self):
        network = self.family.load_network().requires_grad_(True)
        if self.args.system.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        return self._denoiser(network)

    def train_step(self, step):
        """One update of both; returns metrics, as the stages of a run do."""
        count = self.batches.micro_batches
        for index in range(count):
            batch = self.batches.make("textbook", step, index)
            t = torch.full_like(batch.t, self.args.student.conditioning_timestep)
            x0 = self.student.x0(batch.z, t, batch.conditions)
            samples = x0.detach()
            student_loss = surrogate_loss(x0, self.gradient(samples, batch))
            self.optimizers["student"].backward(student_loss / count)

            noise, t = batch.fresh_noise(1)
            output = self.fake.output(self.schedule.add_noise(samples, noise, t), t, batch.score_conditions)
            fake_loss = denoising_loss(output, samples, noise, t, self.schedule)
            self.optimizers["fake"].backward(fake_loss / count)
        for optimizer in self.optimizers.values():
            if self.update:
                optimizer.step()
            else:
                optimizer.optimizer.zero_grad()
        return {"loss_student": student_loss.detach(), "loss_fake": fake_loss.detach()}

    @torch.no_grad()
    def gradient(self, samples, batch):
        """Of Eq. 8, by the fake score and the guided teacher."""
        x_t, settings = self.schedule.add_noise(samples, batch.noise, batch.t), self.args.objective
        given = x_t, batch.t, batch.score_conditions
        fake = self.fake.output(*given)
        target = guided_output(self.teacher.output, *given, batch.empty, settings.guidance_scale)
        x0_fake, x0_target = (self.schedule.to_x0(output, x_t, batch.t) for output in (fake, target))
        alpha, sigma = self.schedule.alpha_sigma(batch.t, samples)
        weighting = settings.gradient_weighting
        return distribution_matching_gradient(samples, x0_fake, x0_target, weighting, alpha=alpha, sigma=sigma)


# ---------------------------------------------------------------------------------------------------------------------


def measure_textbook(lab, preset, seconds, update=True, **changes):
    release()
    args, sources, accelerator, _ = checked(lab, preset, **changes)
    step = TextbookStep(args, sources, accelerator, update)
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
