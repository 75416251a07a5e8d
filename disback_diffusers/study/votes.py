# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Votes of a blind comparison, one file per rater and one line per vote, and the table of results."""

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from ..errors import RunError, UsageError
from ..files import atomic_write
from .pairs import Question


if TYPE_CHECKING:
    from .study import Study  # which imports this module


CHOICES = ("left", "right", "tie")
Z = NormalDist().inv_cdf(0.975)  # of a two-sided 95 % interval


def clean_name(name: str) -> str:
    """A rater's name with single spaces and composed letters (NFC), so that each name has one spelling.

    Raises:
        UsageError: the name is empty, longer than 80 characters, or not printable.
    """
    name = " ".join(unicodedata.normalize("NFC", str(name)).split())
    if not 0 < len(name) <= 80 or not name.isprintable():
        raise UsageError("A name has 1 to 80 printable characters.")
    return name


def votes_file(folder: str | os.PathLike, rater: str) -> Path:
    """The rater's file. No two names share one, even on a file system that ignores case.

    Names other than plain lower-case ones get a checksum.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", rater)[:40]
    if plain != rater or plain != plain.lower():
        plain += f".{hashlib.sha256(rater.encode()).hexdigest()[:16]}"  # plain names have no dot
    return Path(folder) / f"votes-{plain}.jsonl"


def new_vote(rater: str, question: Question, choice: str, seconds: float) -> dict:
    """A vote as it is saved.

    Args:
        rater (`str`), question (`Question`).
        choice (`str`): "left", "right" or "tie".
        seconds (`float`): how long the rater looked.

    Raises:
        UsageError: an unknown choice.
    """
    if choice not in CHOICES:
        raise UsageError(f"A vote is one of {', '.join(CHOICES)}, not {choice!r}.")
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    side = "left" if question.a_left else "right"
    return {"rater": rater, "pair": question.pair.name, "a_side": side, "choice": choice, "time": time,
            "seconds": round(seconds, 2)}  # fmt: skip


def read_votes(file: Path) -> tuple[dict[str, dict], int]:
    """The votes of a file by pair, and the length of its complete lines in bytes.

    An incomplete last line, which a killed process can leave, is ignored. A missing file has no votes.

    Raises:
        UsageError: the file cannot be read, or a complete line is not a vote.
    """
    votes, number = {}, 0
    try:
        data = file.read_bytes() if file.exists() else b""
        complete = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(complete.split(b"\n")[:-1], 1):
            vote = json.loads(line)
            known = vote["choice"] in CHOICES and vote["a_side"] in CHOICES[:2] and isinstance(vote["rater"], str)
            votes.setdefault(vote["pair"] if known else None, vote)
        if None in votes:
            raise ValueError
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): repair it.") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file}: line {number} is no vote: repair it, or move the file away.") from None
    return votes, len(complete)


class Record:
    """The votes of one rater by pair, as they are on disk.

    Args:
        folder (`str` or `os.PathLike`): of the comparison.
        rater (`str`): from `clean_name`.

    Raises:
        UsageError: as in `read_votes`.
    """

    def __init__(self, folder: str | os.PathLike, rater: str):
        self.rater, self.file = rater, votes_file(folder, rater)
        self.votes, self._length = read_votes(self.file)
        if self.file.exists():
            os.truncate(self.file, self._length)  # the next vote starts a line

    def add(self, vote: dict) -> None:
        """Append a vote. It is on disk when this returns.

        Raises:
            RunError: it cannot be written; the file stays as it was.
        """
        line = json.dumps(vote).encode() + b"\n"
        if not self.file.exists():
            atomic_write(self.file, Path.touch)  # so that the name is on disk as well
        try:
            with open(self.file, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.file, self._length)
            raise RunError(f"The vote could not be saved ({error.strerror}): please tell the organizer.") from None
        self._length += len(line)
        self.votes[vote["pair"]] = vote


# ---------------------------------------------------------------------------------------------------------------------
# Results


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % interval (Wilson score interval) of a share, in [0, 1], from n > 0 trials; successes can be halves."""
    share = successes / n
    centre = share + Z**2 / (2 * n)
    reach = Z * (share * (1 - share) / n + Z**2 / (4 * n**2)) ** 0.5
    return (centre - reach) / (1 + Z**2 / n), (centre + reach) / (1 + Z**2 / n)


def tally(votes: Iterable[dict]) -> dict[str, int]:
    """How often A won, B won, and neither did: `{"A": ..., "B": ..., "tie": ...}`."""
    count = Counter({"A": 0, "B": 0, "tie": 0})
    for vote in votes:
        count["tie" if vote["choice"] == "tie" else "A" if vote["choice"] == vote["a_side"] else "B"] += 1
    return dict(count)


def report(study: "Study") -> str:
    """The votes in a study's folder as a table, by rater and in total.

    Raises:
        UsageError: a file is damaged, or has votes on other pairs.
    """
    names, by_rater = {pair.name for pair in study.pairs}, {}
    for file in sorted(study.folder.glob("votes-*.jsonl")):
        votes, _ = read_votes(file)
        if votes.keys() - names:
            raise UsageError(f"{file} holds votes of another comparison: move it away.")
        for vote in votes.values():
            by_rater.setdefault(vote["rater"], []).append(vote)
    rows = [[rater, *_numbers(votes)] for rater, votes in sorted(by_rater.items())]
    rows.append(["all", *_numbers([vote for votes in by_rater.values() for vote in votes])])
    rows.insert(0, ["rater", "votes", "A wins", "B wins", "ties", "B over A", "95 % interval"])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    note = "A tie counts half in 'B over A'; the interval (Wilson) takes all votes as independent."
    sides = [f"A: {study.settings['a']}", f"B: {study.settings['b']}", f"{len(study.pairs)} pairs"]
    return "\n".join([*sides, "", *lines, "", note])


def _numbers(votes):
    count, n = tally(votes), len(votes)
    numbers = [str(n), *map(str, count.values())]
    if not n:
        return [*numbers, "-", "-"]
    preferred = count["B"] + count["tie"] / 2
    low, high = wilson(preferred, n)
    return [*numbers, f"{preferred / n:.1%}", f"{low:.1%} to {high:.1%}"]
