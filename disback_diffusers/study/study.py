# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A blind comparison: what belongs to it, the folder it is kept in, and what each rater is shown and has voted.

The first vote of a rater on a pair counts; a later one (another tab, a second click) is refused.
"""

import hashlib
import json
import logging
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import RunError, UsageError
from ..files import atomic_write
from .pairs import find_pairs, fingerprint, questions, subset
from .votes import Record, clean_name, new_vote


logger = logging.getLogger(__name__)
SETTINGS = "settings.json"


class Study:
    """A comparison and the folder that holds its settings and votes; nothing is written before `open`.

    Args:
        a, b: folders of images.
        prompts (`list[str]`): one for each pair, by file name.
        folder: `--output_dir`.
        num_pairs (`int`, *optional*): that many, chosen at random; by default as in the folder, or all.
        seed (`int`, *optional*): of that choice, the orders and the sides; by default as in the folder, or 0.
        source (`str`): where the prompts are from, for the record.

    Raises:
        UsageError: as `find_pairs`; too many pairs are asked for; the folder holds another comparison.
    """

    def __init__(self, a, b, prompts, folder, num_pairs=None, seed=None, source=""):
        pairs, self.folder = find_pairs(a, b, prompts), Path(folder)
        if num_pairs is not None and not 0 < num_pairs <= len(pairs):
            raise UsageError(f"--num_pairs {num_pairs}: choose 1 to {len(pairs)}, the pairs there are.")
        found = self._settings_before()
        number = found.get("num_pairs", len(pairs)) if num_pairs is None else num_pairs
        self.begun = bool(found)  # the folder holds it already
        self.seed = found.get("seed", 0) if seed is None else seed
        self.pairs = subset(pairs, number, self.seed)
        self.settings = {"a": str(Path(a).resolve()), "b": str(Path(b).resolve()), "prompts": source,
                         "num_pairs": number, "seed": self.seed, "sha256": fingerprint(self.pairs)}  # fmt: skip
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
            return {key: found[key] for key in ("a", "b", "num_pairs", "seed", "sha256")}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageError(f"--output_dir {self.folder}: {error.strerror}; choose another folder.") from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{file} is not that of a comparison: choose another --output_dir.") from None

    def open(self):
        """Make the folder with the settings in it; it is ours until the process ends.

        Raises:
            UsageError: another process serves from this folder.
            RunError: it cannot be written to.
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

    def next(self, rater):
        """The first pair that this rater has not judged.

        Returns:
            its position among all of the rater's and the `Question`, or None after the last.

        Raises:
            UsageError: no name, or the rater's file is damaged.
        """
        with self._writing:
            record, asked = self._of(rater)
            open_ones = ((i, question) for i, question in enumerate(asked) if question.pair.name not in record.votes)
            return next(open_ones, None)

    def vote(self, rater, position, choice, seconds):
        """Put a vote on disk.

        Args:
            rater (`str`), position (`int`): as given to, and got from `next`.
            choice (`str`): "left", "right" or "tie".
            seconds (`float`): how long the rater looked.

        Returns:
            whether it counts: false if the rater had judged this pair before.

        Raises:
            RunError: it cannot be written, and does not count.
        """
        with self._writing:
            record, asked = self._of(rater)
            question = asked[position]
            if question.pair.name in record.votes:
                return False
            record.add(new_vote(record.rater, question, choice, seconds))
            return True
