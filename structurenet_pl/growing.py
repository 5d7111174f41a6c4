"""How a module grows: the growth log, its replay, and the way back after an error."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from inspect import getattr_static
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from structurenet_pl.comparison import Change, buffers_of, compare
from structurenet_pl.components import Part, Structure, build, first_wins, founding_roots, refine, with_event
from structurenet_pl.events import Clock, Component, GrowthEvent, dump_log, load_log
from structurenet_pl.lightning import isolate_rng
from structurenet_pl.methods import GrowthMethod, GrowthRequest
from structurenet_pl.snapshots import Founding, Snapshot
from structurenet_pl.successors import forget

LOG_KEY = "growth_log"


class Follower(Protocol):
    """What follows the growth of a module during a fit: it chooses the moment and adapts the optimizer."""

    def grow(self, module: "Growing", request: GrowthRequest) -> Any:
        """Carry the request out, now or at the next safe moment."""

    def meet(self, module: "Growing") -> None:
        """All processes are at the same point, between two batches."""


class Growing(nn.Module):
    """A module with a growth log that travels in its state dict and is replayed before tensors are loaded."""

    growth_log: tuple[GrowthEvent, ...] = ()
    _founders: Mapping[str, Part] | None = None  # None until the first growth: derived from the module as it is
    _outer_patterns: Mapping[str, str] = {}  # roles that a Components callback gives
    _grows: bool = False

    def configure_components(self) -> Mapping[str, str]:
        """Name pattern -> role; the first match wins. Override it to say what the parts of the module are for."""
        return {}

    def on_growth(self, event: GrowthEvent) -> None:
        """Called after the module has grown. Override it to react."""

    @property
    def components(self) -> Mapping[str, Component]:
        """The components by name, in order of depth."""
        return structure_of(self).components

    def request_growth(self, request: GrowthRequest) -> Any:
        """Grow: as a part of the growth under way, or when the follower finds it safe, or now."""
        if self._grows:
            return request.method.function(self, **request.arguments)
        if (follower := _FOLLOWERS.get(self)) is not None:
            return follower.grow(self, request)
        with growing(self, request, self._idle_clock()) as (change, result):
            pass
        self.on_growth(change.event)
        return result

    def meet(self) -> None:
        """Let the follower carry out what waits: all processes are at this point."""
        if (follower := _FOLLOWERS.get(self)) is not None:
            follower.meet(self)

    def _idle_clock(self) -> Clock:
        """The time of a growth outside a fit."""
        return Clock()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.growth_log:
            destination[prefix + LOG_KEY] = torch.tensor(list(dump_log(self.growth_log).encode()), dtype=torch.uint8)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved: Tensor | None = state_dict.pop(prefix + LOG_KEY, None)
        if saved is not None:
            replay(self, load_log(bytes(saved.tolist()).decode()))
        elif (founding := _FOUNDINGS.get(self)) and founding.is_whole(state_dict, prefix):
            replay(self, ())
        super()._load_from_state_dict(state_dict, prefix, *args)


# Not on the module, because it is copied and pickled.
_FOLLOWERS: WeakKeyDictionary[Growing, Follower] = WeakKeyDictionary()
_FOUNDINGS: WeakKeyDictionary[Growing, Founding] = WeakKeyDictionary()


def follow(module: Growing, follower: Follower | None) -> None:
    """Hand the growth of a module over to a follower, or back to the module itself."""
    _FOLLOWERS.pop(module, None)
    if follower is not None:
        _FOLLOWERS[module] = follower


def structure_of(module: nn.Module, patterns: Mapping[str, str] | None = None) -> Structure:
    """The components of a module and their parameters, as they are now.

    Args:
        module: Any module; the log of a growable one is taken into account.
        patterns: Name pattern -> role for a module that cannot grow; one that can knows its own.
    """
    if isinstance(module, Growing):
        return build(module, refine(module, _roots(module), all_patterns(module)))
    return build(module, refine(module, founding_roots(module), patterns or {}))


def remember_patterns(module: Growing, patterns: Mapping[str, str]) -> None:
    """Give roles from outside the class; they go before the module's own."""
    module._outer_patterns = dict(patterns)


def all_patterns(module: Growing) -> dict[str, str]:
    """Name pattern -> role, from outside and of the module itself."""
    return first_wins(module._outer_patterns, module.configure_components())


def growth_log(module: nn.Module) -> tuple[GrowthEvent, ...]:
    """The growth log of a module, empty for one that cannot grow."""
    return module.growth_log if isinstance(module, Growing) else ()


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


@contextmanager
def growing(module: Growing, request: GrowthRequest, clock: Clock) -> Iterator[tuple[Change, Any]]:
    """Grow and log it; if that or the body of the ``with`` raises, the module refers to what it did before.

    Gives the change and what the growth method returned. Values of existing tensors that the method changed in place
    are not taken back.
    """
    snapshot = Snapshot(module)
    before = build(module, _roots(module))
    module._founders = module._founders if module._founders is not None else _roots(module)
    module._grows = True
    try:
        shapes = {tensor: tensor.shape for tensor in before.owner}
        places = dict(module.named_modules())
        buffers = buffers_of(module)
        for tensor in (*before.owner, *buffers.values()):
            forget(tensor)
        # a validation loop runs in inference mode, and parameters born there could never be trained
        with torch.inference_mode(False), torch.enable_grad():
            result = request.method.function(module, **request.arguments)
            numbered = replace(clock, generation=len(module.growth_log) + 1)
            roots, patterns = _roots(module), all_patterns(module)
            change = compare(module, before, shapes, places, buffers, roots, patterns, request, numbered)
        module.growth_log = (*module.growth_log, change.event)
        module._grows = False
        yield change, result
    except BaseException:
        snapshot.restore()
        raise
    names = before.parameter_names
    founding = _FOUNDINGS.setdefault(module, Founding(snapshot, {names[tensor]: shapes[tensor] for tensor in names}))
    founding.note(snapshot)


def replay(module: Growing, log: tuple[GrowthEvent, ...]) -> list[Change]:
    """Grow until the growth log equals the given one; random number generators are left as they are.

    A module that has grown further starts again from the structure it was founded with. Gives what has changed.

    Raises:
        RuntimeError: If the module has grown in another way, or its code no longer does what the log says.
    """
    for mine, theirs in zip(module.growth_log, log, strict=False):
        if mine != theirs:
            raise RuntimeError(
                f"the module has grown in another way than the checkpoint: event {theirs.clock.generation} is "
                f"{_describe(theirs)} there and {_describe(mine)} here. Load it into a module that has not grown."
            )
    if len(module.growth_log) > len(log):
        if module in _FOLLOWERS or module not in _FOUNDINGS:
            raise RuntimeError(
                f"the module has grown further than the checkpoint, which ends before event {len(log) + 1}, "
                f"{_describe(module.growth_log[len(log)])}, and cannot go back in a fit, or as a copy of the one that "
                "grew. Load it into a module that has not grown."
            )
        _FOUNDINGS.pop(module).restore(module)
    changes = []
    for event in log[len(module.growth_log) :]:
        request = GrowthRequest(growth_method(module, event.method), event.arguments)
        with isolate_rng(), growing(module, request, event.clock) as (change, _):
            if not _came_out_alike(change.event, event):
                raise RuntimeError(
                    f"event {event.clock.generation} of the checkpoint, {_describe(event)}, came out as "
                    f"{event.outcome}, but this code makes it {change.event.outcome}. Load it with the code that "
                    "wrote it."
                )
        module.growth_log = (*module.growth_log[:-1], event)
        changes.append(change)
    return changes


def redate_log(module: Growing) -> None:
    """Forget when the events happened: a date means nothing on the clock of another run."""
    module.growth_log = tuple(
        replace(event, clock=Clock(generation=event.clock.generation)) for event in module.growth_log
    )


def _roots(module: Growing) -> dict[str, Part]:
    """The components by structure and growth."""
    founders = module._founders
    roots = dict(founders) if founders is not None else founding_roots(module)
    return reduce(with_event, module.growth_log, roots)


def _came_out_alike(one: GrowthEvent, other: GrowthEvent) -> bool:
    """Whether a growth did the same; names of what is resized depend on patterns, which may be of another Trainer."""
    resized = bool(one.widened) == bool(other.widened) and bool(one.shrunk) == bool(other.shrunk)
    return resized and (one.born, one.removed) == (other.born, other.removed)


def _describe(event: GrowthEvent) -> str:
    return f"{event.method}({', '.join(f'{name}={value!r}' for name, value in event.arguments.items())})"
