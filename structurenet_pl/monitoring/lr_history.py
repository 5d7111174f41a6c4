"""The learning rates of a run as a matrix of components and steps: the input of every picture."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.structure.events import GrowthEvent

OUTCOME_SIGNS = {"born": "+", "widened": "wider", "shrunk": "narrower", "removed": "-"}


@dataclass(frozen=True)
class LRHistory:
    """Effective learning rates as a matrix: a row for each component, a column for each step.

    ``StrataMonitor.strata`` and ``preview`` return one, and
    ``plot_strata`` draws it. Steps need not be evenly spaced: a value holds until the next step.

    Args:
        components: Names of the components, by birth; components of one birth are in order of depth. Entries that
            widening added are a row of their own behind their component, such as ``body.0@3`` for those of growth event
            3, from the first step on at which their lr differs from that of the old entries.
        steps: Optimizer steps, ascending.
        lrs: Effective lr by component and step, nan before birth and after removal.
        frozen: Whether the component was frozen, by component and step.
        events: Step and a short text of each growth event, such as ``(120, "+ patches.0")``.
        unit: Label of the axis of steps: the unit in which ``steps`` are counted.
        note: Text below the axis that names the steps that were left out; empty if there are none.
        saved_work: Share of the multiply-adds of the run that freezing saves; None if it is not known, as in a record
            of learning rates.
    """

    components: tuple[str, ...]
    steps: NDArray[np.int64]
    lrs: NDArray[np.float64]
    frozen: NDArray[np.bool_]
    events: tuple[tuple[int, str], ...] = ()
    unit: str = "optimizer step"
    note: str = ""
    saved_work: float | None = None

    def at(self, steps: NDArray[np.int64]) -> "LRHistory":
        """The same history at other steps.

        Args:
            steps: Optimizer steps, ascending, none before the first.

        Example:
            >>> history = LRHistory(("head",), np.array([0, 10]), np.array([[0.1, 0.01]]), np.zeros((1, 2), dtype=bool))
            >>> history.at(np.array([0, 9, 10, 99])).lrs.tolist()
            [[0.1, 0.1, 0.01, 0.01]]
        """
        columns = np.searchsorted(self.steps, steps, side="right") - 1
        return replace(self, steps=steps, lrs=self.lrs[:, columns], frozen=self.frozen[:, columns])


def growth_mark(event: GrowthEvent) -> tuple[int, str]:
    """The step of a growth event, and a short text of its outcome.

    Example:
        >>> from structurenet_pl import Clock
        >>> growth_mark(GrowthEvent("expand", {"by": 2}, Clock(step=120), born=("norm",), widened=("stem", "body")))
        (120, '+ norm; wider stem, body')
    """
    outcome = [f"{OUTCOME_SIGNS[kind]} {', '.join(names)}" for kind, names in event.outcome.items()]
    return event.clock.step, "; ".join(outcome)
