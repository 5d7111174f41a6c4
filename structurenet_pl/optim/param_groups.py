"""Param groups by component: what each stands for, where newborn tensors go, and whether all are there."""

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
PER_TENSOR_KEYS = ("params", "param_names")
EMPTY = "empty"  # in the place of a component, in a group without tensors


@dataclass(frozen=True)
class GroupInfo:
    """What a param group stands for.

    Args:
        name: Unique name of the group.
        component: Name of the component whose tensors it holds.
        origin: Number of the user's own group that it is a piece of.
        suffix: What tells the pieces of this group from those of the user's others.
        is_1d: Whether it holds one-dimensional tensors, set apart for a factor that leaves them alone.
    """

    name: str
    component: str
    origin: int
    suffix: str = ""
    is_1d: bool = False


def leading(slots: Iterable[GroupInfo]) -> dict[str, str]:
    """Component -> the group that speaks for it: its first, if possible one with tensors of several dimensions."""
    found: dict[str, str] = {}
    for slot in sorted(slots, key=lambda slot: slot.is_1d):
        found.setdefault(slot.component, slot.name)
    return found


def runs(params: Sequence[Tensor], structure: Structure, split_1d: bool) -> Iterator[tuple[str, bool, list[int]]]:
    """Maximal runs of consecutive tensors of one component: its name, whether they have one dimension, positions.

    No tensor changes its place in the order, so norms over all gradients stay the same to the last bit.

    Args:
        params: The tensors of one group.
        structure: Says which tensor belongs to which component.
        split_1d: Whether one-dimensional tensors are set apart.
    """

    def kind(index: int) -> tuple[str, bool]:
        tensor = params[index]
        return structure.owner.get(cast(nn.Parameter, tensor), "outside"), split_1d and tensor.ndim <= 1

    for (component, is_1d), run in groupby(range(len(params)), kind):
        yield component, is_1d, list(run)


def piece_of(group: Mapping[str, Any], lists: dict[str, list[Any]], name: str) -> Group:
    """A group with some of the tensors of another one, and all of its settings."""
    return {key: own(value) for key, value in settings(group).items()} | lists | {"name": name}


def settings(group: Mapping[str, Any]) -> Group:
    """All of a group but its tensors and its name."""
    return {key: value for key, value in group.items() if key not in PER_TENSOR_KEYS and key != "name"}


def own(value: Any) -> Any:
    """The value, or a copy of what is written in place: groups must not share it."""
    if isinstance(value, Tensor):
        return value.clone()
    return copy.deepcopy(value) if isinstance(value, list | dict | set) else value


def unique_name(component: str, suffix: str, taken: Collection[str], is_1d: bool) -> str:
    """The name of the component, or with what sets this group apart from the component's others."""
    if component not in taken and not is_1d:
        return component
    suffix = "1d" if is_1d else suffix
    stem = f"{component}/{suffix}" if suffix else component
    names = (stem if number == 1 else f"{stem}/{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def emptied(slot: GroupInfo, taken: Collection[str]) -> GroupInfo:
    """The slot of a piece that has lost its last tensor, named as where a group never had any."""
    return replace(slot, name=unique_name(EMPTY, slot.suffix, taken, is_1d=False), component=EMPTY, is_1d=False)


@dataclass(frozen=True)
class Newcomers:
    """Newborn tensors that join one optimizer beside the tensors of one of its groups."""

    slot: GroupInfo
    template: str
    tensors: Mapping[str, nn.Parameter]


def place_newborn(
    optimizers: Mapping[Optimizer, Mapping[str, GroupInfo]],
    structure: Structure,
    born: Iterable[str],
    like: str | None,
    split_1d: bool,
) -> dict[Optimizer, list[Newcomers]]:
    """Find for every newborn tensor the group whose settings it takes.

    That is the group with a tensor of the same leaf name and number of dimensions in the nearest component.

    Raises:
        ValueError: If several groups fit equally well.
    """
    residents = [
        _Resident(optimizer, slot, structure.parameter_names.get(tensor, ""), tensor)
        for optimizer, slots in optimizers.items()
        for group in optimizer.param_groups
        if (slot := slots.get(group.get("name", ""))) and slot.component in structure.components
        for tensor in group["params"]
        if like is None or slot.component == like
    ]
    if not residents:
        raise ValueError(
            f"no optimizer holds {'a component' if like is None else repr(like)} whose settings newborn parameters "
            f"could take; name one of {list(structure.components)} in @growth(like=...)"
        )
    joining: dict[Optimizer, list[Newcomers]] = {optimizer: [] for optimizer in optimizers}
    for component in born:
        homes: dict[tuple[Optimizer, int, bool], tuple[GroupInfo, dict[str, nn.Parameter]]] = {}
        for name, tensor in structure.parameters[component].items():
            template = _template(name, tensor, component, structure, residents)
            key = (template.optimizer, template.slot.origin, split_1d and tensor.ndim <= 1)
            homes.setdefault(key, (template.slot, {}))[1][name] = tensor
        # named in the order of the user's groups, as a resumed run will name them
        for (optimizer, _, is_1d), (template_slot, tensors) in sorted(homes.items(), key=lambda home: home[0][1]):
            taken = [*optimizers[optimizer], *(new.slot.name for new in joining[optimizer])]
            name = unique_name(component, template_slot.suffix, taken, is_1d)
            slot = replace(template_slot, name=name, component=component, is_1d=is_1d)
            joining[optimizer].append(Newcomers(slot, template_slot.name, tensors))
    return joining


def count_places(optimizers: Iterable[Optimizer]) -> Counter[Tensor]:
    """In how many param groups each tensor stands."""
    return Counter(tensor for optimizer in optimizers for group in optimizer.param_groups for tensor in group["params"])


def audit(optimizers: Iterable[Optimizer], expected: Mapping[Tensor, int]) -> None:
    """Check that no parameter has been lost or doubled.

    Args:
        optimizers: Those whose groups have been changed.
        expected: In how many groups each parameter must stand.

    Raises:
        RuntimeError: If one does not; that is a defect of this package.
    """
    if (found := count_places(optimizers)) != Counter(expected):
        wrong = {tuple(tensor.shape): found[tensor] for tensor in found | Counter(expected)}
        raise RuntimeError(f"parameters were lost or doubled; shape -> number of param groups it stands in: {wrong}")


@dataclass(frozen=True)
class _Resident:
    optimizer: Optimizer
    slot: GroupInfo
    name: str
    tensor: nn.Parameter


def _template(
    name: str, tensor: nn.Parameter, component: str, structure: Structure, residents: Sequence[_Resident]
) -> _Resident:
    leaf = name.rpartition(".")[-1]
    alike = (
        [other for other in residents if other.name.rpartition(".")[-1] == leaf and other.tensor.ndim == tensor.ndim]
        or [other for other in residents if other.tensor.ndim == tensor.ndim]
        or list(residents)
    )
    depth = structure.components[component].depth

    def distance(other: _Resident) -> int:
        return abs(structure.components[other.slot.component].depth - depth)

    nearest = min(map(distance, alike), default=0)
    near = [other for other in alike if distance(other) == nearest]
    if len({(other.optimizer, other.slot.origin) for other in near}) != 1:
        candidates = sorted({other.slot.component for other in near})
        raise ValueError(
            f"newborn parameter {name!r} fits param groups of {candidates} equally well. Say which component it should "
            "be treated like with @growth(like=...)."
        )
    return near[0]
