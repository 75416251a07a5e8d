# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The output folder of a run: whose it is, its checkpoints, and its log."""

import filecmp
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from ..errors import RunError, UsageError
from ..files import BEST_FOLDER, LOG, atomic_write, weights_digest
from .arguments import DistillationArguments, names
from .flags import NOTHING


logger = logging.getLogger(__name__)
ARGUMENTS = "arguments.yaml"
LOCK = ".lock"
STAGES = ("warmup", "degradation", "backtracking")  # the last one without its name in that of a checkpoint
CHECKPOINT = re.compile(rf"checkpoint-(?:({'|'.join(STAGES[:-1])})-)?(\d+)")
# What a run writes beside checkpoints; a folder that holds any of these without ARGUMENTS belongs to something else.
OUTPUTS = (
    LOG,
    "README.md",
    "disback_config.json",
    "pytorch_lora_weights.safetensors",
    "unet",
    "degradation",
    "samples",
    BEST_FOLDER,
)


def different(before: dict, now: dict) -> list[str]:
    """The settings that make a run another one (`list[str]`).

    Args:
        before (`dict`): settings of the run; those that its version did not know had their defaults.
        now (`dict`): all settings.
    """
    before = {**DistillationArguments.defaults(), **before}
    free = set(names(shapes=NOTHING))
    if {now["lr_scheduler"], now["fake_score_lr_scheduler"] or "constant"} == {"constant"}:
        free.add("max_train_steps")  # training longer, or less long, is the same run
    if before["mixed_precision"] is None:  # left to accelerate: checkpoints have it
        free.add("mixed_precision")
    found = [name for name in now if name not in free and not _same(name, before[name], now[name])]
    return sorted(found, key="max_train_steps".__eq__)  # last, as it may differ unless another setting does


def _same(name, before, now):
    """Whether two values are equal or, of files and folders, the same ones: by another path, or moved, or copied."""
    if before == now or name not in names(local=True) or None in (before, now) or not os.path.exists(now):
        return before == now
    if not os.path.exists(before):  # moved; that it has changed as well would be found when it is loaded
        return os.path.isabs(before)
    if os.path.isfile(before) and os.path.isfile(now):
        return filecmp.cmp(before, now, shallow=False)
    return os.path.samefile(before, now) or _content(before) == _content(now)


def _content(folder):
    """Weights and configs of a model's folder, as far as they distinguish two models."""
    configs = {file.relative_to(folder): file.read_bytes() for file in Path(folder).rglob("*.json")}
    return weights_digest(folder), configs


@dataclass(order=True)
class Checkpoint:
    stage: int  # index in STAGES
    step: int
    folder: Path

    @property
    def is_of_last_stage(self) -> bool:
        """Whether it is of stage 2."""
        return self.stage == len(STAGES) - 1

    def is_of(self, stage: str) -> bool:
        """Whether it is of the stage of this name."""
        return STAGES[self.stage] == stage


class RunFolder:
    """Args: folder (`--output_dir`); is_main: whether this process writes (all may read)."""

    def __init__(self, folder: str | os.PathLike, is_main: bool = True):
        self.folder, self.is_main = Path(folder), is_main
        self._lock = FileLock(self.folder / LOCK)

    # -----------------------------------------------------------------------------------------------------------------
    # Whose folder it is

    def check(self, settings: dict, resume: str | None) -> None:
        """Refuse to mix two runs; nothing is written.

        Raises:
            UsageError: the folder holds another run (the first difference is named), a run that was not asked to go
                on, or other files that a run would overwrite.
        """
        try:
            existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
            if not existing.is_dir():
                raise UsageError(f"--output_dir {self.folder}: {existing} is a file, choose another.")
            if not os.access(existing, os.W_OK):
                raise UsageError(f"--output_dir {self.folder}: {existing} cannot be written to, choose another.")
        except OSError as error:  # a name too long, no permission
            raise UsageError(f"--output_dir {self.folder}: {error.strerror}.") from None
        file, results = self.folder / ARGUMENTS, self._results()
        if results and not file.is_file():
            raise UsageError(f"--output_dir {self.folder} holds {results[0]}, but no run: choose another folder.")
        if results in ([], [LOG]):  # of a run, the log alone is nothing to lose
            return
        before = self._settings_before(file)
        if differ := different(before, settings):
            key, more = differ[0], f" (and {len(differ) - 1} more)" if len(differ) > 1 else ""
            fixed = " It may differ only where both learning rates are constant." if key == "max_train_steps" else ""
            raise UsageError(
                f"--output_dir {self.folder} holds a run with other settings: --{key} is {before.get(key)} there, "
                f"{settings[key]} here{more}.{fixed} Choose another folder."
            )
        if not resume:
            raise UsageError(
                f"--output_dir {self.folder} holds a run with these settings: add --resume_from_checkpoint latest to "
                "go on, or choose another folder."
            )

    def _results(self):
        """What a run, or something else, has left here, by name."""
        checkpoints = [path.name for path in self.folder.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
        return [name for name in OUTPUTS if (self.folder / name).exists()] + checkpoints

    @staticmethod
    def _settings_before(file):
        try:
            return dict(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            raise UsageError(f"{file} is damaged: restore it, or choose another --output_dir.") from None

    def open(self, settings: dict) -> None:
        """Make the folder, try whether it can be written to, and leave the settings in it. It is ours until `close`.

        Raises:
            UsageError: another process has it open.
            RunError: it cannot be written to.
        """
        if self.is_main:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(timeout=0)
            except Timeout:
                raise UsageError(
                    f"--output_dir {self.folder} is in use by another run (or one that is just saving): wait until it "
                    "has ended, or choose another folder."
                ) from None
            except NotImplementedError:
                logger.warning(f"{self.folder} is on a file system without locks: let no other run use it.")
            except OSError as error:
                raise RunError(f"--output_dir {self.folder} cannot be written to: {error.strerror}.") from None
            settings = {**settings, "resume_from_checkpoint": None, "dry_run": False}  # ready for another run
            text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            atomic_write(self.folder / ARGUMENTS, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def close(self) -> None:
        """Let other runs have it; the end of the process, however it comes, does so too."""
        self._lock.release()

    # -----------------------------------------------------------------------------------------------------------------
    # Checkpoints

    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, from the first of the first stage to the last of stage 2."""
        found = []
        for folder in self.folder.glob("checkpoint-*") if self.folder.is_dir() else ():
            match = CHECKPOINT.fullmatch(folder.name)
            if match and (folder / "state.json").is_file():
                found.append(Checkpoint(STAGES.index(match[1] or STAGES[-1]), int(match[2]), folder))
        return sorted(found)

    def find(self, resume: str | None) -> Checkpoint | None:
        """The checkpoint that `--resume_from_checkpoint` names; None for "latest" of a run that has none yet.

        Raises:
            UsageError: there is no such checkpoint, or it is not the last one: the log would no longer show how those
                after it came about.
        """
        last = max(self.checkpoints(), default=None)
        if resume is None:
            return None
        if resume == "latest":
            return last
        wanted = {Path(resume).resolve(), (self.folder / resume).resolve()}
        if not any(checkpoint.folder.resolve() in wanted for checkpoint in self.checkpoints()):
            have = f"the last one is {last.folder}" if last else "there is none"
            raise UsageError(f"--resume_from_checkpoint {resume}: no such checkpoint in {self.folder}; {have}.")
        if last.folder.resolve() not in wanted:
            raise UsageError(
                f"--resume_from_checkpoint {resume} is not the last one, {last.folder}: give latest, or first delete "
                "those after it."
            )
        return last

    def save(self, stage: str, step: int, write: Callable[[Path], None], total_limit: int | None = None) -> Path:
        """A checkpoint that is there whole or not at all; then the oldest beyond the limit go.

        Args:
            write: is given an empty folder; must end with a state.json in it.
        """
        name = f"checkpoint-{'' if stage == STAGES[-1] else f'{stage}-'}{step}"
        temporary = self.folder / f".{name}-{os.getpid()}"
        try:
            temporary.mkdir()
            write(temporary)
            self._remove(self.folder / name)
            os.replace(temporary, self.folder / name)
        except OSError as error:
            raise RunError(
                f"{self.folder / name} cannot be written ({error.strerror}): free some space and resume."
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if total_limit:
            for checkpoint in self.checkpoints()[:-total_limit]:
                self._remove(checkpoint.folder)
        return self.folder / name

    def clean(self) -> None:
        """Remove what a killed process left half-written or half-removed."""
        for folder in self.folder.glob("checkpoint-*"):
            if CHECKPOINT.fullmatch(folder.name) and not (folder / "state.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
        for pattern in (".checkpoint-*", ".unet-*"):
            for folder in self.folder.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)
        for pattern in (".*.tmp", "*/.*.tmp"):
            for file in self.folder.glob(pattern):
                file.unlink()

    @staticmethod
    def _remove(folder):
        (folder / "state.json").unlink(missing_ok=True)  # first, so that a half-removed folder is no checkpoint
        shutil.rmtree(folder, ignore_errors=True)

    # -----------------------------------------------------------------------------------------------------------------
    # Log

    def log(self, record: dict) -> None:
        """Append a line to the log.

        Raises:
            RunError: it cannot be written.
        """
        try:
            with open(self.folder / LOG, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise RunError(
                f"{self.folder / LOG} cannot be written ({error.strerror}): free some space and resume."
            ) from None

    def records(self, stage: str) -> list[dict]:
        """The lines of the log that are of this stage."""
        file = self.folder / LOG
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [record for record in map(json.loads, lines) if record["stage"] == stage]

    def rewind_log(self, checkpoint: Checkpoint | None) -> None:
        """Drop the lines after a checkpoint, or all, and one that a kill left unfinished; they are logged again."""
        until = (checkpoint.stage, checkpoint.step) if checkpoint else (0, 0)
        file = self.folder / LOG
        if not file.is_file():
            return
        kept = []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                at = (STAGES.index(record["stage"]), record["step"])
            except (ValueError, KeyError):
                continue
            if at <= until:
                kept.append(line + "\n")
        atomic_write(file, lambda temporary: temporary.write_text("".join(kept), encoding="utf-8"))
