# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""When to leave a node of the path for the next ("when near convergence", Sec. 4.3)."""

from dataclasses import asdict, dataclass


@dataclass
class NodeSwitch:
    """Counts the updates at a node and says when to leave it.

    `fixed` stays for `steps_per_node` updates. `adaptive` leaves earlier, when the fake-target gap, smoothed over
    `WINDOW` updates, has not fallen by `MARGIN` for `WINDOW` updates.
    """

    steps_per_node: int
    adaptive: bool = False
    node_step: int = 0
    gap: float | None = None
    lowest: float | None = None
    lowest_at: int = 0

    WINDOW = 20
    MARGIN = 0.02

    def leave(self, gap):
        """Takes in the gap of one more update; True when the node is done (and counting starts anew)."""
        self.node_step += 1
        self.gap = gap if self.gap is None else self.gap + (gap - self.gap) / min(self.node_step, self.WINDOW)
        if self.lowest is None or self.gap < self.lowest * (1 - self.MARGIN):
            self.lowest, self.lowest_at = self.gap, self.node_step
        stalled = self.adaptive and self.node_step - self.lowest_at >= self.WINDOW
        if self.node_step >= self.steps_per_node or stalled:
            self.node_step, self.gap, self.lowest, self.lowest_at = 0, None, None, 0
            return True
        return False

    def state_dict(self):
        return asdict(self)

    def load_state_dict(self, state):
        vars(self).update(state)
