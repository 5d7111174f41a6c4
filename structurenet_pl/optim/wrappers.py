"""The parts of an optimizer's step: the optimizers inside the optimizer, and the closure that computes gradients."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from torch.optim import Optimizer


def with_inner(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and all optimizers inside it, in attributes of any name, at any depth; outermost first."""
    optimizers = {id(optimizer): optimizer}
    for value in vars(optimizer).values():
        for inner in _optimizers_in(value):
            if id(inner) not in optimizers:
                optimizers |= {id(nested): nested for nested in with_inner(inner)}
    return list(optimizers.values())


def hookable_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those inside it, except wrappers without hooks.

    A wrapper that does not call ``Optimizer.__init__`` lacks the private dicts in which torch keeps hooks, and its
    ``register_...`` methods would raise. torch has no public way to ask for that.
    """
    return [one for one in with_inner(optimizer) if hasattr(one, "_optimizer_state_dict_post_hooks")]


def set_groups(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Give an optimizer a list of param groups. A wrapper whose list is a property shows the list of the inner one."""
    with suppress(AttributeError):
        optimizer.param_groups = groups


def closure_of(args: Any, kwargs: Any) -> Callable[[], Any] | None:
    """The closure in the arguments of an optimizer's step, None without one."""
    return args[1] if len(args) > 1 else kwargs.get("closure")


def after_closure(args: Any, kwargs: Any, act: Callable[[], None]) -> tuple[Any, Any] | None:
    """Call a function as soon as the gradients of a step are known.

    Lightning computes gradients in the closure that it passes to the step, so the function is called after the
    closure; without a closure it is called at once.

    Args:
        args: Positional arguments of the step, the optimizer first.
        kwargs: Keyword arguments of the step.
        act: The function.

    Returns:
        Arguments with another closure, for a hook before the step to return, or None if they stay the same.
    """
    closure = closure_of(args, kwargs)
    if closure is None:
        act()
        return None

    def closure_then_act() -> Any:
        loss = closure()
        act()
        return loss

    if len(args) > 1:
        return (args[0], closure_then_act, *args[2:]), kwargs
    return args, {**kwargs, "closure": closure_then_act}


def _optimizers_in(value: Any) -> Iterator[Optimizer]:
    if isinstance(value, Optimizer):
        yield value
    elif isinstance(value, list | tuple):
        yield from (item for item in value if isinstance(item, Optimizer))
    elif isinstance(value, dict):
        yield from (item for item in value.values() if isinstance(item, Optimizer))
