# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A part in a process of its own, which can fail, hang or run out of memory alone."""

import gc
import importlib
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .records import COMPLETE


@dataclass
class Part:
    """Args: name; function (`str`): "module:name", called with a `Lab` and `arguments`; limit: seconds it may take;
    packages: the optional ones it uses.
    """

    name: str
    function: str
    limit: float
    packages: tuple = ()
    arguments: tuple = ()


class PartProcess:
    """Starts at once and imports what it needs; the part itself waits for `run`.

    Args:
        context: of multiprocessing.
        part (`Part`), rehearse (`bool`), work (`Path`), left_out (`dict`): see `Lab`.
        paths (`list[str]`): to import from, before all others.
    """

    def __init__(self, context, part, rehearse, work, left_out, paths=()):
        self.log = Path(work) / f"{part.name}.log"
        self.pipe, theirs = context.Pipe()
        arguments = (part, rehearse, Path(work), left_out, list(paths), theirs, self.log)
        self.process = context.Process(target=_main, args=arguments)
        self.process.start()
        theirs.close()

    def run(self, limit, receive):
        """Let it run for at most `limit` seconds; `receive` is called with what it reports. Returns how it ended."""
        end = time.monotonic() + limit
        with suppress(OSError):  # it has ended already, and what it said of that can still be read
            self.pipe.send("go")
        try:
            while self.pipe.poll(max(0, end - time.monotonic())):
                message = self.pipe.recv()
                if "status" in message:
                    self.process.join(10)  # what it leaves to others it cleans up at its end
                    return message["status"]
                receive(message)
            return f"cut off after {limit:.0f} s"
        except (EOFError, OSError):  # it has died
            self.process.join(10)
            return f"failed: its process ended with code {self.process.exitcode}"
        finally:
            self.kill()

    def kill(self):
        """End it, and what it has started."""
        self.pipe.close()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended, or has no group of its own yet
            self.process.kill()
        self.process.join()

    def last_lines(self, n=15):
        """Of what it printed."""
        return self.log.read_text(errors="replace").splitlines()[-n:] if self.log.is_file() else []


def _main(part, rehearse, work, left_out, paths, pipe, log):
    os.setsid()
    with open(log, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.path[:0] = paths
    try:
        from .lab import Lab, LeftOut

        module, name = part.function.split(":")
        function = getattr(importlib.import_module(module), name)
        gc.freeze()  # libraries stay: looking through them for garbage takes longer than a rehearsal's training step
        try:
            pipe.recv()
        except EOFError:  # it is not to run
            return
        try:
            function(Lab(rehearse, work, left_out, pipe.send), *part.arguments)
            status = COMPLETE
        except LeftOut as reason:
            status = f"left out: {reason}"
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0][:300]
        status = f"failed: {type(error).__name__}: {first}"
    pipe.send({"status": status})
