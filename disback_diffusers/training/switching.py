# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which nodes of the path are targets, and when one is left for the next."""

from dataclasses import dataclass

import torch


@dataclass
class NodeWalk:
    """The targets in their order, from the student's end of the path to the teacher.

    The teacher is node 0. The last node is where the fake score starts, and no target: the first target is the one
    before it (Alg. 2).

    Args:
        numbers (`list[int]`): of the nodes, ending in 0.
        steps_per_node (`int` or `list[int]`): updates at each of them but the teacher, which has no end; or one number
            for each.
    """

    numbers: list[int]
    steps_per_node: int | list[int] = 0
    position: int = 0
    node_step: int = 0

    @classmethod
    def back_from(cls, nodes: int, steps_per_node: int | list[int]) -> "NodeWalk":
        """Along a whole path.

        Args:
            nodes (`int`): of the path, the teacher among them.
            steps_per_node (`int` or `list[int]`): updates at each target but the teacher.
        """
        return cls([*range(nodes - 2, 0, -1), 0], steps_per_node)

    @classmethod
    def teacher_only(cls) -> "NodeWalk":
        """Without a path: Diff-Instruct."""
        return cls([0])

    @property
    def node(self) -> int:
        """Number of the target now."""
        return self.numbers[self.position]

    @property
    def at_teacher(self) -> bool:
        """Whether the target is the teacher."""
        return self.node == 0

    @property
    def stays(self) -> int:
        """How many other targets than the teacher there are."""
        return len(self.numbers) - 1

    @property
    def walks_path(self) -> bool:
        """Whether there are any."""
        return self.stays > 0

    @property
    def updates(self) -> list[int]:
        """At each target but the teacher."""
        given = self.steps_per_node
        return [given] * self.stays if isinstance(given, int) else given

    def advance(self) -> bool:
        """Count one more update. Returns whether it was the last at its node, so that the target is another now."""
        self.node_step += 1
        if self.at_teacher or self.node_step < self.updates[self.position]:
            return False
        self.position, self.node_step = self.position + 1, 0
        return True


def described(updates: list[int]) -> str:
    """Updates at the targets in few words: "100", "3 x 100" or "1,000 + 10,000"."""
    if len(set(updates)) == 1:
        times = f"{len(updates)} x " if len(updates) > 1 else ""
        return f"{times}{updates[0]:,}"
    return " + ".join(f"{count:,}" for count in updates)


def count_stays(nodes: int) -> int:
    """How many nodes of a path are targets, the teacher not counted.

    Args:
        nodes (`int`): of the path, the teacher among them.
    """
    return max(nodes - 2, 0)


def variation(samples: torch.Tensor) -> float:
    """How much samples of one prompt vary with their noise: the standard deviation of an element.

    Args:
        samples (`torch.Tensor` of shape `(prompts, samples, ...)`): at least two samples of each.
    """
    return samples.var(dim=1).mean().sqrt().item()
