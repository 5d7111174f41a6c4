"""Trigger: a callback that asks the module to grow."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from structurenet_pl.lightning import Callback, LightningModule, Trainer
from structurenet_pl.structure.events import check_count
from structurenet_pl.structure.growth_methods import GrowthRequest, request_by_name


class Trigger(Callback):
    """Calls a growth method of the module by name; what is derived from it says when."""

    by_clock = False
    """Whether the clock alone says when, so that under DDP the processes need not agree first."""

    def __init__(self, growth: str, limit: int | None, arguments: Mapping[str, Any]) -> None:
        if limit is not None:
            check_count("limit", limit)
        if not isinstance(arguments, Mapping):
            raise ValueError(f"arguments must be given by name, as in {{'at': 2}}, got {arguments!r}")
        self.growth = growth
        self.limit = limit
        self.arguments = dict(arguments)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look the growth method up before anything is trained."""
        if stage == "fit":
            self.complete(pl_module)

    def complete(self, pl_module: LightningModule) -> dict[str, Any]:
        """The arguments as the log has them, with defaults."""
        return dict(request_by_name(pl_module, self.growth, self.arguments).arguments)

    def grow(self, pl_module: LightningModule) -> None:
        """Ask for the growth."""
        pl_module.request_growth(self.request(pl_module))

    def request(self, pl_module: LightningModule) -> GrowthRequest:
        """What it asks for."""
        request = request_by_name(pl_module, self.growth, self.arguments)
        return replace(request, by_clock=self.by_clock, asked_by=type(self).__name__)
