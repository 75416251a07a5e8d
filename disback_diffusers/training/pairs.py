# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Pairs of noise and the teacher's sample of it, generated once and kept on disk (Yin et al., 2024a, DMD)."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from ..errors import RunError, UsageError, one_line
from ..files import atomic_write
from ..models.batch import Batch, PairBatch, generator
from ..models.conditions import to_device
from ..models.sizes import Bucket
from .batches import BatchSource
from .networks import Networks
from .parallel import Replicated


MANIFEST = "pairs.json"
CHUNK = 16  # pairs of a file
SAMPLER = "DDIMScheduler"  # deterministic, so that a sample belongs to its noise


class TeacherPairs:
    """Pairs of noise z, a prompt and the sample that the teacher's deterministic sampler makes of them.

    Only the samples are on disk: z and the prompt of a pair follow from the seed and its number. A folder with pairs
    of the same teacher, prompts, sizes, guidance, steps and seed is reused, and extended where more are wanted.

    Args:
        folder (`Path`): for the files.
        networks (`Networks`), batches (`BatchSource`), parallel (`Replicated`).
        count (`int`): number of pairs. steps (`int`): of the sampler. guidance_scale (`float`): of the teacher.
    """

    def __init__(
        self,
        folder: Path,
        networks: Networks,
        batches: BatchSource,
        parallel: Replicated,
        count: int,
        steps: int,
        guidance_scale: float,
    ):
        self.folder, self.networks, self.batches, self.parallel = Path(folder), networks, batches, parallel
        self.steps, self.guidance_scale = steps, guidance_scale
        together = CHUNK * len(batches.buckets)  # so that every size has as many
        self.count = -(-count // together) * together
        self._order = torch.randperm(len(batches.bank), generator=generator(batches.seed, "pairs", "order")).tolist()
        self._files = {}

    def generate(self) -> None:
        """Generate those that are not there yet; each process its share.

        Raises:
            UsageError: the folder has other pairs.
            RunError: the teacher's samples are not finite numbers, or a file cannot be written.
        """
        self._check_manifest()
        chunks = range(self.count // CHUNK)
        missing = [chunk for chunk in chunks if not self._file(chunk).is_file()]
        self.parallel.wait()  # all have looked before one of them writes
        own = missing[self.parallel.rank :: self.parallel.world]
        for chunk in tqdm(own, desc="teacher pairs", disable=not self.parallel.is_main, dynamic_ncols=True):
            self._write(chunk)
        self.parallel.wait()

    def draw(self, batch: Batch, bucket: Bucket) -> PairBatch:
        """As many pairs of this size as a batch has samples, at random by the batch's key."""
        chunks = range(self.batches.buckets.index(bucket), self.count // CHUNK, len(self.batches.buckets))
        picked = torch.randint(len(chunks) * CHUNK, (len(batch.z),), generator=batch.random("pairs")).tolist()
        numbers = [chunks[k // CHUNK] * CHUNK + k % CHUNK for k in picked]
        z, conditions = self._inputs(numbers, bucket)
        rows = [self._rows(number // CHUNK)[number % CHUNK : number % CHUNK + 1] for number in numbers]
        return PairBatch(z, conditions, to_device(torch.cat(rows).float(), self.parallel.device))

    # -----------------------------------------------------------------------------------------------------------------

    def _file(self, chunk):
        return self.folder / f"{chunk:06d}.safetensors"

    def _rows(self, chunk):
        if chunk not in self._files:
            try:
                self._files[chunk] = safe_open(self._file(chunk), "pt").get_slice("x0")  # memory-mapped
            except Exception as error:
                raise RunError(
                    f"{self._file(chunk)} is damaged ({one_line(error)}): delete it, it will be made again."
                ) from None
        return self._files[chunk]

    def _inputs(self, numbers, bucket):
        """z and conditions of the pairs with these numbers."""
        seed, device = self.batches.seed, self.parallel.device
        z = [torch.randn(1, *bucket.shape, generator=generator(seed, "pair", number)) for number in numbers]
        prompts = [self._order[number % len(self._order)] for number in numbers]
        return to_device(torch.cat(z), device), self.batches.conditions(prompts, bucket)

    @torch.no_grad()
    def _write(self, chunk):
        family, bucket = self.networks.family, self.batches.buckets[chunk % len(self.batches.buckets)]
        scheduler = SAMPLER if family.schedule.num_train_timesteps else None
        parts, size = [], min(CHUNK, self.batches.batch_size)
        numbers = range(chunk * CHUNK, (chunk + 1) * CHUNK)
        for start in range(0, CHUNK, size):
            z, conditions = self._inputs(numbers[start : start + size], bucket)
            given = z, conditions, self.batches.empty(len(z), bucket), self.steps, self.guidance_scale, scheduler
            parts.append(family.sample(self.networks.teacher, *given).cpu())
        x0 = torch.cat(parts)
        if not x0.isfinite().all():
            raise RunError("samples of the teacher are not finite numbers: with --mixed_precision fp16 try bf16.")
        atomic_write(self._file(chunk), lambda temporary: save_file({"x0": x0.half()}, temporary))

    def _check_manifest(self):
        prompts = json.dumps(self.batches.bank.prompts).encode()
        made = {
            "base": self.networks.roles.fingerprint,
            "prompts": hashlib.sha256(prompts).hexdigest(),
            "sizes": [list(bucket.shape) for bucket in self.batches.buckets],
            "guidance_scale": self.guidance_scale,
            "steps": self.steps,
            "seed": self.batches.seed,
            "unconditional": self.batches.unconditional,
        }
        file = self.folder / MANIFEST
        try:
            before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} is damaged ({one_line(error)}): delete that folder.") from None
        if before is not None and before != made:
            name = next(name for name in made if not isinstance(before, dict) or before.get(name) != made[name])
            raise UsageError(
                f"{self.folder} has pairs of another run: '{name}' is not the same. Choose another folder."
            )
        self.parallel.wait()
        if before is None and self.parallel.is_main:
            atomic_write(file, lambda temporary: temporary.write_text(json.dumps(made, indent=2) + "\n"))
