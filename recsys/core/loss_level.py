"""How high the losses of a training are, against where they started: healthy, or lost.

An untrained net has learned nothing, so a healthy loss does not rise far above its first values,
whatever the loss is and however far it has fallen since. One batch may: a step weighs as many
examples as it has, and the newest steps are averaged.
"""

import math
from dataclasses import dataclass

FIRST_STEPS = 16
"""Steps whose mean is the level that a training starts from."""
MEMORY = 1 - 1 / 16
"""Of the newest mean from step to step, so that it holds about 16 steps."""


@dataclass
class LossLevel:
    """Mean loss of an example: over the first steps, and over the newest.

    Args:
        steps: Seen so far.
        first_sum, first_examples: Of the first steps.
        newest_sum, newest_examples: Decayed from step to step.
    """

    steps: int = 0
    first_sum: float = 0.0
    first_examples: float = 0.0
    newest_sum: float = 0.0
    newest_examples: float = 0.0

    def add(self, loss: float, examples: int) -> None:
        """Take the mean loss of a step over its examples."""
        if self.steps < FIRST_STEPS:
            self.first_sum += loss * examples
            self.first_examples += examples
        self.newest_sum = MEMORY * self.newest_sum + loss * examples
        self.newest_examples = MEMORY * self.newest_examples + examples
        self.steps += 1

    def problem(self, loss: float, max_ratio: float) -> str:
        """Say what is wrong with the loss added last, or with the newest mean; empty if nothing.

        Losses that start at 0 or below have no ratio, and are only seen to be finite.
        """
        if not math.isfinite(loss):
            return f"the loss is {loss}, expected a finite number"
        first = self.first_sum / max(self.first_examples, 1)
        newest = self.newest_sum / max(self.newest_examples, 1)
        if self.steps <= FIRST_STEPS or first <= 0 or newest <= max_ratio * first:
            return ""
        return (
            f"the loss is {loss:.4g}, and its mean over the newest steps {newest:.4g}; expected "
            f"at most max_loss_ratio ({max_ratio:g}) times {first:.4g}, where it started"
        )
