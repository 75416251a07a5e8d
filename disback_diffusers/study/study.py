# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A blind comparison: its settings, its folder, and the questions and votes of each rater.

The first vote of a rater on a pair counts. A later one (another tab, a second click) is refused.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import RunError, UsageError
from ..files import atomic_write
from .pairs import Question, find_pairs, fingerprint, questions, subset
from .votes import Record, clean_name, new_vote


logger = logging.getLogger(__name__)
SETTINGS = "settings.json"


class Study:
    """A comparison and the folder with its settings and votes. Nothing is written before `open`.

    Args:
        a, b (`str` or `os.PathLike`): folders of images.
        prompts (`list[str]` or `None`): one per pair, in the order of the file names.
        folder (`str` or `os.PathLike`): `--output_dir`.
        num_pairs (`int`, *optional*): size of a random choice of pairs; by default as in the folder, or all.
        seed (`int`, *optional*): of the choice, the orders and the sides; by default as in the folder, or 0.
        source (`str`): where the prompts are from, for the record.

    Raises:
        UsageError: as in `find_pairs`; `num_pairs` is out of range; the folder has another comparison.
    """

    def __init__(
        self,
        a: str | os.PathLike,
        b: str | os.PathLike,
        prompts: Sequence[str] | None,
        folder: str | os.PathLike,
        num_pairs: int | None = None,
        seed: int | None = None,
        source: str = "",
    ):
        pairs, self.folder = find_pairs(a, b, prompts), Path(folder)
        if num_pairs is not None and not 0 < num_pairs <= len(pairs):
            raise UsageError(f"--num_pairs {num_pairs}: choose 1 to {len(pairs)}, the pairs there are.")
        found = self._settings_before()
        number = found.get("num_pairs", len(pairs)) if num_pairs is None else num_pairs
        self.begun = bool(found)  # an earlier process has opened it
        self.seed = found.get("seed", 0) if seed is None else seed
        self.pairs = subset(pairs, number, self.seed)
        self.settings = {"a": str(Path(a).resolve()), "b": str(Path(b).resolve()), "prompts": source,
                         "num_pairs": number, "seed": self.seed, "sha256": fingerprint(self.pairs)}  # fmt: skip
        if found and found["prompts"] and prompts is None:
            raise UsageError(f"--output_dir {folder} holds a comparison with --prompts {found['prompts']}: add that.")
        if found and any(found[key] != self.settings[key] for key in ("num_pairs", "seed", "sha256")):
            raise UsageError(
                f"--output_dir {folder} holds another comparison ({found['a']} with {found['b']}, --num_pairs "
                f"{found['num_pairs']} --seed {found['seed']}, or other images or prompts): choose another folder."
            )
        self.key = hashlib.sha256(json.dumps([self.seed, self.settings["sha256"]]).encode()).hexdigest()[:16]
        self._records, self._writing = {}, threading.Lock()
        self._lock = FileLock(self.folder / ".lock")

    def _settings_before(self):
        file = self.folder / SETTINGS
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return {key: found[key] for key in ("a", "b", "prompts", "num_pairs", "seed", "sha256")}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageError(f"--output_dir {self.folder}: {error.strerror}; choose another folder.") from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{file} is not that of a comparison: choose another --output_dir.") from None

    def open(self) -> None:
        """Create the folder and write the settings. The folder is locked until the process ends.

        Raises:
            UsageError: another process has the folder open.
            RunError: the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"--output_dir {self.folder} is in use by another server: let raters go there, or choose another one."
            ) from None
        except NotImplementedError:
            logger.warning(f"{self.folder} is on a file system without locks: start no second server on it.")
        except OSError as error:
            raise RunError(f"--output_dir {self.folder} cannot be written to: {error.strerror}.") from None
        text = json.dumps(self.settings, indent=2) + "\n"
        atomic_write(self.folder / SETTINGS, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _of(self, rater):
        """The rater's record and questions."""
        rater = clean_name(rater)
        if rater not in self._records:
            self._records[rater] = Record(self.folder, rater), questions(self.pairs, self.seed, rater)
        return self._records[rater]

    def next(self, rater: str) -> tuple[int, Question] | None:
        """The first pair that this rater has not judged.

        Returns:
            `tuple[int, Question]` or `None`: its position in the rater's order, and the pair; None after the last.

        Raises:
            UsageError: the name is not valid, or the rater's file is damaged.
        """
        with self._writing:
            record, asked = self._of(rater)
            unjudged = ((i, question) for i, question in enumerate(asked) if question.pair.name not in record.votes)
            return next(unjudged, None)

    def vote(self, rater: str, position: int, choice: str, seconds: float) -> bool:
        """Save a vote.

        Args:
            rater (`str`): as given to `next`.
            position (`int`): as returned by `next`.
            choice (`str`): "left", "right" or "tie".
            seconds (`float`): how long the rater looked.

        Returns:
            `bool`: whether it counts; False if the rater had judged this pair before.

        Raises:
            UsageError: `choice` is unknown, or as in `next`.
            RunError: the vote cannot be saved; it does not count.
        """
        with self._writing:
            record, asked = self._of(rater)
            question = asked[position]
            if question.pair.name in record.votes:
                return False
            record.add(new_vote(record.rater, question, choice, seconds))
            return True
