# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What every part measures with: time, memory, and a place for results. The same calls work on a CPU."""

import gc
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch


GIB = 2**30


OUT_OF_MEMORY = "out of memory"


class LeftOut(Exception):
    """This part cannot run here, which is no failure: the card is too small."""


def unless_out_of_memory(work):
    """What `work()` returns, or OUT_OF_MEMORY."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return OUT_OF_MEMORY


@dataclass
class Lab:
    """What a part is given.

    Args:
        rehearse (`bool`): tiny models on the CPU.
        work (`Path`): a folder for temporary files.
        left_out (`dict`): optional packages that cannot be used here, and why.
        send (`Callable`): passes a dict on to who writes the results.
    """

    rehearse: bool
    work: Path
    left_out: dict
    send: Callable
    settings: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    summary: list = field(default_factory=list)

    @property
    def device(self):
        return "cpu" if self.rehearse else "cuda"

    def times(self, n):
        """How often to do something for a median: n times, in a rehearsal once."""
        return 1 if self.rehearse else n

    def report(self, line="", settings=None, **results):
        """Keep these results, and a line of text about them; all of it is written to the file at once."""
        check_finite(results)
        self.results.update(results)
        self.settings.update(settings or {})
        if line:
            self.summary.append(line)
        self.send({"settings": self.settings, "results": self.results, "summary": self.summary})


def check_finite(value, name="result"):
    """Raise a ValueError for the first number that is infinite or NaN."""
    if isinstance(value, dict):
        for key, part in value.items():
            check_finite(part, f"{name}/{key}")
    elif isinstance(value, list):
        for part in value:
            check_finite(part, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}")


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def on_gpu():
    return torch.cuda.is_available()


def release():
    """Free what nothing refers to any more, and start to measure the peak of memory anew."""
    gc.collect()
    if on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory():
    """GiB by name; on a CPU all of them are the largest size that the process has had."""
    if not on_gpu():
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
        return dict.fromkeys(("now_gib", "peak_gib", "peak_reserved_gib", "card_used_gib"), round(size, 3))
    free, total = torch.cuda.mem_get_info()
    sizes = {
        "now_gib": torch.cuda.memory_allocated(),
        "peak_gib": torch.cuda.max_memory_allocated(),
        "peak_reserved_gib": torch.cuda.max_memory_reserved(),
        "card_used_gib": total - free,  # now, with CUDA itself and with what PyTorch keeps for later
    }
    return {name: round(size / GIB, 3) for name, size in sizes.items()}


def card_gib():
    """Size of the GPU's memory; None on a CPU."""
    return torch.cuda.get_device_properties(0).total_memory / GIB if on_gpu() else None


# ---------------------------------------------------------------------------------------------------------------------
# Time


def synchronize():
    if on_gpu():
        torch.cuda.synchronize()


def seconds_of(work):
    """Seconds that `work()` takes, until the device is done with it."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def mark():
    """A moment on the device's own time line, without waiting for it."""
    if not on_gpu():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(first, second):
    """Between two marks, once the device has passed both."""
    return first.elapsed_time(second) / 1000 if on_gpu() else second - first
