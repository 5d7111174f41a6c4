"""Modules that can grow: how growth is requested, and how it is saved in and loaded from their state dict."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, is_tensor

from structurenet_pl.structure.events import Clock, Component, GrowthEvent
from structurenet_pl.structure.grow import one_growth
from structurenet_pl.structure.growth_handler import growth_handler_of
from structurenet_pl.structure.growth_methods import GrowthRequest, check_replayable
from structurenet_pl.structure.loading_guards import TensorSizeLimit, restore_module_on_error
from structurenet_pl.structure.log_tensors import LOG_KEY, log_as_tensor, log_from_tensor
from structurenet_pl.structure.module_structure import HasGrowthLog, clear_structure_cache, structure_of
from structurenet_pl.structure.partition import parameter_count
from structurenet_pl.structure.replay_log import predates_growth, replay, replay_mentioned


class Growable(HasGrowthLog):
    """A module whose growth log is saved in its state dict, and replayed before tensors are loaded."""

    def on_growth(self, event: GrowthEvent) -> None:
        """Called after the module has grown. Override it to react."""

    @property
    def components(self) -> Mapping[str, Component]:
        """The components by name, in order of depth; a submodule of the name ``components`` wins over them."""
        if "components" in self._modules:
            raise AttributeError  # Python then calls torch's __getattr__, which returns the submodule
        return structure_of(self).components

    def request_growth(self, request: GrowthRequest) -> Any:
        """Grow: as a part of the growth under way, or by the growth handler at a safe moment, or now."""
        if self._is_growing:  # a growth method that calls another one: the outer call is the one that is logged
            return request.method.function(self, **request.arguments)
        check_replayable(self, request.method)
        if (handler := growth_handler_of(self)) is not None:
            return handler.grow(self, request)
        return grow_now(self, request, self._clock_outside_fit())

    def grow_when_all_ranks_wait(self) -> None:
        """Let the growth handler carry out requests that wait: all processes are at this point."""
        if (handler := growth_handler_of(self)) is not None:
            handler.grow_when_all_ranks_wait(self)

    def _clock_outside_fit(self) -> Clock:
        """The time of a growth outside a fit."""
        return Clock()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load growth and tensors. If loading raises, the module is as before.

        A state dict without a growth log, but with all founding parameters, undoes the growth of the module. With
        ``strict=False`` it is loaded into the grown module instead.
        """
        clear_structure_cache(self)
        with restore_module_on_error(self):
            if strict and predates_growth(self, state_dict):
                replay(self, ())
            with replay_mentioned(self, state_dict):
                return super().load_state_dict(state_dict, strict, assign)

    # The log is saved and loaded in torch's private methods, because torch calls only these for a submodule.

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.growth_log:  # no key for an empty log, so that state dicts of modules that cannot grow are the same
            destination[prefix + LOG_KEY] = log_as_tensor(self.growth_log)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        saved: Tensor | None = state_dict.pop(prefix + LOG_KEY, None)
        if saved is not None:
            # before super(), because the tensors need the parameters that growth adds
            held = parameter_count(value for value in state_dict.values() if is_tensor(value))
            with TensorSizeLimit(max(held, parameter_count(self.parameters()))):  # a file may hold only a part
                replay(self, log_from_tensor(saved))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def grow_now(module: Growable, request: GrowthRequest, clock: Clock) -> Any:
    """Grow a module outside a fit, or a submodule during the growth of the module around it."""
    with one_growth(module, request, clock) as (change, result):
        pass
    module.on_growth(change.event)
    return result
