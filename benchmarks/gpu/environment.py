# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the parts import: this checkout, and wheels for what is not installed, all of it from a temporary folder.

Nothing is installed into anybody's environment and nothing is written into the checkout. Only the standard library is
used here, as nothing else may be there yet.
"""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path


ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "benchmarks" / "wheels"
OPTIONAL = ("bitsandbytes", "xformers")
SHOWN = ("torch", "diffusers", "transformers", "peft", "accelerate", "huggingface_hub", *OPTIONAL)
NO_WHEEL = "not installed, and benchmarks/wheels has no wheel of it"


class Unusable(Exception):
    """Nothing can be measured here; the message says what to do."""


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(root=ROOT):
    """The requirements in setup.py (`list[str]`)."""
    for node in ast.parse((root / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "REQUIREMENTS":
            return ast.literal_eval(node.value)
    raise Unusable("setup.py has no REQUIREMENTS.")


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0]


def version_of(name, paths):
    """Version of an installed package, or None."""
    return next((found.version for found in metadata.distributions(name=name, path=[*map(str, paths)])), None)


def last_line(text):
    return (text.strip().splitlines() or ["no message"])[-1][:300]


def output_of(process, seconds=60):
    """What it prints, and its errors; it is ended if it takes longer."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "", f"not done after {seconds} s"


class Environment:
    """Sets up this process and those it starts.

    Attributes:
        left_out (`dict`): optional packages that cannot be used, and why.
        card (`str`): the GPU in words. versions (`dict`): of packages and of CUDA.

    Args:
        work (`Path`): a temporary folder.
        rehearse (`bool`): on the CPU, with what is installed.

    Raises:
        Unusable: a required package is missing, or there is no GPU.
    """

    def __init__(self, work, rehearse):
        self.work, self.left_out, self._folders = Path(work), {}, {}
        site = self._link_checkout()
        if not rehearse:
            self._install_wheels(site)
        missing = [name for name in map(name_of, requirements()) if not version_of(name, [site, *sys.path])]
        if missing:
            raise Unusable(
                f"{', '.join(missing)} not installed: run `bash benchmarks/on_gpu_wheels.sh` where there is a "
                "network, and copy benchmarks/wheels here."
            )
        self._set_variables(site, rehearse)
        if rehearse:
            self.card, self.versions = f"CPU of {os.cpu_count()} cores", {}
            self.left_out = dict.fromkeys(OPTIONAL, "not used in a rehearsal")
        else:
            self._probe()
        for name in SHOWN:
            found = version_of(name, [*self.paths(OPTIONAL), *sys.path])
            self.versions.setdefault(name, found or "not installed")
        self.versions["python"] = sys.version.split()[0]

    def paths(self, packages):
        """Folders to import these optional packages from, as far as they can be used and are not installed."""
        return [str(self._folders[name]) for name in packages if name in self._folders and name not in self.left_out]

    def _link_checkout(self):
        """The package as setup.py lays it out: two folders at the top of the checkout belong inside it."""
        site = self.work / "site"
        package = site / "disback_diffusers"
        package.mkdir(parents=True)
        for part in [*(ROOT / "disback_diffusers").iterdir(), ROOT / "pipelines", ROOT / "model_cards"]:
            (package / part.name).symlink_to(part)
        return site

    def _install_wheels(self, site):
        """What is not installed, from wheels; the optional packages into folders of their own."""
        wheels = {}
        for wheel in sorted(WHEELS.glob("*.whl")):
            name = canonical(wheel.name.split("-")[0])
            if version_of(name, sys.path):
                continue
            if name in OPTIONAL:
                self._folders[name] = self.work / f"with_{name}"
            wheels.setdefault(self._folders.get(name, site), []).append(str(wheel))
        words = "-m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check"
        for folder, files in wheels.items():
            command = [sys.executable, *words.split(), "--target", str(folder), *files]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise Unusable(f"the wheels in {WHEELS} cannot be installed: {last_line(done.stderr)}")

    def _set_variables(self, site, rehearse):
        """For the processes that are started from here."""
        sys.path.insert(0, str(site))
        before = os.environ.get("PYTHONPATH")
        paths = [site, ROOT / "benchmarks", *([before] if before else [])]
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        for cache in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):  # compilation is to start from nothing
            os.environ[cache] = str(self.work / cache.lower())
        if rehearse:
            os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

    def _probe(self):
        """Ask for the card, and try the optional packages on it, all at once."""
        names = ["card", *(name for name in OPTIONAL if version_of(name, [*self.paths([name]), *sys.path]))]
        self.left_out = {name: NO_WHEEL for name in OPTIONAL if name not in names}
        probes = {name: self._start_probe(name) for name in names}
        printed = {name: output_of(probe) for name, probe in probes.items()}
        for name, probe in probes.items():
            output, errors = printed[name]
            if name == "card" and probe.returncode:
                raise Unusable(f"{last_line(errors)}; `bash benchmarks/on_gpu.sh --rehearse` runs on a CPU.")
            if name == "card":
                found = json.loads(output.strip().splitlines()[-1])
                self.card, self.versions = found["card"], found["versions"]
            elif probe.returncode:
                self.left_out[name] = f"does not work here: {last_line(errors)}"

    def _start_probe(self, name):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*self.paths([name]), os.environ["PYTHONPATH"]])}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-m", "gpu.probe", name], env=environment, cwd=self.work, **pipes)
