# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Runs of a training script: in processes of their own, ended by a signal at an exact moment, and compared.

    run = start([*words, "--output_dir", "out"], Trap("open", r"log.jsonl a", 3))     # SIGKILL before the third line
    assert run.wait() == -signal.SIGKILL

The processes are forked from one that has imported everything, which spares seconds of each.
"""

import json
import multiprocessing
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch
from safetensors.torch import load_file


ROOT = Path(__file__).parents[1]
SCRIPTS, EXAMPLES = ROOT / "train_scripts", ROOT / "examples"
SCRIPT = SCRIPTS / "train_disback_sd.py"
LCM_SCRIPT = SCRIPTS / "train_disback_lcm_lora.py"
SDXL_SCRIPT = SCRIPTS / "train_disback_sdxl.py"
# Stage 1: nodes after 2, 3 and 6 updates; stage 2: two updates at node 2, two at node 1, four at the teacher.
QUICK = ("--degradation_steps 6 --degradation_nodes 3 --steps_per_node 2 --max_train_steps 8 "
         "--checkpointing_steps 2 --lora_rank 2 --lora_target_modules to_q to_v conv1 --train_batch_size 2 "
         "--learning_rate 1e-3 --fake_score_learning_rate 1e-3 --degradation_learning_rate 1e-3 --ema_decay 0.5 "
         "--validation_steps 0 --validation_prompts cat --resolution 16").split()  # fmt: skip
PROMPTS = "a red cat\na blue dog\na photo of the circle\nthe square\non a red square\n"


@dataclass
class Trap:
    """Sends its own process a signal at the `nth` audit event of this kind whose path matches.

    Events: "open" (path and mode, such as "log.jsonl a"), "os.rename" (the new path), "shutil.rmtree" (the path). What
    the event announces has not happened yet.
    """

    event: str
    pattern: str
    nth: int = 1
    signal: int = signal.SIGKILL
    seen: int = 0

    def __call__(self, event, values):
        if event != self.event:
            return
        path = str(values[1]) if event == "os.rename" else str(values[0])
        if re.search(self.pattern, f"{path} {values[1]}" if event == "open" else path):
            self.seen += 1
            if self.seen == self.nth:
                self.act()

    def act(self):
        signal.raise_signal(self.signal)  # in this thread, at once; os.kill may hit another, and act anywhere later


@dataclass
class FileLimit(Trap):
    """From that moment on no file can grow beyond `size` bytes, as on a disk that is nearly full."""

    size: int = 0

    def act(self):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@dataclass
class Run:
    script: Path
    process: multiprocessing.Process
    pipe: Connection = field(repr=False)
    output: str = field(default="", repr=False)  # what it printed on stdout and stderr

    def wait(self, timeout=600):
        """The exit code; minus the number of the signal that ended the process."""
        printed = b""
        while wait([self.pipe], timeout) and (part := os.read(self.pipe.fileno(), 2**16)):
            printed += part
        self.output = printed.decode(errors="replace")
        self.process.join(1)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(self.output)
        return self.process.exitcode

    @property
    def messages(self):
        """The lines in which the script itself says why it ended."""
        return [line for line in self.output.splitlines() if line.startswith(f"{self.script.name}: ")]


def forkserver():
    """A `multiprocessing` context whose processes start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([
        "disback_diffusers.training.script", "disback_diffusers.evaluation.evaluate", "datasets", "matplotlib.figure",
    ])  # fmt: skip
    return context


def start(words, *traps, script=SCRIPT, **environment):
    """Start the script with these words in a process of its own."""
    context = forkserver()
    reader, writer = context.Pipe(duplex=False)  # and no file: a file could not be written to on a full disk
    process = context.Process(target=_main, args=(script, list(words), writer, os.getcwd(), traps, environment))
    process.start()
    writer.close()
    return Run(script, process, reader)


def _main(script, words, pipe, folder, traps, environment):
    for stream in (1, 2):
        os.dup2(pipe.fileno(), stream)
    os.chdir(folder)
    os.environ.update({"ACCELERATE_USE_CPU": "true", **environment})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    sys.argv = [str(script), *words]
    sys.path.insert(0, str(script.parent))  # as python itself does for a script
    for trap in traps:
        sys.addaudithook(trap)
    runpy.run_path(str(script), run_name="__main__")


def start_pair(words, *traps, script=SCRIPT):
    """The same on two processes that train together on the CPU; the traps are for the first."""
    first, second = pair_environments()
    return start(words, *traps, script=script, **first), start(words, script=script, **second)


def launch(words, *options, script=SCRIPT):
    """`accelerate launch` as users call it."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *options, str(script), *words]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr


TWO_PROCESSES = ("--num_processes", "2", "--multi_gpu", "--main_process_port", "0")


def pair_environments():
    """The environment variables that a launcher sets for each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]


# ---------------------------------------------------------------------------------------------------------------------


def result(folder):
    """All that a run has computed, by name: tensors, and the numbers of its log, manifest and last state."""
    folder = Path(folder)
    found = {"log": [without(line, "seconds_per_step") for line in log(folder)]}
    last = max(folder.glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.split("-")[1]))
    for file in [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors"), *last.glob("*.pt")]:
        if file.parent.parent == folder and "checkpoint" in file.parent.name and file.parent != last:
            continue
        tensors = torch.load(file, weights_only=True) if file.suffix == ".pt" else load_file(file)
        found.update(_flat(tensors, str(file.relative_to(folder))))
    found["state"] = without(json.loads((last / "state.json").read_text()), "path")  # sha256: see below
    if (folder / "degradation").is_dir():
        manifest = json.loads((folder / "degradation" / "manifest.json").read_text())
        manifest["nodes"] = [without(node, "sha256") for node in manifest["nodes"]]  # metadata have no fixed order
        found["manifest"] = manifest
    return found


def log(folder):
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def without(values, key):
    return {name: value for name, value in values.items() if name != key}


def _flat(value, name):
    if isinstance(value, dict):
        parts = {f"{name}/{key}": part for key, part in value.items()}
    elif isinstance(value, (list, tuple)):
        parts = {f"{name}/{i}": part for i, part in enumerate(value)}
    else:
        return {name: value}
    return {key: leaf for path, part in parts.items() for key, leaf in _flat(part, path).items()}


def differences(ours, theirs):
    """Names of what is not the same in two results, bit by bit."""

    def same(a, b):
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b

    names = sorted({*ours, *theirs})
    return [name for name in names if name not in ours or name not in theirs or not same(ours[name], theirs[name])]


# ---------------------------------------------------------------------------------------------------------------------


def quick_words(*more):
    """The command line of a quick run in a folder with ./teacher and prompts.txt; it writes to ./out."""
    return [
        "--pretrained_teacher_model",
        "./teacher",
        "--prompt_dataset",
        "prompts.txt",
        "--output_dir",
        "out",
        *QUICK,
        *more,
    ]


def check_message(printed, *expected):
    """Exactly one line of ours, the last one, and no traceback."""
    last = printed.strip().splitlines()[-1]
    assert last.startswith(f"{SCRIPT.name}: error: ") and printed.count("error: ") == last.count("error: "), printed
    assert "Traceback" not in printed
    assert [part for part in expected if part not in last] == [], last
    assert len(last) < 600
