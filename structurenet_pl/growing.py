"""How a module grows: the growth log, its replay, and the way back after an error."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from inspect import getattr_static
from itertools import chain
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, is_tensor, nn
from torch.nn.parameter import is_lazy

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
        check_leads_back(self, request.method)
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

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load growth and tensors. If that raises, the module is as it was.

        A state dict without a log, but with all tensors that the module was founded with, takes its growth back; with
        ``strict=False`` it is loaded into the module as it has grown.
        """
        with _unharmed(self):
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
            log = load_log(bytes(saved.tolist()).decode())
            shapes = {key.removeprefix(prefix): tensor.shape for key, tensor in state_dict.items() if is_tensor(tensor)}
            _check_by_dry_replay(self, log, shapes)
            replay(self, log)
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
            request = request.decided(result)
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


def log_as_tensor(log: tuple[GrowthEvent, ...]) -> Tensor:
    """A growth log as it stands in a state dict."""
    return torch.tensor(list(dump_log(log).encode()), dtype=torch.uint8)


def is_founding(module: Growing, state_dict: Mapping[str, Any]) -> bool:
    """Whether a state dict is that of a grown module from before it had grown, and not just a part of it."""
    founding = _FOUNDINGS.get(module)
    return founding is not None and LOG_KEY not in state_dict and founding.is_whole(state_dict)


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


class ReplayError(RuntimeError):
    """The log of a checkpoint and what this code makes of it do not agree."""


def replay(module: Growing, log: tuple[GrowthEvent, ...]) -> None:
    """Grow until the growth log equals the given one; random number generators are left as they are.

    A module that has grown further starts again from the structure it was founded with. What was done counts, not when:
    the dates are those of the given log.

    Raises:
        ReplayError: If the module has grown in another way, or its code no longer does what the log says.
    """
    for mine, theirs in zip(module.growth_log, log, strict=False):
        if mine != replace(theirs, clock=mine.clock):
            raise ReplayError(
                f"the module has grown in another way than the checkpoint: event {theirs.clock.generation} is "
                f"{_describe(theirs)} there and {_describe(mine)} here. Load it into a module that has not grown."
            )
    if len(module.growth_log) > len(log):
        if module in _FOLLOWERS or module not in _FOUNDINGS:
            raise ReplayError(
                f"the module has grown further than the checkpoint, which ends before event {len(log) + 1}, "
                f"{_describe(module.growth_log[len(log)])}, and cannot go back in a fit, or as a copy of the one that "
                "grew. Load it into a module that has not grown."
            )
        _FOUNDINGS.pop(module).restore(module)
    module.growth_log = log[: len(module.growth_log)]
    for event in log[len(module.growth_log) :]:
        with isolate_rng(), growing(module, _request_anew(module, event), event.clock) as (change, _):
            if (now := _facts(change.event)) != (then := _facts(event)):
                raise ReplayError(
                    f"event {event.clock.generation} of the checkpoint, {_describe(event)}, came out as "
                    f"{_differing(then, now)}, but this code makes it {_differing(now, then)}. Load it with the code "
                    "that wrote it."
                )
        module.growth_log = (*module.growth_log[:-1], event)


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


def _request_anew(module: Growing, event: GrowthEvent) -> GrowthRequest:
    """What was called, to be called again.

    Raises:
        ReplayError: If there is no such method, or it has other arguments.
    """
    try:
        method = growth_method(module, event.method)
        return GrowthRequest(method, method.bind(module, **event.arguments))
    except (AttributeError, TypeError) as error:
        raise ReplayError(
            f"event {event.clock.generation} of the checkpoint, {_describe(event)}, cannot be repeated: {error} If a "
            "method was renamed, keep its old name, too (old_name = new_name in the class). If arguments were renamed, "
            "load the checkpoint with the code that wrote it."
        ) from error


def _facts(event: GrowthEvent) -> dict[str, Any]:
    """What a growth has done, as far as it does not depend on patterns, which may be of another Trainer."""
    return {
        "generation": event.clock.generation,
        "born": event.born,
        "removed": event.removed,
        "widened": bool(event.widened),
        "shrunk": bool(event.shrunk),
        "role": event.role,
        "depth": event.depth,
        "beside": event.beside,
    }


def _differing(some: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in some.items() if value != others[key]}


def _check_by_dry_replay(module: Growing, log: tuple[GrowthEvent, ...], shapes: Mapping[str, torch.Size]) -> None:
    """Check a log against the shapes of the tensors beside it on a copy without storage, before anything is changed.

    A growth method that looks at values cannot be tried in this way, and is not.

    Raises:
        ReplayError: If the log makes other tensors, or this code something else of it.
    """
    if len(log) <= len(module.growth_log):
        return  # nothing grows
    tensors = [*module.parameters(), *module.buffers()]
    try:
        copy = deepcopy(module, {id(tensor): tensor.to("meta") for tensor in tensors if not is_lazy(tensor)})
        with torch.device("meta"):
            replay(copy, log)
    except ReplayError:
        raise
    except Exception:  # in whatever way the code of a module needs values
        return
    for name, tensor in copy.state_dict().items():
        if is_tensor(tensor) and name in shapes and not is_lazy(tensor) and tensor.shape != shapes[name]:
            raise ReplayError(
                f"by its growth log the checkpoint should hold {name!r} of shape {tuple(tensor.shape)}, but it holds "
                f"one of shape {tuple(shapes[name])}. A growth method that decides by data must return what it has "
                'decided, such as {"width": 12}.'
            )


@contextmanager
def _unharmed(module: Growing) -> Iterator[None]:
    """If the body of the ``with`` raises, the module is as it was, to the values of its tensors."""
    snapshot, founding = Snapshot(module), _FOUNDINGS.get(module)
    tensors = chain(module.parameters(), module.buffers())
    values = [(tensor, tensor.detach().clone()) for tensor in tensors if not is_lazy(tensor)]
    try:
        yield
    except BaseException:
        snapshot.restore()
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        _FOUNDINGS.pop(module, None)
        if founding is not None:
            _FOUNDINGS[module] = founding
        raise


def _describe(event: GrowthEvent) -> str:
    return f"{event.method}({', '.join(f'{name}={value!r}' for name, value in event.arguments.items())})"
