"""Modules that can grow: how they are asked to, and how growth travels in their state dict."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, is_tensor, nn

from structurenet_pl.structure.events import Clock, Component, GrowthEvent
from structurenet_pl.structure.grow import (
    GrowthHandler,
    HasGrowthLog,
    check_leads_back,
    forget_structure,
    growth_handler_of,
    one_growth,
    set_growth_handler,
    structure_of,
)
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.partition import parameter_count
from structurenet_pl.structure.replay_log import (
    LOG_KEY,
    Bounded,
    is_founding,
    log_as_tensor,
    log_from_tensor,
    replay,
    unharmed,
)


class Growable(HasGrowthLog):
    """A module with a growth log that travels in its state dict and is replayed before tensors are loaded."""

    def on_growth(self, event: GrowthEvent) -> None:
        """Called after the module has grown. Override it to react."""

    @property
    def components(self) -> Mapping[str, Component]:
        """The components by name, in order of depth; a part of the module that has this name goes before."""
        if "components" in self._modules:
            raise AttributeError  # upon which Python asks torch, which finds the part
        return structure_of(self).components

    def request_growth(self, request: GrowthRequest) -> Any:
        """Grow: as a part of the growth under way, or when the growth handler finds it safe, or now."""
        if self._grows:
            return request.method.function(self, **request.arguments)
        check_leads_back(self, request.method)
        if (handler := growth_handler_of(self)) is not None:
            return handler.grow(self, request)
        return grow_now(self, request, self._clock_outside_fit())

    def grow_when_all_ranks_wait(self) -> None:
        """Let the growth handler carry out what waits: all processes are at this point."""
        if (handler := growth_handler_of(self)) is not None:
            handler.grow_when_all_ranks_wait(self)

    def _clock_outside_fit(self) -> Clock:
        """The time of a growth outside a fit."""
        return Clock()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load growth and tensors. If that raises, the module is as it was.

        A state dict without a log, but with all tensors that the module was founded with, takes its growth back; with
        ``strict=False`` it is loaded into the module as it has grown.
        """
        forget_structure(self)
        with unharmed(self):
            if strict and is_founding(self, state_dict):
                replay(self, ())
            return super().load_state_dict(state_dict, strict, assign)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.growth_log:
            destination[prefix + LOG_KEY] = log_as_tensor(self.growth_log)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved: Tensor | None = state_dict.pop(prefix + LOG_KEY, None)
        if saved is not None:
            held = parameter_count(value for value in state_dict.values() if is_tensor(value))
            with Bounded(max(held, parameter_count(self.parameters()))):  # a file may hold a part only
                replay(self, log_from_tensor(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


def set_growth_handlers(module: nn.Module, handler: GrowthHandler | None) -> None:
    """Hand the growth of a module and all of its parts over to a handler, or back to themselves."""
    for part in module.modules():
        if isinstance(part, Growable):
            set_growth_handler(part, handler)


def grow_now(module: Growable, request: GrowthRequest, clock: Clock) -> Any:
    """Grow a module that nobody follows, or a part in the course of a growth of the module around it."""
    with one_growth(module, request, clock) as (change, result):
        pass
    module.on_growth(change.event)
    return result
