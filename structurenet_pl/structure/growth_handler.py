"""The growth handler of a module: the object that carries out its growth during a fit."""

from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import nn

from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.module_structure import HasGrowthLog


class GrowthHandler(Protocol):
    """Carries out the growth of a module during a fit: chooses the moment, and adapts the optimizer.

    A protocol, because the handler is the ``GrowthQueue`` in ``engine``, which this folder must not import.
    """

    @property
    def tables(self) -> Mapping[Any, Any]:
        """The learning rates by optimizer, empty before optimizers exist."""

    def grow(self, module: HasGrowthLog, request: GrowthRequest) -> Any:
        """Carry the request out, now or at the next safe moment."""

    def grow_when_all_ranks_wait(self, module: HasGrowthLog) -> None:
        """Carry out requests that wait: all processes are at the same point, between two batches."""


# Outside the module, because modules are copied and pickled, and a copy must not report to the handler of the original.
# Weak keys, so that an entry does not keep its module alive.
_HANDLERS: WeakKeyDictionary[nn.Module, GrowthHandler] = WeakKeyDictionary()


def growth_handler_of(module: HasGrowthLog) -> GrowthHandler | None:
    """The growth handler of a module, None outside a fit."""
    return _HANDLERS.get(module)


def set_growth_handlers(module: nn.Module, handler: GrowthHandler | None) -> None:
    """Give a module and all growable modules inside it a growth handler; with None they grow by themselves again."""
    for part in module.modules():
        if isinstance(part, HasGrowthLog):
            _HANDLERS.pop(part, None)
            if handler is not None:
                _HANDLERS[part] = handler
