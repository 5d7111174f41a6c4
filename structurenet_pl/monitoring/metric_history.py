"""The validation metrics of a run, by step and number of parameters: the input of ``plot_growth``."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.structure.events import GrowthEvent


@dataclass(frozen=True)
class MetricHistory:
    """Validation metrics of a run, with a value for each validation, and the growth events of the run.

    ``StrataMonitor.validations`` returns one, and ``plot_growth`` draws it.

    Args:
        steps: Optimizer steps before each validation, ascending.
        parameters: Number of parameters of the module in each validation, frozen ones included.
        metrics: The values of each metric, nan where a validation did not log it.
        log: The growth log of the run.
        note: Text below the axis of steps that names the validations that were left out; empty if there are none.
    """

    steps: NDArray[np.int64]
    parameters: NDArray[np.int64]
    metrics: Mapping[str, NDArray[np.float64]]
    log: tuple[GrowthEvent, ...] = ()
    note: str = ""
