# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Parts for benchmarks/on_gpu.py that end in every way a part can end."""

import os
import signal
import time


def succeeds(lab):
    lab.report("a line", settings={"size": 3}, value=1.5)


def fails(lab):
    lab.report(value=1.5)
    raise RuntimeError("no such thing\nand a second line")


def dies(lab):
    os.kill(os.getpid(), signal.SIGKILL)


def is_too_large(lab):
    from gpu.lab import LeftOut

    raise LeftOut("the card is too small")


def measures_nothing(lab):
    lab.report(value=float("nan"))


def hangs(lab):
    lab.report(value=1.5)
    time.sleep(600)
