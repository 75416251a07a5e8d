# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The degradation path on disk: a manifest and one adapter file a node."""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import UsageError
from ..files import atomic_write
from ..models.roles import Roles


MANIFEST = "manifest.json"
FORMAT = 1
RESTORE = "Restore it, or record the path anew."
UNTRAINED = ("error", "teacher_error", "variation", "teacher_variation")
LEARNED = 0.9  # of the way from the teacher's error to that of a network that predicts 0 (docs/results.md)
SAME = 1.05  # times the teacher's error: the same weights in another precision


@dataclass
class Node:
    """One point of the path. Node 0 is the teacher itself: it has no file.

    `student_loss` and `teacher_loss` are the mean squared error of the predicted noise on fixed samples of the
    untrained student and of the teacher: along the path the first falls and the second rises.
    """

    step: int
    file: str | None = None
    loss: float | None = None  # training loss, mean since the node before
    sha256: str | None = None
    student_loss: float | None = None
    teacher_loss: float | None = None


@dataclass
class DegradationPath:
    """Nodes 0 (the teacher) to N (nearest to the untrained student).

    `len(path)` counts node 0. `path.nodes[i]` has `step`, `file`, `loss` and `sha256`. `untrained` is measured before
    stage 1, for `--node_switching adaptive` and for a `--student_unet`:

    - "error", "teacher_error": squared error of the student's network, and of the teacher's, in denoising samples of
      the teacher at the conditioning timestep or sigma, as a share of that of a network that predicts 0.
    - "variation", "teacher_variation": how much samples of one prompt vary (`switching.variation`).
    """

    folder: Path
    base_fingerprint: str
    settings: dict = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    complete: bool = False
    untrained: dict | None = None

    def __len__(self) -> int:
        return len(self.nodes)

    @classmethod
    def load(cls, folder: str | os.PathLike, base: Roles | str | None = None) -> "DegradationPath":
        """The path recorded in a folder (the one with manifest.json, or a run's output folder).

        Args:
            base (`Roles` or fingerprint, *optional*): the base it must have been recorded on.

        Raises:
            UsageError: no or a broken manifest, a missing or changed node file, or another base.
        """
        folder = Path(folder).expanduser()
        if folder.name == MANIFEST and folder.is_file():
            folder = folder.parent
        if not (folder / MANIFEST).is_file() and (folder / "degradation" / MANIFEST).is_file():
            folder = folder / "degradation"
        file = folder / MANIFEST
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise UsageError(
                    f"{file} has format {manifest['format']}, this version reads {FORMAT}: a newer one may be needed."
                )
            nodes = [Node(**node) for node in manifest["nodes"]]
            path = cls(folder, manifest["base_fingerprint"], manifest["settings"], nodes, manifest["complete"])
            path.untrained = manifest.get("untrained")
            path._check_types()
        except FileNotFoundError:
            raise UsageError(
                f"{folder} holds no degradation path: there is no {MANIFEST}. It should be the degradation/ folder of "
                "a run."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{file} is no manifest of a degradation path ({error!r}). {RESTORE}") from None
        if base is not None:
            path.check_base(base)
        for node in path.nodes[1:]:
            path._check_file(node)
        return path

    def _check_types(self):
        """Raises a ValueError for a manifest with values of other types."""
        if not isinstance(self.settings, dict) or not isinstance(self.base_fingerprint, str) or not self.nodes:
            raise ValueError("settings, base_fingerprint or nodes are missing")
        if type(self.complete) is not bool:
            raise ValueError(f"complete is {self.complete!r}")
        for node in self.nodes:
            if type(node.step) is not int or (node.step > 0) != isinstance(node.file, str):
                raise ValueError(f"a node with step {node.step!r} and file {node.file!r}")
        steps = [node.step for node in self.nodes]
        if steps != sorted({0, *steps}):
            raise ValueError(f"nodes at steps {steps}")

    def check_base(self, base: Roles | str) -> None:
        """Raise a UsageError where the path was recorded on another base than this one, or of this fingerprint."""
        fingerprint = getattr(base, "fingerprint", base)
        if fingerprint != self.base_fingerprint:
            raise UsageError(
                f"{self.folder / MANIFEST} was recorded on another base (fingerprint {self.base_fingerprint[:12]}, "
                f"the teacher here has {fingerprint[:12]}): give its own teacher, or record a path for this one."
            )

    def _check_file(self, node):
        file = self.folder / node.file
        if not file.is_file():
            raise UsageError(f"{file}, a node of the degradation path, is missing. {RESTORE}")
        if _sha256(file) != node.sha256:
            raise UsageError(
                f"{file}, a node of the degradation path, is damaged or was changed: its sha256 differs. {RESTORE}"
            )

    def should_walk(self) -> tuple[bool, str]:
        """Whether `--node_switching adaptive` walks this path, and why.

        It does where the student's network cannot denoise yet, and its samples of one prompt vary less than the
        teacher's: from such a narrow cloud the teacher's score leads to the nearest modes alone (docs/results.md).

        Raises:
            UsageError: the path was recorded without `untrained`, for a student that did not start as the teacher.
        """
        if self.untrained is None and not (self.settings.get("student_unet") or self.settings.get("lcm_lora")):
            return False, "the student started with the teacher's weights"
        try:
            error, teacher_error, student, teacher = values = [float(self.untrained[key]) for key in UNTRAINED]
        except (TypeError, KeyError, ValueError):
            values = [math.nan]
        if not all(map(math.isfinite, values)):
            raise UsageError(
                f'{self.folder / MANIFEST} does not say under "untrained" how the student started, on which '
                "--node_switching adaptive depends: use fixed, or record the path anew."
            )
        if error <= max(teacher_error + LEARNED * (1 - teacher_error), SAME * teacher_error):
            errors = f"{error:.0%} of that of a network that predicts 0, and the teacher's is {teacher_error:.0%}"
            if teacher_error >= 1:
                return False, f"the teacher itself cannot denoise: the student's error is {errors}"
            return False, f"the student's network can denoise already: its error is {errors}"
        compared = f"by {student:.3g}, the teacher's by {teacher:.3g} (standard deviation over the noise)"
        return student < teacher, f"the untrained student's samples of one prompt vary {compared}"

    def load_into(self, roles: Roles, i: int, role: str = "target") -> None:
        """Put node i into a role, strictly; node 0 makes the role the teacher again.

        Raises:
            UsageError: the file does not fit the role or the base.
            IndexError: no such node.
        """
        node = self.nodes[i]
        if node.file is None:
            roles.reset(role, seed=0)
        else:
            roles.load(role, self.folder / node.file)

    # -----------------------------------------------------------------------------------------------------------------

    def start(self, **losses: float) -> None:
        """Begin anew with node 0, the teacher; its losses as in `Node`."""
        self.nodes, self.complete = [Node(step=0, **losses)], False
        self.write_manifest()

    def add(self, roles: Roles, step: int, role: str = "target", **losses: float) -> None:
        """Save a role as the next node and write the manifest; nodes of a broken-off attempt from `step` on go."""
        self.nodes = [node for node in self.nodes if node.step < step]
        self.write_manifest()  # before a file of theirs changes: a kill in between must leave a path that can be read
        file = f"{step:06d}.safetensors"
        roles.save(role, self.folder / file, {"degradation_step": str(step)})
        self.nodes.append(Node(step, file, sha256=_sha256(self.folder / file), **losses))
        self.write_manifest()

    def write_manifest(self) -> None:
        """Write manifest.json."""
        manifest = {
            "format": FORMAT,
            "base_fingerprint": self.base_fingerprint,
            "settings": self.settings,
            "complete": self.complete,
            "untrained": self.untrained,
            "nodes": [asdict(node) for node in self.nodes],
        }
        text = json.dumps(manifest, indent=2) + "\n"
        atomic_write(self.folder / MANIFEST, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def plot(self) -> None:
        """Write path.png: how the target leaves the teacher's samples for the student's."""
        import matplotlib.figure  # slow to import; no pyplot, so no display is needed

        figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        steps = [node.step for node in self.nodes]
        axes.plot(steps, [node.student_loss for node in self.nodes], "o-", label="on samples of the untrained student")
        axes.plot(steps, [node.teacher_loss for node in self.nodes], "s-", label="on samples of the teacher")
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xticks(steps, steps)
        axes.minorticks_off()
        axes.set_xlabel("updates of stage 1 (nodes marked; 0 is the teacher)")
        axes.set_ylabel("squared error of the predicted noise")
        axes.set_title("Degradation path")
        axes.legend()
        atomic_write(self.folder / "path.png", lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def node_steps(steps: int, nodes: int, spacing: str) -> list[int]:
    """The updates of stage 1 at which a node is saved, ascending, the last being `steps`.

    "uniform" is the paper's. "geometric" halves from the end (200, 100, 50, ...): the target leaves the teacher within
    a few updates and then hardly changes (docs/results.md has both).
    """
    if spacing == "uniform":
        return [round(steps * i / nodes) for i in range(1, nodes + 1)]
    return [max(i, round(steps / 2 ** (nodes - i))) for i in range(1, nodes + 1)]


def _sha256(file):
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while chunk := opened.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
