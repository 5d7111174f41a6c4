"""GrowthTrigger: the base of the callbacks that call a growth method."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from structurenet_pl.lightning import Callback, LightningModule, Trainer
from structurenet_pl.structure.arguments import ChecksArguments, check_at_least
from structurenet_pl.structure.growth_methods import GrowthRequest, request_by_name


class GrowthTrigger(ChecksArguments, Callback):
    """Call a growth method of the module by name; subclasses decide when.

    Args:
        growth: Name of the growth method.
        limit: Largest number of growths; None for no limit.
        arguments: Arguments of the growth method, plain values by name.

    Raises:
        ValueError: If ``limit`` is not a positive whole number.
    """

    by_clock = False
    """Whether the clock alone decides. All processes of a DDP run then decide the same without communication."""

    def __init__(self, growth: str, limit: int | None, arguments: Mapping[str, Any]) -> None:
        if limit is not None:
            check_at_least(1, {"limit": limit})
        self.growth = growth
        self.limit = limit
        self.arguments = dict(arguments)  # a copy: callers share the default {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the growth method and its arguments, so that errors come before training."""
        if stage == "fit":
            self.complete_arguments(pl_module)

    def complete_arguments(self, pl_module: LightningModule) -> dict[str, Any]:
        """Return the arguments with the defaults of the growth method, as the growth log holds them."""
        return dict(request_by_name(pl_module, self.growth, self.arguments).arguments)

    def grow(self, pl_module: LightningModule) -> None:
        """Request the growth; the module grows now or at the next safe moment."""
        pl_module.request_growth(self.request(pl_module))

    def request(self, pl_module: LightningModule) -> GrowthRequest:
        """Return the request that the module receives."""
        request = request_by_name(pl_module, self.growth, self.arguments)
        return replace(request, by_clock=self.by_clock, asked_by=type(self).__name__)
