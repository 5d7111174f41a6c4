"""Optimizers that wrap others."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch.optim import Optimizer


def with_inner(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it wraps, however deep, in attributes of any name; outermost first."""
    found = {id(optimizer): optimizer}
    for value in vars(optimizer).values():
        for inner in _optimizers_in(value):
            if id(inner) not in found:
                found |= {id(one): one for one in with_inner(inner)}
    return list(found.values())


def hookable(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it wraps, but for wrappers that skip ``Optimizer.__init__`` and so take no hooks."""
    return [one for one in with_inner(optimizer) if hasattr(one, "_optimizer_state_dict_post_hooks")]


def _optimizers_in(value: Any) -> Iterator[Optimizer]:
    if isinstance(value, Optimizer):
        yield value
    elif isinstance(value, list | tuple):
        yield from (item for item in value if isinstance(item, Optimizer))
    elif isinstance(value, dict):
        yield from (item for item in value.values() if isinstance(item, Optimizer))


def set_groups(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Give an optimizer a list of param groups; a wrapper whose list is a property shows that of the one inside."""
    with suppress(AttributeError):
        optimizer.param_groups = groups
