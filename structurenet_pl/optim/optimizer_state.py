"""Optimizer state carried over a change of shape."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.lightning import rank_zero_warn
from structurenet_pl.optim.param_groups import PER_TENSOR_KEYS
from structurenet_pl.optim.probe import PLAIN
from structurenet_pl.optim.state_kinds import ANY_POSITION, Kind, Path, state_kinds, tensors_in
from structurenet_pl.optim.wrappers import with_inner
from structurenet_pl.structure.growth_methods import SecondMoments
from structurenet_pl.structure.tensor_mapping import Successor, embed

OF_ANY_OPTIMIZER = vars(Optimizer([torch.zeros(1)], {})).keys()


class _Unfit(Exception):
    """A state tensor whose entries cannot be told apart."""


def carry(
    name: str, state: Mapping[str, Any], successor: Successor, second_moments: SecondMoments, kinds: Mapping[Path, Kind]
) -> dict[str, Any]:
    """The state of a tensor's successor: old entries keep theirs, new ones start as the optimizer's would.

    Every tensor of the parameter's shape, or with one entry for all in some of its dimensions, is carried, wherever it
    stands. Its new entries are 0 where it follows the gradient; where it follows the size of gradients they are the
    mean of the old ones or 0, as the policy says; where it follows the weights they are the new weights. With Adam, old
    counter and 0 the first steps of a new entry would be two to three times the lr. Counters are kept. A state with a
    tensor of another shape is dropped as a whole, with a warning, or without one by the policy ``"reset"``.

    Args:
        name: Name of the parameter, for the warning.
        state: State of the old tensor.
        successor: What continues it.
        second_moments: Policy for second moments.
        kinds: What is known of the tensors in such a state.
    """
    if not successor.reshaped:
        return dict(state)
    if second_moments == "reset":
        return {}

    def carried(value: Any, path: Path) -> Any:
        if isinstance(value, Tensor):
            return _carry(value, path, successor, second_moments, kinds.get(path))
        if isinstance(value, dict):
            made = copy.copy(value)  # of its own class, such as a defaultdict
            made.update({key: carried(item, (*path, key)) for key, item in value.items()})
            return made
        if type(value) in (list, tuple):
            return type(value)(carried(item, (*path, ANY_POSITION)) for item in value)
        if isinstance(value, deque):
            return deque((carried(item, (*path, ANY_POSITION)) for item in value), value.maxlen)
        if not isinstance(value, PLAIN):
            raise _Unfit(f"{'.'.join(map(str, path))!r} of type {type(value).__name__}")  # it may hold tensors
        return value

    try:
        return {key: carried(value, (key,)) for key, value in state.items()}
    except _Unfit as error:
        rank_zero_warn(
            f"the optimizer state {error} of {name!r} cannot be carried over to shape "
            f"{tuple(successor.tensor.shape)}: the optimizer starts anew for this parameter"
        )
        return {}


def carry_all(
    optimizer: Optimizer,
    successors: Mapping[nn.Parameter, Successor | None],
    second_moments: SecondMoments,
    names: Mapping[nn.Parameter, str],
) -> Callable[[], None]:
    """Give the successors of tensors their state, and drop the state of what is gone; the returned function undoes it.

    Args:
        optimizer: Its state is changed in place, and that of those inside it.
        successors: What has become of tensors; None for gone.
        second_moments: Policy for second moments.
        names: Names of the parameters after the growth.

    Raises:
        ValueError: If an optimizer cannot start anew for a parameter whose state cannot be carried.
    """
    before = [(one, dict(one.state)) for one in with_inner(optimizer)]

    def undo() -> None:
        for one, entries in before:
            one.state.clear()
            one.state.update(entries)

    try:
        check_nothing_outside(
            optimizer, [old for old, successor in successors.items() if successor and successor.reshaped]
        )
        for one, _ in before:
            for old, successor in successors.items():
                if (known := one.state.pop(old, None)) is None or successor is None:
                    continue
                name, ndim = names.get(successor.tensor, ""), successor.tensor.ndim
                kinds = state_kinds(one).of(ndim, one.state) if successor.reshaped else {}
                if carried := carry(name, known, successor, second_moments, kinds):
                    one.state[successor.tensor] = carried
                elif known:
                    check_taken(one, ndim, name, anew=True)
    except BaseException:
        undo()
        raise
    return undo


def check_nothing_outside(optimizer: Optimizer, tensors: Iterable[nn.Parameter]) -> None:
    """Refuse to change the shape of tensors of which an optimizer keeps something outside of its state.

    Raises:
        ValueError: If it keeps tensors of several entries in its groups or attributes, whose shape would stay.
    """
    for one in with_inner(optimizer):
        groups = [
            {key: value for key, value in group.items() if key not in PER_TENSOR_KEYS} for group in one.param_groups
        ]
        others = [value for name, value in vars(one).items() if name not in OF_ANY_OPTIMIZER]
        shapes = {tuple(tensor.shape) for tensor in tensors}
        kept = [tuple(tensor.shape) for _, tensor in tensors_in([groups, others]) if tensor.numel() > 1]
        if found := shapes.intersection(kept):
            raise ValueError(
                f"{type(one).__name__} keeps tensors of shape {sorted(found)} outside of its state, in its groups or "
                "attributes. They could not follow when parameters of this shape are widened or narrowed: use an "
                "optimizer that keeps all of it in its state."
            )


def check_taken(optimizer: Optimizer, ndim: int, name: str, anew: bool = False) -> None:
    """Refuse a parameter that an optimizer under way has no state for, where it cannot start one.

    Args:
        optimizer: The optimizer.
        ndim: Number of dimensions of the parameter.
        name: Its name.
        anew: Whether the optimizer had a state for it, which cannot be carried; else it is new.

    Raises:
        ValueError: If a copy of the optimizer raises an error in this case.
    """
    if (error := state_kinds(optimizer).refusal(ndim, anew)) is not None:
        raise ValueError(
            f"{type(optimizer).__name__} cannot {'start anew for' if anew else 'take'} {name!r} with {ndim} "
            f"dimension(s) in mid-training: a copy that tried raised {error}. Give it to another optimizer with "
            "@growth(like=...), or train with one that takes it."
        )


def _carry(value: Tensor, path: Path, successor: Successor, second_moments: SecondMoments, kind: Kind | None) -> Tensor:
    shape = successor.old_shape
    dims = kind.dims if kind else (True,) * len(shape)
    if dims and value.shape == tuple(size if whole else 1 for size, whole in zip(shape, dims, strict=True)):
        return embed(value, successor, dims, _fill(value, successor, second_moments, kind))
    if kind.single if kind else value.numel() == 1:
        return value
    raise _Unfit(f"{'.'.join(map(str, path))!r} of shape {tuple(value.shape)}")


def _fill(value: Tensor, successor: Successor, second_moments: SecondMoments, kind: Kind | None) -> Tensor:
    """What new entries start as; of a state that nothing is known of, one without negative entries counts as a size."""
    follows = kind.follows if kind else None
    if follows == "weight":
        return successor.tensor.detach().to(value.dtype)
    is_size = follows == "size" or (follows is None and bool((value >= 0).all()))
    if is_size and second_moments == "mean" and value.numel() and value.is_floating_point():
        return value.mean()
    return torch.zeros((), dtype=value.dtype, device=value.device)
