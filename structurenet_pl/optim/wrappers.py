"""Optimizers that wrap others."""

from collections.abc import Callable, Iterator
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


def hookable_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it wraps, but for wrappers that skip ``Optimizer.__init__`` and so take no hooks."""
    return [one for one in with_inner(optimizer) if hasattr(one, "_optimizer_state_dict_post_hooks")]


def _optimizers_in(value: Any) -> Iterator[Optimizer]:
    if isinstance(value, Optimizer):
        yield value
    elif isinstance(value, list | tuple):
        yield from (item for item in value if isinstance(item, Optimizer))
    elif isinstance(value, dict):
        yield from (item for item in value.values() if isinstance(item, Optimizer))


def closure_of(args: Any, kwargs: Any) -> Callable[[], Any] | None:
    """The closure that an optimizer's step is given."""
    return args[1] if len(args) > 1 else kwargs.get("closure")


def after_closure(args: Any, kwargs: Any, act: Callable[[], None]) -> tuple[Any, Any] | None:
    """Do something when the closure of an optimizer's step has made the gradients; at once if it has none.

    Args:
        args: Of the step, the optimizer first.
        kwargs: Of the step.
        act: What is done.

    Returns:
        The arguments with another closure, None for the same.
    """
    closure = closure_of(args, kwargs)
    if closure is None:
        act()
        return None

    def closed() -> Any:
        loss = closure()
        act()
        return loss

    return ((args[0], closed, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": closed})


def set_groups(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Give an optimizer a list of param groups; a wrapper whose list is a property shows that of the one inside."""
    with suppress(AttributeError):
        optimizer.param_groups = groups
