"""Carries the optimizer state of a tensor over to the tensor of another shape that continues it."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.lightning import rank_zero_warn
from structurenet_pl.optim.param_groups import PER_TENSOR_KEYS
from structurenet_pl.optim.small_copies import PLAIN_TYPES
from structurenet_pl.optim.state_kinds import ANY_POSITION, Path, StateKind, state_kinds, tensors_in
from structurenet_pl.optim.wrappers import with_inner
from structurenet_pl.structure.embed import embed
from structurenet_pl.structure.growth_methods import SecondMoments
from structurenet_pl.structure.sharded_tensors import sharded_like, whole
from structurenet_pl.structure.tensor_mapping import Successor

ATTRIBUTES_OF_ANY_OPTIMIZER = vars(Optimizer([torch.zeros(1)], {})).keys()


class _CannotCarryError(Exception):
    """A state tensor whose entries cannot be assigned to entries of the parameter."""


def carry_state(
    name: str,
    state: Mapping[str, Any],
    successor: Successor,
    second_moments: SecondMoments,
    kinds: Mapping[Path, StateKind],
) -> dict[str, Any]:
    """The optimizer state of the tensor that continues another.

    Old entries keep their state. Every state tensor is carried that has the parameter's shape, or one entry in place of
    some of its dimensions, at any depth of the state. Its new entries are 0 if it follows the gradient, the mean of the
    old ones or 0, by ``second_moments``, if it follows the size of gradients, and the new weights if it follows these.
    Counters are kept, which is why a second moment starts at the mean: with Adam, an old counter and 0, the first steps
    of a new entry would be two to three times the lr.

    A state with a tensor of another shape is dropped as a whole, with a warning.

    Args:
        name: Name of the parameter, for the warning.
        state: State of the old tensor.
        successor: The tensor that continues it.
        second_moments: Policy for second moments; ``"reset"`` drops the state without a warning.
        kinds: The known kinds of the state's tensors.
    """
    if not successor.reshaped:
        return dict(state)
    if second_moments == "reset":
        return {}

    def carried(value: Any, path: Path) -> Any:
        if isinstance(value, Tensor):
            # one tensor after the other is gathered, so that no process holds the whole state
            carried_whole = _carry_tensor(whole(value), path, successor, second_moments, kinds.get(path))
            return sharded_like(carried_whole, value)
        if isinstance(value, dict):
            made = copy.copy(value)  # keeps its class, such as defaultdict
            made.update({key: carried(item, (*path, key)) for key, item in value.items()})
            return made
        if type(value) in (list, tuple):
            return type(value)(carried(item, (*path, ANY_POSITION)) for item in value)
        if isinstance(value, deque):
            return deque((carried(item, (*path, ANY_POSITION)) for item in value), value.maxlen)
        if not isinstance(value, PLAIN_TYPES):  # it may contain tensors
            raise _CannotCarryError(f"{'.'.join(map(str, path))!r} of type {type(value).__name__}")
        return value

    try:
        return {key: carried(value, (key,)) for key, value in state.items()}
    except _CannotCarryError as error:
        rank_zero_warn(
            f"the optimizer state {error} of {name!r} cannot be carried over to shape "
            f"{tuple(successor.tensor.shape)}: the optimizer starts anew for this parameter"
        )
        return {}


def carry_states(
    optimizer: Optimizer,
    successors: Mapping[nn.Parameter, Successor | None],
    second_moments: SecondMoments,
    names: Mapping[nn.Parameter, str],
) -> Callable[[], None]:
    """Carry the state of all tensors to their successors, and drop the state of removed tensors.

    Args:
        optimizer: Its state, and the state of optimizers inside it, is changed in place.
        successors: The tensors that continue others, None for a removed tensor.
        second_moments: Policy for second moments.
        names: Names of the parameters after the growth.

    Returns:
        A function that restores the state.

    Raises:
        ValueError: If an optimizer cannot start anew for a parameter whose state cannot be carried.
    """
    before = [(one, dict(one.state)) for one in with_inner(optimizer)]

    def undo() -> None:
        for one, entries in before:
            one.state.clear()
            one.state.update(entries)

    try:
        check_no_tensors_outside_state(
            optimizer, [old for old, successor in successors.items() if successor and successor.reshaped]
        )
        for one, _ in before:
            for old, successor in successors.items():
                if (state := one.state.pop(old, None)) is None or successor is None:
                    continue
                name, ndim = names.get(successor.tensor, ""), successor.tensor.ndim
                kinds = state_kinds(one).of(ndim, one.state) if successor.reshaped else {}
                if carried := carry_state(name, state, successor, second_moments, kinds):
                    one.state[successor.tensor] = carried
                elif state:
                    check_accepts_parameter(one, ndim, name, had_state=True)
    except BaseException:  # KeyboardInterrupt, too: the growth is undone, and the state must fit the old tensors
        undo()
        raise
    return undo


def check_no_tensors_outside_state(optimizer: Optimizer, reshaped: Iterable[nn.Parameter]) -> None:
    """Refuse to change the shape of a parameter if the optimizer keeps tensors of that shape outside of its state.

    Args:
        optimizer: The optimizer; those inside it are checked, too.
        reshaped: The old parameters that continue with another shape.

    Raises:
        ValueError: If its groups or attributes hold such a tensor, which would keep the old shape.
    """
    shapes = {tuple(tensor.shape) for tensor in reshaped}
    if not shapes:
        return
    for one in with_inner(optimizer):
        groups = [
            {key: value for key, value in group.items() if key not in PER_TENSOR_KEYS} for group in one.param_groups
        ]
        attributes = [value for name, value in vars(one).items() if name not in ATTRIBUTES_OF_ANY_OPTIMIZER]
        kept = [tuple(tensor.shape) for _, tensor in tensors_in([groups, attributes]) if tensor.numel() > 1]
        if common := shapes.intersection(kept):
            raise ValueError(
                f"{type(one).__name__} keeps tensors of shape {sorted(common)} outside of its state, in its groups or "
                "attributes. They could not follow when parameters of this shape are widened or narrowed: use an "
                "optimizer that keeps all tensors in its state."
            )


def check_accepts_parameter(optimizer: Optimizer, ndim: int, name: str, had_state: bool = False) -> None:
    """Refuse a parameter for which an optimizer in mid-training cannot start a state.

    Args:
        optimizer: The optimizer.
        ndim: Number of dimensions of the parameter.
        name: Name of the parameter.
        had_state: Whether the optimizer had a state for it, which cannot be carried; else the parameter is new.

    Raises:
        ValueError: If a small copy of the optimizer raises an error in this case.
    """
    if (error := state_kinds(optimizer).refusal(ndim, had_state)) is not None:
        raise ValueError(
            f"{type(optimizer).__name__} cannot {'start anew for' if had_state else 'take'} {name!r} with {ndim} "
            f"dimension(s) in mid-training: a copy that tried raised {error}. Give the parameter to another optimizer "
            "with @growth(like=...), or train with an optimizer that accepts it."
        )


def _carry_tensor(
    value: Tensor, path: Path, successor: Successor, second_moments: SecondMoments, kind: StateKind | None
) -> Tensor:
    shape = successor.old_shape
    dims = kind.dims if kind else (True,) * len(shape)
    if dims and value.shape == tuple(size if is_full else 1 for size, is_full in zip(shape, dims, strict=True)):
        return embed(value, successor, dims, _initial_value(value, successor, second_moments, kind))
    if kind.single if kind else value.numel() == 1:
        return value
    raise _CannotCarryError(f"{'.'.join(map(str, path))!r} of shape {tuple(value.shape)}")


def _initial_value(
    value: Tensor, successor: Successor, second_moments: SecondMoments, kind: StateKind | None
) -> Tensor:
    """The value of new entries. If the kind is not known, a state without negative entries counts as a size."""
    follows = kind.follows if kind else None
    if follows == "weight":
        return whole(successor.tensor.detach()).to(value.dtype)
    is_size = follows == "size" or (follows is None and bool((value >= 0).all()))
    if is_size and second_moments == "mean" and value.numel() and value.is_floating_point():
        return value.mean()
    return torch.zeros((), dtype=value.dtype, device=value.device)
