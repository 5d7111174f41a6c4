"""Param groups by component: their names and components, making them, and a check that no tensor is lost."""

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.structure.partition import Structure

Group = dict[str, Any]
PER_TENSOR_KEYS = ("params", "param_names")  # keys of a group whose values are lists with one entry for each tensor
EMPTY = "empty"  # stands for the component in a group without tensors
OUTSIDE = "outside"  # stands for the component, and the name, of tensors that are not the module's


@dataclass(frozen=True)
class GroupInfo:
    """The component and the origin of a param group.

    Args:
        name: Unique name of the group.
        component: Name of the component whose tensors it holds.
        origin: Position of the user's group that it is a piece of.
        suffix: Distinguishes pieces of this user's group from pieces of other groups in names.
        is_1d: Whether it holds one-dimensional tensors, set apart for a factor that does not act on them.
    """

    name: str
    component: str
    origin: int
    suffix: str = ""
    is_1d: bool = False


def leading_groups(infos: Iterable[GroupInfo]) -> dict[str, str]:
    """The one group that stands for each component in summaries.

    It is the first group of the component with tensors of several dimensions, else the first one.

    Returns:
        Component name -> group name.
    """
    leading: dict[str, str] = {}
    for info in sorted(infos, key=lambda info: info.is_1d):
        leading.setdefault(info.component, info.name)
    return leading


def component_runs(
    params: Sequence[Tensor], structure: Structure, split_1d: bool
) -> Iterator[tuple[str, bool, list[int]]]:
    """Split the tensors of a group into maximal runs of consecutive tensors of one component.

    No tensor changes its place in the order, because sums over all gradients, such as their norm, would then differ
    from those of the unsplit optimizer in the last bit.

    Args:
        params: The tensors of one group.
        structure: Maps tensors to components.
        split_1d: Whether one-dimensional tensors form runs of their own.

    Yields:
        Component name, whether the tensors have one dimension and were set apart, and their positions.
    """

    def component_and_is_1d(index: int) -> tuple[str, bool]:
        tensor = params[index]
        return structure.owner.get(cast(nn.Parameter, tensor), OUTSIDE), split_1d and tensor.ndim <= 1

    for (component, is_1d), run in groupby(range(len(params)), component_and_is_1d):
        yield component, is_1d, list(run)


def make_piece(group: Mapping[str, Any], per_tensor_lists: dict[str, list[Any]], name: str) -> Group:
    """A group with other tensors and another name, and all settings of the given group."""
    return (
        {key: copy_if_mutable(value) for key, value in settings_of(group).items()} | per_tensor_lists | {"name": name}
    )


def settings_of(group: Mapping[str, Any]) -> Group:
    """The entries of a group except its tensors, their names, and its own name."""
    return {key: value for key, value in group.items() if key not in PER_TENSOR_KEYS and key != "name"}


def copy_if_mutable(value: Any) -> Any:
    """The value, or a copy if it can be changed in place: groups must not share such a value."""
    if isinstance(value, Tensor):
        return value.clone()
    return copy.deepcopy(value) if isinstance(value, list | dict | set) else value


def unique_name(component: str, suffix: str, used: Collection[str], is_1d: bool) -> str:
    """The name of the component, with ``/suffix`` and a number where another group has that name.

    Example:
        >>> unique_name("body.0", "no_decay", ["body.0"], is_1d=False)
        'body.0/no_decay'
        >>> unique_name("body.0", "", ["body.0"], is_1d=False)
        'body.0/2'
    """
    if component not in used and not is_1d:
        return component
    suffix = "1d" if is_1d else suffix
    stem = f"{component}/{suffix}" if suffix else component
    names = (stem if number == 1 else f"{stem}/{number}" for number in range(1, len(used) + 2))
    return next(name for name in names if name not in used)


def info_of_emptied_piece(info: GroupInfo, used: Collection[str]) -> GroupInfo:
    """The info of a piece that has lost its last tensor, named like the piece of a group that was always empty."""
    return replace(info, name=unique_name(EMPTY, info.suffix, used, is_1d=False), component=EMPTY, is_1d=False)


def membership_counts(optimizers: Iterable[Optimizer]) -> Counter[Tensor]:
    """The number of param groups that hold each tensor."""
    return Counter(tensor for optimizer in optimizers for group in optimizer.param_groups for tensor in group["params"])


def audit(optimizers: Iterable[Optimizer], expected: Mapping[Tensor, int]) -> None:
    """Check that a change of groups has neither lost nor doubled a parameter.

    Args:
        optimizers: The optimizers whose groups were changed.
        expected: The number of groups that must hold each parameter.

    Raises:
        RuntimeError: If another number of groups holds a parameter. That is a defect of this package.
    """
    if (counts := membership_counts(optimizers)) != Counter(expected):
        wrong = {tuple(tensor.shape): counts[tensor] for tensor in counts | Counter(expected)}
        raise RuntimeError(
            f"parameters were lost or doubled; shape -> number of param groups that hold it: {wrong}. This is a defect "
            "of structurenet_pl: please report it with the growth method that was called."
        )
