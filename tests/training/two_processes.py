# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What each of two processes finds, for test_two_processes.py: `two_processes.py FOLDER` writes FOLDER/<rank>.pt."""

import json
import math
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator

from disback_diffusers.errors import RunError
from disback_diffusers.training import parallel as parallel_module
from disback_diffusers.training.parallel import Replicated
from disback_diffusers.training.run_folder import RunFolder
from disback_diffusers.training.run_settings import RunArguments
from disback_diffusers.training.settings import OptimizationArguments
from disback_diffusers.training.stage import Stage
from disback_diffusers.training.trainer import Trainer


def averaged(parallel):
    """Gradients of seven parameters in buckets of at least four elements, averaged.

    Both processes have used the first and the last two, the second process alone the second and the third, neither
    the fourth; the fifth has a gradient in the second process alone, and it is zero.
    """
    parallel_module.BUCKET = 4
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2,), (1,), (3, 1), (1,), (1,), (5,), (2,))]
    for number, parameter in enumerate(parameters):
        if number == 4 and parallel.rank == 1:
            parameter.grad = torch.zeros(1)
        elif number != 3 and number != 4 and (parallel.rank == 1 or number not in (1, 2)):
            parameter.grad = torch.full_like(parameter, 10.0 * number + 2 * parallel.rank)
    parallel.average_gradients(parameters)
    return [parameter.grad for parameter in parameters]


def mapped(parallel):
    """{(n, size): rows of all items, and the calls of this process}."""
    found = {}
    for n in range(1, 6):
        for size in (1, 2, 9):
            calls = []

            def function(items, calls=calls):
                calls.append(items)
                return torch.tensor([[i, -i] for i in items])

            found[n, size] = parallel.map(function, n, size), calls
    return found


class Nothing(Stage):
    """Trains nothing; in the second process something happens at step 2."""

    name, node = "degradation", 0

    def __init__(self, parallel, happens):
        networks = SimpleNamespace(student=None, family=SimpleNamespace(schedule=None))
        super().__init__(networks, None, parallel, OptimizationArguments(), total_steps=8)
        self.happens, self.recorded = happens, []

    def train_step(self, step):
        value = torch.tensor(float(step + 10 * self.parallel.rank))
        if step == 2 and self.parallel.rank == 1:
            if self.happens == "signal":
                signal.raise_signal(signal.SIGTERM)
            else:
                value = value * math.nan
        return {"loss": value}

    def record(self, step, metrics):
        self.recorded.append((step, metrics["loss"]))

    def save(self, folder):
        (folder / "state.json").write_text(json.dumps({"step": self.step}))


def trained(accelerator, parallel, folder, happens):
    """How a run in which only every fourth step is logged ends: its error, its last step, what was recorded."""
    folder, settings = RunFolder(folder, parallel.is_main), RunArguments(logging_steps=4, checkpointing_steps=1000)
    folder.open({})
    parallel.wait()
    stage = Nothing(parallel, happens)
    try:
        Trainer(accelerator, parallel, folder, settings).run(stage)
        error = None
    except RunError as raised:  # Interrupted is one
        error = f"{type(raised).__name__}: {raised}"
    parallel.wait()
    return {"error": error, "step": stage.step, "recorded": stage.recorded}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    accelerator = Accelerator(cpu=True)
    parallel = Replicated(accelerator)
    results = {
        "rank": (parallel.rank, parallel.world, parallel.is_main),
        "averaged": averaged(parallel),
        "mean": parallel.mean(torch.tensor([1.0, 4.0 * parallel.rank])),
        "mapped": mapped(parallel),
        "signal": trained(accelerator, parallel, where / "signal", "signal"),
        "nan": trained(accelerator, parallel, where / "nan", "nan"),
    }
    torch.save(results, where / f"{parallel.rank}.pt")
    accelerator.end_training()
