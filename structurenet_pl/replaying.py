"""Growth logs in checkpoints: how they are checked, repeated, and taken back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, is_tensor
from torch.nn.parameter import is_lazy

from structurenet_pl.events import GrowthEvent, dump_log, load_log
from structurenet_pl.grown import Grown, carry_out, follower_of, founding_of, requested, reversible, set_founding
from structurenet_pl.lightning import isolate_rng
from structurenet_pl.methods import GrowthRequest
from structurenet_pl.snapshots import Snapshot

LOG_KEY = "growth_log"


class ReplayError(RuntimeError):
    """The log of a checkpoint and what this code makes of it do not agree."""


def replay(module: Grown, log: tuple[GrowthEvent, ...]) -> None:
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
        founding = founding_of(module)
        if follower_of(module) is not None or founding is None:
            raise ReplayError(
                f"the module has grown further than the checkpoint, which ends before event {len(log) + 1}, "
                f"{_describe(module.growth_log[len(log)])}, and cannot go back in a fit, or as a copy of the one that "
                "grew. Load it into a module that has not grown."
            )
        founding.restore(module)
        set_founding(module, None)
    module.growth_log = log[: len(module.growth_log)]
    rest = log[len(module.growth_log) :]
    if not rest:
        return
    with isolate_rng(), reversible(module):
        for event in rest:
            change, _ = carry_out(module, _request_anew(module, event), event.clock)
            if (now := _facts(change.event)) != (then := _facts(event)):
                raise ReplayError(
                    f"event {event.clock.generation} of the checkpoint, {_describe(event)}, came out as "
                    f"{_differing(then, now)}, but this code makes it {_differing(now, then)}. Load it with the code "
                    "that wrote it."
                )
            module.growth_log = (*module.growth_log[:-1], event)


def log_from_tensor(saved: Tensor) -> tuple[GrowthEvent, ...]:
    """The growth log that stands in a state dict; somebody may have cast that, or averaged several."""
    return load_log(bytes(saved.double().round().to(torch.uint8).tolist()).decode())


def log_as_tensor(log: tuple[GrowthEvent, ...]) -> Tensor:
    """A growth log as it stands in a state dict."""
    return torch.tensor(list(dump_log(log).encode()), dtype=torch.uint8)


def is_founding(module: Grown, state_dict: Mapping[str, Any]) -> bool:
    """Whether a state dict is that of a grown module from before it had grown, and not just a part of it."""
    founding = founding_of(module)
    return founding is not None and LOG_KEY not in state_dict and founding.is_whole(state_dict)


def _request_anew(module: Grown, event: GrowthEvent) -> GrowthRequest:
    """What was called, to be called again.

    Raises:
        ReplayError: If there is no such method, or it has other arguments.
    """
    try:
        return requested(module, event.method, event.arguments)
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


def check_by_dry_replay(module: Grown, log: tuple[GrowthEvent, ...], shapes: Mapping[str, torch.Size | None]) -> None:
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
        shape = shapes.get(name)
        if is_tensor(tensor) and shape is not None and not is_lazy(tensor) and tensor.shape != shape:
            raise ReplayError(
                f"by its growth log the checkpoint should hold {name!r} of shape {tuple(tensor.shape)}, but it holds "
                f"one of shape {tuple(shape)}. A growth method that decides by data must return what it has "
                'decided, such as {"width": 12}.'
            )


@contextmanager
def unharmed(module: Grown) -> Iterator[None]:
    """If the body of the ``with`` raises, the module is as it was, to the values of its tensors."""
    snapshot, founding = Snapshot(module), founding_of(module)
    tensors = chain(module.parameters(), module.buffers())
    values = [(tensor, tensor.detach().clone()) for tensor in tensors if not is_lazy(tensor)]
    try:
        yield
    except BaseException:
        snapshot.restore()
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        set_founding(module, founding)
        raise


def _describe(event: GrowthEvent) -> str:
    return f"{event.method}({', '.join(f'{name}={value!r}' for name, value in event.arguments.items())})"
