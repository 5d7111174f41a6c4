"""What growth makes of a module: its log and its structure, one growth, and the way back after an error."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from inspect import getattr_static
from itertools import chain
from operator import is_
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

from structurenet_pl.structure.change import Change
from structurenet_pl.structure.diff import compare, concerned
from structurenet_pl.structure.events import Clock, GrowthEvent
from structurenet_pl.structure.founding import Founding
from structurenet_pl.structure.growth_methods import GrowthMethod, GrowthRequest
from structurenet_pl.structure.partition import (
    Part,
    Structure,
    all_names,
    build,
    first_wins,
    founding_roots,
    refine,
    with_event,
)
from structurenet_pl.structure.rollback import Snapshot
from structurenet_pl.structure.tensor_mapping import forget, shape_of, take_copied

Arguments = Mapping[str, Any]


class GrowthHandler(Protocol):
    """What follows the growth of a module during a fit: it chooses the moment and adapts the optimizer."""

    tables: Mapping[Any, Any]
    """The learning rates of its optimizers, empty before there are any."""

    def grow(self, module: "HasGrowthLog", request: GrowthRequest) -> Any:
        """Carry the request out, now or at the next safe moment."""

    def grow_when_all_ranks_wait(self, module: "HasGrowthLog") -> None:
        """All processes are at the same point, between two batches."""


class HasGrowthLog(nn.Module):
    """A module with a growth log, and what it takes to find its components by that."""

    growth_log: tuple[GrowthEvent, ...] = ()
    _founders: Mapping[str, Part] | None = None  # None until the first growth: derived from the module as it is
    _outer_patterns: Mapping[str, str] = {}  # roles that a Components callback gives
    _grows: bool = False

    def configure_components(self) -> Mapping[str, str]:
        """Name pattern -> role; the first match wins. Override it to say what the parts of the module are for."""
        return {}


# Not on the module, because it is copied and pickled.
_HANDLERS: WeakKeyDictionary[HasGrowthLog, GrowthHandler] = WeakKeyDictionary()
_FOUNDINGS: WeakKeyDictionary[HasGrowthLog, Founding] = WeakKeyDictionary()
_ROOTS: WeakKeyDictionary[HasGrowthLog, tuple[Mapping[str, Part], tuple[GrowthEvent, ...], Mapping[str, Part]]] = (
    WeakKeyDictionary()
)
_STRUCTURES: WeakKeyDictionary[HasGrowthLog, tuple[Mapping[str, Part], list[tuple[str, str]], Structure]] = (
    WeakKeyDictionary()
)


def set_growth_handler(module: HasGrowthLog, handler: GrowthHandler | None) -> None:
    """Hand the growth of a module over to a handler, or back to the module itself."""
    _HANDLERS.pop(module, None)
    if handler is not None:
        _HANDLERS[module] = handler


def growth_handler_of(module: HasGrowthLog) -> GrowthHandler | None:
    """What follows the growth of a module, None outside a fit."""
    return _HANDLERS.get(module)


def founding_of(module: HasGrowthLog) -> Founding | None:
    """What a module was before it grew, None if it has not grown, or is a copy of one that has."""
    return _FOUNDINGS.get(module)


def forget_structure(module: HasGrowthLog) -> None:
    """Hold no parameters that the module may no longer have; its structure is found anew when it is asked for."""
    _STRUCTURES.pop(module, None)


def set_founding(module: HasGrowthLog, founding: Founding | None) -> None:
    """Say what a module was before it grew."""
    forget_structure(module)
    _FOUNDINGS.pop(module, None)
    if founding is not None:
        _FOUNDINGS[module] = founding


def structure_of(module: nn.Module, patterns: Mapping[str, str] | None = None) -> Structure:
    """The components of a module and their parameters, as they are now.

    Args:
        module: Any module; the log of a growable one is taken into account.
        patterns: Name pattern -> role for a module that cannot grow; one that can knows its own.
    """
    if isinstance(module, HasGrowthLog):
        return _structure(module, all_names(module), _roots(module), all_patterns(module))
    return build(all_names(module), refine(module, founding_roots(module), patterns or {}))


def remember_patterns(module: HasGrowthLog, patterns: Mapping[str, str]) -> None:
    """Give roles from outside the class; they go before the module's own."""
    module._outer_patterns = dict(patterns)


def all_patterns(module: HasGrowthLog) -> dict[str, str]:
    """Name pattern -> role, from outside and of the module itself."""
    return first_wins(module._outer_patterns, module.configure_components())


def growth_log(module: nn.Module) -> tuple[GrowthEvent, ...]:
    """The growth log of a module, empty for one that cannot grow."""
    return module.growth_log if isinstance(module, HasGrowthLog) else ()


def growth_method(module: nn.Module, name: str) -> GrowthMethod:
    """The growth method of this name.

    Raises:
        AttributeError: If the module has none.
    """
    method = getattr_static(type(module), name, None)
    if not isinstance(method, GrowthMethod):
        known = [key for key in dir(type(module)) if isinstance(getattr(type(module), key, None), GrowthMethod)]
        raise AttributeError(
            f"{type(module).__name__} has no growth method {name!r}, only {known}: mark the method with @growth() in a "
            "GrowableModule."
        )
    return method


def requested(module: nn.Module, name: str, arguments: Mapping[str, Any]) -> GrowthRequest:
    """The call of a growth method by its name.

    Raises:
        AttributeError: If the module has none of this name.
        TypeError: If the arguments do not fit it.
    """
    method = growth_method(module, name)
    return GrowthRequest(method, method.bind_arguments(module, **arguments))


def check_leads_back(module: nn.Module, method: GrowthMethod) -> None:
    """Refuse a growth that a log could not repeat, because its name leads to something else.

    Raises:
        TypeError: If the class has another attribute by the name of the method, or none.
    """
    found = getattr_static(type(module), method.name, None)
    if found is not method:
        raise TypeError(
            f"{type(module).__name__}.{method.name} is {found!r}, not the growth method that was called, so a "
            "checkpoint could not be loaded: mark an override with @growth(), too (it may call super()), and put "
            "@growth() above all other decorators."
        )


@contextmanager
def one_growth(
    module: HasGrowthLog,
    request: GrowthRequest,
    clock: Clock,
    decided: Callable[[Arguments], Arguments] = lambda own: own,
) -> Iterator[tuple[Change, Any]]:
    """Grow and log it; if that or the body of the ``with`` raises, the module refers to what it did before.

    Gives the change and what the growth method returned. Values of existing tensors that the method changed in place
    are not taken back.

    Args:
        module: The module.
        request: What is called.
        clock: When.
        decided: Told the arguments that the method has decided, gives those that count: where they are others, the
            growth is taken back, and done with these.
    """
    with reversible(module) as snapshot:
        change, result = carry_out(module, request, clock)
        if (arguments := decided(change.event.arguments)) != change.event.arguments:
            snapshot.restore()
            change, result = carry_out(module, replace(request, arguments=arguments), clock)
        yield change, result


@contextmanager
def reversible(module: HasGrowthLog) -> Iterator[Snapshot]:
    """If the body of the ``with`` raises, the module refers to what it did before; else its founding is noted."""
    snapshot = Snapshot(module)
    founding = _FOUNDINGS.get(module) or Founding(module, snapshot)
    try:
        yield snapshot
    except BaseException:
        snapshot.restore()
        forget_structure(module)
        raise
    founding.note(snapshot)
    _FOUNDINGS[module] = founding


def carry_out(module: HasGrowthLog, request: GrowthRequest, clock: Clock) -> tuple[Change, Any]:
    """Grow and log it. Gives the change and what the growth method returned.

    It leaves the module anyhow if it raises: see :func:`reversible`.
    """
    roots = _roots(module)
    before = _structure(module, all_names(module), roots, {})
    module._founders = module._founders if module._founders is not None else roots
    module._grows = True
    shapes = {name: shape_of(tensor) for tensors in before.parameters.values() for name, tensor in tensors.items()}
    places = dict(module.named_modules())
    forget(chain(before.owner, module.buffers()))
    # a validation loop runs in inference mode, and parameters born there could never be trained
    with torch.inference_mode(False), torch.enable_grad():
        result = request.method.function(module, **request.arguments)
        request = request.decided(result)
        numbered = replace(clock, generation=len(module.growth_log) + 1)
        names = all_names(module)
        event, successors = compare(module, names, before, shapes, places, roots, request, numbered)
    grown = with_event(roots, event)
    structure = _structure(module, names, grown, all_patterns(module))
    event = concerned(request, event, before, structure, successors)
    module.growth_log = (*module.growth_log, event)
    module._grows = False
    _ROOTS[module] = module._founders, module.growth_log, grown
    copied = take_copied(chain(module.parameters(), module.buffers()))
    return Change(event, structure, successors, copied, request.method.second_moments, request.method.like), result


def log_instead(module: HasGrowthLog, event: GrowthEvent) -> None:
    """Log an event in the place of the last one, which repeats it and so has made the same components."""
    founders, _, roots = _ROOTS[module]
    module.growth_log = (*module.growth_log[:-1], event)
    _ROOTS[module] = founders, module.growth_log, roots


def forget_dates(module: HasGrowthLog) -> None:
    """Forget when the events happened: a date means nothing on the clock of another run."""
    module.growth_log = tuple(
        replace(event, clock=Clock(generation=event.clock.generation)) for event in module.growth_log
    )


def _roots(module: HasGrowthLog) -> Mapping[str, Part]:
    """The components by structure and growth; what is known of a part of the log is continued."""
    founders, log = module._founders, module.growth_log
    if founders is None:
        return founding_roots(module)
    known_founders, known_log, roots = _ROOTS.get(module, (None, (), founders))
    if known_founders is not founders or len(known_log) > len(log) or not all(map(is_, known_log, log)):
        known_log, roots = (), founders
    roots = reduce(with_event, log[len(known_log) :], roots)
    _ROOTS[module] = founders, log, roots
    return roots


def _structure(
    module: HasGrowthLog, names: Mapping[str, nn.Parameter], roots: Mapping[str, Part], patterns: Mapping[str, str]
) -> Structure:
    """The structure that a module has, which is found anew only if something has changed."""
    known_roots, known_patterns, known = _STRUCTURES.get(module, (None, [], None))
    in_order = list(patterns.items())  # the first match wins
    if known is None or known_roots is not roots or known_patterns != in_order or not known.has(names):
        known = build(names, refine(module, roots, patterns))
        _STRUCTURES[module] = roots, in_order, known
    return known
