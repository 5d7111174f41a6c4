"""Learning rates of all components over the steps of a run: what the pictures show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Strata:
    """Effective learning rates over time.

    Args:
        components: Their names, by birth, those of one birth in order of depth.
        steps: Optimizer steps, ascending.
        lrs: Effective lr by component and step, nan before birth and after removal.
        frozen: Whether the component was frozen, by component and step.
        events: Step and a short text of each growth event, such as ``(120, "+ patches.0")``.
    """

    components: tuple[str, ...]
    steps: NDArray[np.int64]
    lrs: NDArray[np.float64]
    frozen: NDArray[np.bool_]
    events: tuple[tuple[int, str], ...] = ()
