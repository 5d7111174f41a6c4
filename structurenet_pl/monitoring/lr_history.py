"""Learning rates of all components over the steps of a run: what the pictures show."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.structure.events import GrowthEvent

SIGNS = {"born": "+", "widened": "wider", "shrunk": "narrower", "removed": "-"}


@dataclass(frozen=True)
class LRHistory:
    """Effective learning rates over time.

    Steps need not be evenly spaced: a value holds until the next step.

    Args:
        components: Their names, by birth, those of one birth in order of depth.
        steps: Optimizer steps, ascending.
        lrs: Effective lr by component and step, nan before birth and after removal.
        frozen: Whether the component was frozen, by component and step.
        events: Step and a short text of each growth event, such as ``(120, "+ patches.0")``.
        unit: What a step is, as the axis of a picture says.
        note: What has been left out, as pictures say; empty for nothing.
    """

    components: tuple[str, ...]
    steps: NDArray[np.int64]
    lrs: NDArray[np.float64]
    frozen: NDArray[np.bool_]
    events: tuple[tuple[int, str], ...] = ()
    unit: str = "optimizer step"
    note: str = ""

    def at(self, steps: NDArray[np.int64]) -> "LRHistory":
        """The same at other steps.

        Args:
            steps: Optimizer steps, ascending, none before the first.

        Example:
            >>> strata = LRHistory(("head",), np.array([0, 10]), np.array([[0.1, 0.01]]), np.zeros((1, 2), dtype=bool))
            >>> strata.at(np.array([0, 9, 10, 99])).lrs.tolist()
            [[0.1, 0.1, 0.01, 0.01]]
        """
        known = np.searchsorted(self.steps, steps, side="right") - 1
        return replace(self, steps=steps, lrs=self.lrs[:, known], frozen=self.frozen[:, known])


def mark(event: GrowthEvent) -> tuple[int, str]:
    """When a growth event happened, in steps, and a short text of what came of it.

    Example:
        >>> from structurenet_pl import Clock
        >>> mark(GrowthEvent("expand", {"by": 2}, Clock(step=120), born=("norm",), widened=("stem", "body")))
        (120, '+ norm; wider stem, body')
    """
    return event.clock.step, "; ".join(f"{SIGNS[kind]} {', '.join(names)}" for kind, names in event.outcome.items())
