#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What only a GPU shows: memory, time, and training in lower precision. Started by on_gpu.sh, which says more."""

import argparse
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from gpu import records
from gpu.environment import ROOT, Environment, Unusable
from gpu.processes import Part, PartProcess


SEED = 0  # of the weights here, and of the presets
BITSANDBYTES, BOTH = ("bitsandbytes",), ("bitsandbytes", "xformers")
PARTS = [  # by worth; compilation is last, as nobody knows how long it takes
    Part("sdxl_24gb", "gpu.training:preset", 110, BITSANDBYTES, ("sdxl_24gb",)),
    Part("sd15_24gb", "gpu.training:preset", 60, BITSANDBYTES, ("sd15_24gb",)),
    Part("sdxl_80gb", "gpu.training:preset", 110, BITSANDBYTES, ("sdxl_80gb",)),
    Part("textbook", "gpu.textbook:textbook", 120, BITSANDBYTES),
    Part("inference", "gpu.inference:inference", 90),
    Part("options", "gpu.options:optimizer_and_attention", 80, BOTH),
    Part("demo", "gpu.demo:demo", 120),
    Part("edm_imagenet64", "gpu.training:preset", 60, (), ("edm_imagenet64",)),
    Part("edm_lsun256", "gpu.training:preset", 60, (), ("edm_lsun256",)),
    Part("compile", "gpu.options:compilation", 600, BITSANDBYTES),
]
UNWRITTEN = "cannot be written to"
MODULES = sorted({part.function.split(":")[0] for part in PARTS})


def parse_args(words=None):
    parser = argparse.ArgumentParser(description=__doc__, prog="on_gpu.sh")
    parser.add_argument("--rehearse", action="store_true", help="Tiny models on the CPU: does everything run?")
    parser.add_argument("--minutes", type=float, default=8.0, help="What is not done by then is cut off.")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="These parts alone.")
    parser.add_argument(
        "--output",
        type=Path,
        help="Folder of the JSON files: by default benchmarks/results, of a rehearsal a new temporary folder.",
    )
    args = parser.parse_args(words)
    if not args.output:
        args.output = Path(tempfile.mkdtemp(prefix="rehearsal-")) if args.rehearse else ROOT / "benchmarks" / "results"
    return args


class Schedule:
    """One call: runs parts one after the other and writes what they report.

    Args:
        environment (`Environment`), rehearse (`bool`), folders (`list[Path]`): of the JSON files.
        minutes (`float`): for everything, since `start` (of `time.monotonic`).
    """

    def __init__(self, environment, rehearse, folders, minutes, start):
        self.environment, self.rehearse, self.folders = environment, rehearse, folders
        self.end = start + 60 * minutes
        # Forked processes cannot use CUDA if anything has touched it before; without CUDA they spare the imports.
        self.context = multiprocessing.get_context("forkserver" if rehearse else "spawn")
        self.context.set_forkserver_preload(MODULES)

    def run(self, parts):
        """`dict`: how each part ended, by name. The next one imports while one is running."""
        statuses, waiting = {}, None
        try:
            for i, part in enumerate(parts):
                if time.monotonic() >= self.end:
                    statuses[part.name] = self.finish(self.record(part), "not run: no time was left")
                    continue
                current, waiting = waiting or self.start(part), None
                if i + 1 < len(parts):
                    waiting = self.start(parts[i + 1])
                statuses[part.name] = self.run_part(part, current)
        finally:
            if waiting:
                waiting.kill()
        return statuses

    def start(self, part):
        environment = self.environment
        paths = environment.paths(part.packages)
        return PartProcess(self.context, part, self.rehearse, environment.work, environment.left_out, paths)

    def run_part(self, part, process):
        record, start = self.record(part), time.monotonic()
        print(f"{part.name} ...", flush=True)

        def receive(results=()):
            record.update(results, seconds=round(time.monotonic() - start, 1))
            self.write(record)

        status = process.run(min(part.limit, self.end - start), receive)
        receive()
        if status.startswith("failed"):
            print("\n".join(f"    {line}" for line in process.last_lines()))
        return self.finish(record, status)

    def record(self, part):
        return {
            "part": part.name,
            "status": "unfinished",
            "rehearsal": self.rehearse,
            "device": "CPU" if self.rehearse else "CUDA",
            "card": self.environment.card,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join(["bash", "benchmarks/on_gpu.sh", *sys.argv[1:]]),
            "seed": SEED,
            "versions": self.environment.versions,
            "left_out": self.environment.left_out,
        }

    def write(self, record):
        """A remark where it is not written, else nothing."""
        remarks = ""
        for folder in self.folders:
            try:
                written = records.write(folder, record)
                remarks += "" if written else f"; {folder} keeps the complete result of before"
            except OSError as error:  # the other folder, or the next part, may still be written
                remarks += f"; {folder} {UNWRITTEN}: {error.strerror}"
        return remarks

    def finish(self, record, status):
        record["status"] = status
        status += self.write(record)
        print(f"    {status} ({record.get('seconds', 0)} s)")
        for line in record.get("summary", []):
            print(f"    {line}")
        return status


def missing_first(parts, folder, card):
    """Parts without a complete result of this card come first, so that a call goes on where one was cut off."""

    def done(part):
        record = records.read(folder, part.name)
        return records.is_complete(record) and record.get("card") == card

    return sorted(parts, key=done)


def main():
    start, args = time.monotonic(), parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that parts are ended, and files removed
    with tempfile.TemporaryDirectory(prefix="on_gpu-") as work:
        try:
            environment = Environment(work, args.rehearse)
        except Unusable as error:
            sys.exit(f"on_gpu.sh: error: {error}")
        print(f"{environment.card}; {environment.versions}")
        for name, why in environment.left_out.items():
            print(f"left out: {name}, {why}")
        parts = [part for part in PARTS if not args.only or part.name in args.only]
        folders = [args.output, *([Path(os.environ["OUT"])] if os.environ.get("OUT") and not args.rehearse else [])]
        schedule = Schedule(environment, args.rehearse, folders, args.minutes, start)
        statuses = schedule.run(missing_first(parts, args.output, environment.card))
    print(f"\nIn {', '.join(map(str, folders))}, after {time.monotonic() - start:.0f} s:")
    for name, status in statuses.items():
        print(f"{records.file_name(name):22} {status}")
    good = (records.COMPLETE, "left out")
    bad = [name for name, status in statuses.items() if not status.startswith(good) or UNWRITTEN in status]
    if bad:
        sys.exit(f"on_gpu.sh: not complete: {', '.join(bad)}")


if __name__ == "__main__":
    main()
