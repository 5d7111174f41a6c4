"""Growth logs in checkpoints: how they are checked, repeated, and taken back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from structurenet_pl.structure.events import GrowthEvent, dump_log, load_log
from structurenet_pl.structure.founding import holds
from structurenet_pl.structure.grow import (
    HasGrowthLog,
    carry_out,
    founding_of,
    growth_handler_of,
    log_instead,
    requested,
    reversible,
    set_founding,
)
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.random_states import kept_rng
from structurenet_pl.structure.rollback import Snapshot
from structurenet_pl.structure.tensor_mapping import shape_of

LOG_KEY = "growth_log"
EXTRA_ENTRIES = 1_000_000  # entries; what a growth method needs on its way


class ReplayError(RuntimeError):
    """The log of a checkpoint and what this code makes of it do not all_ranks_wait."""


def replay(module: HasGrowthLog, log: tuple[GrowthEvent, ...]) -> None:
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
                f"{theirs.called} there and {mine.called} here. Load it into a module that has not grown."
            )
    handler = growth_handler_of(module)
    if len(module.growth_log) > len(log):
        founding = founding_of(module)
        if handler is not None or founding is None:
            raise ReplayError(
                f"the module has grown further than the checkpoint, which ends before event {len(log) + 1}, "
                f"{module.growth_log[len(log)].called}, and cannot go back in a fit, or as a copy of the one that "
                "grew. Load it into a module that has not grown."
            )
        founding.restore(module)
        set_founding(module, None)
    module.growth_log = log[: len(module.growth_log)]
    rest = log[len(module.growth_log) :]
    if not rest:
        return
    if handler is not None and handler.tables:
        raise ReplayError(
            f"the checkpoint has grown further than the module, by {len(rest)} event(s) from {rest[0].called} on, "
            "and no optimizer would train what that adds in the middle of a fit: load it before the fit starts, or by "
            "fit(ckpt_path=...)."
        )
    with kept_rng(), reversible(module):
        for event in rest:
            change, _ = carry_out(module, _request_anew(module, event), event.clock)
            if (now := _facts(change.event)) != (then := _facts(event)):
                raise ReplayError(
                    f"event {event.clock.generation} of the checkpoint, {event.called}, came out as "
                    f"{_differing(then, now)}, but this code makes it {_differing(now, then)}. Load it with the code "
                    "that wrote it."
                )
            if strangers := [name for name in event.adjacent if not change.structure.knows(name)]:
                raise ReplayError(
                    f"event {event.clock.generation} of the checkpoint, {event.called}, names the neighbours "
                    f"{strangers}, which are none of the components {list(change.structure.components)} nor parts of "
                    "them. Load it with the code that wrote it."
                )
            log_instead(module, event)


def log_from_tensor(saved: Tensor) -> tuple[GrowthEvent, ...]:
    """The growth log that stands in a state dict; somebody may have cast that, or averaged several."""
    return load_log(bytes(saved.double().round().to(torch.uint8).tolist()).decode())


def log_as_tensor(log: tuple[GrowthEvent, ...]) -> Tensor:
    """A growth log as it stands in a state dict."""
    return torch.tensor(list(dump_log(log).encode()), dtype=torch.uint8)


def is_founding(module: HasGrowthLog, state_dict: Mapping[str, Any]) -> bool:
    """Whether a state dict is that of a grown module from before it had grown, and not just a part of it."""
    founding = founding_of(module)
    if founding is None or LOG_KEY in state_dict or not founding.is_whole(state_dict):
        return False
    now = {name: shape_of(tensor) for name, tensor in module.named_parameters()}
    return not (founding.names <= now.keys() and holds(state_dict, now))  # as an average has it, without the log


def _request_anew(module: HasGrowthLog, event: GrowthEvent) -> GrowthRequest:
    """What was called, to be called again.

    Raises:
        ReplayError: If there is no such method, or it has other arguments.
    """
    try:
        return requested(module, event.method, event.arguments)
    except (AttributeError, TypeError) as error:
        raise ReplayError(
            f"event {event.clock.generation} of the checkpoint, {event.called}, cannot be repeated: {error} If a "
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
        "moved": event.moved,
        "role": event.role,
        "depth": event.depth,
        "beside": event.beside,
    }


def _differing(some: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in some.items() if value != others[key]}


class Bounded(TorchDispatchMode):
    """Refuses to make tensors that are larger than all that a checkpoint or the module holds, before memory is taken.

    Args:
        entries: The number of entries in the larger of the two.
    """

    supports_higher_order_operators = True  # else torch would refuse these under it

    def __init__(self, entries: int) -> None:
        super().__init__()
        self._most = entries + EXTRA_ENTRIES

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = getattr(function, "_schema", None)  # private; operators of higher order have none
        names = [argument.name for argument in schema.arguments] if schema else []
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        size = given.get("size", ())
        if "self" not in given and isinstance(size, list | tuple) and prod(size) > self._most:
            raise ReplayError(
                f"by its growth log the checkpoint should hold a tensor of shape {tuple(size)}, but what it holds, and "
                f"the module, have no more than {self._most - EXTRA_ENTRIES} entries. Load it with the code that wrote "
                "it."
            )
        return function(*args, **(kwargs or {}))


@contextmanager
def unharmed(module: HasGrowthLog) -> Iterator[None]:
    """If the body of the ``with`` raises, the module is as it was, to the values of its tensors."""
    snapshot, founding = Snapshot(module), founding_of(module)
    tensors = chain(module.parameters(), module.buffers())
    values = [(tensor, tensor.detach().clone()) for tensor in tensors if not is_lazy(tensor)]
    try:
        yield
    except BaseException:
        snapshot.restore()
        set_founding(module, founding)
        with torch.no_grad():
            for tensor, value in values:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        raise
