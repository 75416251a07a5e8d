# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which nodes of the path are targets, and when one is left for the next."""

from dataclasses import dataclass


@dataclass
class NodeWalk:
    """The targets in their order, ending in 0, the teacher. Each but the last lasts `steps_per_node` updates."""

    numbers: list[int]
    steps_per_node: int
    position: int = 0
    node_step: int = 0

    @property
    def node(self):
        """Number of the target now."""
        return self.numbers[self.position]

    def advance(self):
        """Counts one more update; True where it was the last at its node, so that the target is another now."""
        self.node_step += 1
        if self.node == 0 or self.node_step < self.steps_per_node:
            return False
        self.position, self.node_step = self.position + 1, 0
        return True


def targets(n, walk=True):
    """Numbers of the targets of stage 2, from the student's end of the path to the teacher, 0 (`list[int]`).

    The last node is where the fake score starts, and no target: the first is the one before (Alg. 2).

    Args:
        n (`int`): nodes of the path, the teacher among them; 1 without a path.
        walk (`bool`, *optional*): False for the teacher as the only target.
    """
    return [*range(n - 2, 0, -1), 0] if walk else [0]


def variation(samples):
    """How much samples of one prompt vary with their noise: the standard deviation of an element (`float`).

    Args:
        samples (`torch.Tensor`): (prompts, draws, ...), at least two draws.
    """
    return samples.var(dim=1).mean().sqrt().item()
