# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Votes of a blind comparison: a file a rater, a line a vote, and what they add up to."""

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from statistics import NormalDist

from ..errors import RunError, UsageError
from ..files import atomic_write


CHOICES = ("left", "right", "tie")
Z = NormalDist().inv_cdf(0.975)  # of a two-sided 95 % interval


def clean_name(name):
    """A rater's name with single spaces and composed letters, so that one name has one spelling.

    Raises:
        UsageError: empty, longer than 80 characters, or not printable.
    """
    name = " ".join(unicodedata.normalize("NFC", str(name)).split())
    if not 0 < len(name) <= 80 or not name.isprintable():
        raise UsageError("A name has 1 to 80 printable characters.")
    return name


def votes_file(folder, rater):
    """The rater's own file. Names that are not plain lower-case ones get a checksum: no two names share a file, also
    where the file system takes capitals for small letters."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", rater)[:40]
    if plain != rater or plain != plain.lower():
        plain += f".{hashlib.sha256(rater.encode()).hexdigest()[:16]}"  # a plain name has no dot
    return Path(folder) / f"votes-{plain}.jsonl"


def new_vote(rater, question, choice, seconds):
    """A line of the record.

    Raises:
        UsageError: an unknown choice.
    """
    if choice not in CHOICES:
        raise UsageError(f"A vote is one of {', '.join(CHOICES)}, not {choice!r}.")
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    side = "left" if question.a_left else "right"
    return {"rater": rater, "pair": question.pair.name, "a_side": side, "choice": choice, "time": time,
            "seconds": round(seconds, 2)}  # fmt: skip


def read_votes(file):
    """Votes by pair, and the length in bytes of the complete lines; the half of one that a kill left is passed over.

    Raises:
        UsageError: a complete line is no vote.
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
        raise UsageError(f"{file} cannot be read ({error.strerror}): mend it.") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file}: line {number} is no vote: mend it, or move the file away.") from None
    return votes, len(complete)


class Record:
    """The votes of one rater, by pair, as they are on disk.

    Raises:
        UsageError: as `read_votes`.
    """

    def __init__(self, folder, rater):
        self.rater, self.file = rater, votes_file(folder, rater)
        self.votes, self._length = read_votes(self.file)
        if self.file.exists():
            os.truncate(self.file, self._length)  # the next vote starts a line

    def add(self, vote):
        """Append a vote; it is on disk when this returns.

        Raises:
            RunError: it cannot be written; the file is left as it was.
        """
        line = json.dumps(vote).encode() + b"\n"
        if not self.file.exists():
            atomic_write(self.file, Path.touch)  # which makes the name last, too
        try:
            with open(self.file, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.file, self._length)
            raise RunError(f"The vote could not be saved ({error.strerror}): tell who runs this study.") from None
        self._length += len(line)
        self.votes[vote["pair"]] = vote


# ---------------------------------------------------------------------------------------------------------------------
# What they add up to


def wilson(successes, n):
    """The 95 % interval (Wilson's score interval) of a share, from n > 0 trials; successes may be halves."""
    share = successes / n
    centre = share + Z**2 / (2 * n)
    reach = Z * (share * (1 - share) / n + Z**2 / (4 * n**2)) ** 0.5
    return (centre - reach) / (1 + Z**2 / n), (centre + reach) / (1 + Z**2 / n)


def tally(votes):
    """How often A and B won, of `votes`, and how often neither did: `{"A": ..., "B": ..., "tie": ...}`."""
    count = Counter({"A": 0, "B": 0, "tie": 0})
    for vote in votes:
        count["tie" if vote["choice"] == "tie" else "A" if vote["choice"] == vote["a_side"] else "B"] += 1
    return dict(count)


def report(study):
    """The votes in a study's folder as a table, by rater and in all.

    Raises:
        UsageError: a file is damaged, or holds votes on other pairs.
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
