"""The record of the validations of a run: their metrics, with step and number of parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.metric_history import MetricHistory
from structurenet_pl.structure.events import GrowthEvent
from structurenet_pl.structure.partition import parameter_count

MAX_NUMBERS = 50_000  # of 8 bytes each; the same in a checkpoint, so that a resumed run has the same record


class MetricRecord:
    """The metrics that each validation of a fit has logged.

    It survives checkpoints. If it exceeds its limit, every second validation so far is dropped.
    """

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._parameters: list[int] = []
        self._metrics: dict[str, list[float]] = {}  # by name, a value for each validation
        self._thinned = False
        self._begun: tuple[int, int, dict[str, Any]] | None = None  # step, parameters, older metrics

    def begin_validation(self, trainer: Trainer, module: nn.Module, step: int) -> None:
        """Note what a validation starts from; growth at its end comes after the network that it measures.

        Args:
            trainer: The Trainer.
            module: The network.
            step: Number of optimizer steps so far.
        """
        self._begun = None
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._begun = step, parameter_count(module.parameters()), dict(trainer.callback_metrics)

    def end_validation(self, trainer: Trainer) -> None:
        """Add the metrics of the validation."""
        if self._begun is None:
            return
        (step, parameters, older), self._begun = self._begun, None
        # callback_metrics also has metrics of training, some of an earlier epoch. Lightning makes a new tensor for each
        # value that it computes, so a tensor that was there before the validation is no metric of this validation.
        values = {
            name: float(value) for name, value in trainer.callback_metrics.items() if value is not older.get(name)
        }
        if not values:
            return
        if self._steps[-1:] == [step]:  # of two validations at one step the second counts
            self._keep(slice(-1))
        for name in values.keys() - self._metrics.keys():
            self._metrics[name] = [np.nan] * len(self._steps)
        self._steps.append(step)
        self._parameters.append(parameters)
        for name, column in self._metrics.items():
            column.append(values.get(name, np.nan))
        if len(self._steps) * (2 + len(self._metrics)) > MAX_NUMBERS:
            self._thinned = True
            self._keep(slice((len(self._steps) - 1) % 2, None, 2))  # the last one stays

    def to_history(self, log: tuple[GrowthEvent, ...]) -> MetricHistory:
        """The record as arrays, with the growth log of the run."""
        return MetricHistory(
            steps=np.array(self._steps, dtype=np.int64),
            parameters=np.array(self._parameters, dtype=np.int64),
            metrics={name: np.array(self._metrics[name]) for name in sorted(self._metrics)},
            log=log,
            note="some older validations are left out" if self._thinned else "",
        )

    def state_dict(self) -> dict[str, Any]:
        """The whole record."""
        return {
            "steps": torch.tensor(self._steps, dtype=torch.int64),
            "parameters": torch.tensor(self._parameters, dtype=torch.int64),
            "metrics": {name: torch.tensor(column, dtype=torch.float64) for name, column in self._metrics.items()},
            "thinned": self._thinned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the content of the record by a state dict."""
        self._steps, self._parameters = state["steps"].tolist(), state["parameters"].tolist()
        self._metrics = {name: column.tolist() for name, column in state["metrics"].items()}
        self._thinned = state["thinned"]

    def _keep(self, kept: slice) -> None:
        for column in (self._steps, self._parameters, *self._metrics.values()):
            column[:] = column[kept]  # type: ignore[index]
