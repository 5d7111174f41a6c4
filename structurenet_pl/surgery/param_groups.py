"""Param groups by component: split those of the user, add those of the newborn, audit the result."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.components import Structure
from structurenet_pl.surgery.schedulers import own, reindex, with_nested

LISTS = ("params", "param_names")


@dataclass(frozen=True)
class Slot:
    """What a param group stands for.

    Args:
        name: Unique name of the group.
        component: Name of the component whose tensors it holds.
        origin: Index of the user's own group that it is a piece of.
        suffix: What tells the pieces of this group from those of the user's others.
        own_name: The name that the user gave the group, None for none.
        is_1d: Whether it holds one-dimensional tensors, set apart for a factor that leaves them alone.
    """

    name: str
    component: str
    origin: int
    suffix: str = ""
    own_name: str | None = None
    is_1d: bool = False


def leading(slots: Iterable[Slot]) -> dict[str, str]:
    """Component -> the group that speaks for it: its first, if possible one with tensors of several dimensions."""
    found: dict[str, str] = {}
    for slot in sorted(slots, key=lambda slot: slot.is_1d):
        found.setdefault(slot.component, slot.name)
    return found


def split_groups(
    optimizer: Optimizer, structure: Structure, split_1d: bool, holders: Iterable[Any], known: Mapping[str, Slot]
) -> dict[str, Slot]:
    """Split the groups in place into maximal runs of consecutive tensors of one component.

    No tensor changes its place in the order, so norms over all gradients stay the same to the last bit.

    Args:
        optimizer: Any optimizer that takes several groups.
        structure: Says which tensor belongs to which component.
        split_1d: Whether one-dimensional tensors get groups of their own.
        holders: What holds lists by group: schedulers, or the optimizer itself.
        known: What the groups stand for that have been split before, by name.

    Returns:
        What each of the groups stands for, by name.
    """
    groups: list[dict[str, Any]] = []
    mapping: list[int] = []
    slots = dict(known)
    decays = any(group.get("weight_decay") for group in optimizer.param_groups)
    for index, group in enumerate(optimizer.param_groups):
        params, own_name = group["params"], group.get("name")
        if own_name in known and own_name not in (other["name"] for other in groups):
            groups.append(group)
            mapping.append(index)
            continue
        origin = 1 + max((slot.origin for slot in slots.values()), default=-1)
        suffix = own_name or ("no_decay" if decays and group.get("weight_decay") == 0 else "")

        def key(index: int, params: Sequence[Tensor] = params) -> tuple[str, bool]:
            tensor = params[index]
            return structure.owner.get(cast(nn.Parameter, tensor), "outside"), split_1d and tensor.ndim <= 1

        runs = [(*kind, list(run)) for kind, run in groupby(range(len(params)), key)]
        for component, is_1d, run in runs or [("empty", False, [])]:
            name = _unique_name(component, suffix, slots, is_1d)
            slots[name] = Slot(name, component, origin, suffix, own_name, is_1d)
            groups.append(_piece(group, name, run))
            mapping.append(index)
    _install(optimizer, groups, mapping, holders)
    return slots


def join_groups(optimizer: Optimizer, slots: Mapping[str, Slot], holders: Iterable[Any]) -> None:
    """Put the user's own groups together again, in place."""
    names = [group.get("name") for group in optimizer.param_groups]
    first = [indices[0] for indices in by_origin(names, slots)]
    _install(optimizer, joined(optimizer.param_groups, slots), first, holders)


def joined(groups: Sequence[Mapping[str, Any]], slots: Mapping[str, Slot]) -> list[dict[str, Any]]:
    """The groups of an optimizer, or of its state dict, put together to the user's own."""
    found = []
    for indices in by_origin([group.get("name") for group in groups], slots):
        parts = [groups[index] for index in indices]
        lists = {key: [item for part in parts for item in part[key]] for key in LISTS if key in parts[0]}
        found.append(_own_settings(parts[0], slots) | lists)
    return found


def by_origin(names: Sequence[str | None], slots: Mapping[str, Slot]) -> list[list[int]]:
    """Which groups are pieces of each group of the user's; a group that is not ours is its own."""
    members: dict[object, list[int]] = {}
    for index, name in enumerate(names):
        slot = slots.get(name or "")
        members.setdefault(("not ours", index) if slot is None else slot.origin, []).append(index)
    return list(members.values())


def _own_settings(group: Mapping[str, Any], slots: Mapping[str, Slot]) -> dict[str, Any]:
    """Everything in a group but its name, which is again what the user called it."""
    slot = slots.get(group.get("name", ""))
    if slot is None:
        return dict(group)
    name = {} if slot.own_name is None else {"name": slot.own_name}
    return {key: value for key, value in group.items() if key != "name"} | name


@dataclass(frozen=True)
class Newcomers:
    """Newborn tensors that join one optimizer beside the tensors of one of its groups."""

    slot: Slot
    template: str
    tensors: Mapping[str, nn.Parameter]


def place_newborn(
    optimizers: Mapping[Optimizer, Mapping[str, Slot]],
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
        homes: dict[tuple[Optimizer, int, bool], tuple[Slot, dict[str, nn.Parameter]]] = {}
        for name, tensor in structure.parameters[component].items():
            template = _template(name, tensor, component, structure, residents)
            key = (template.optimizer, template.slot.origin, split_1d and tensor.ndim <= 1)
            homes.setdefault(key, (template.slot, {}))[1][name] = tensor
        # named in the order of the user's groups, as a resumed run will name them
        for (optimizer, _, is_1d), (template_slot, tensors) in sorted(homes.items(), key=lambda home: home[0][1]):
            taken = [*optimizers[optimizer], *(new.slot.name for new in joining[optimizer])]
            name = _unique_name(component, template_slot.suffix, taken, is_1d)
            slot = replace(template_slot, name=name, component=component, is_1d=is_1d)
            joining[optimizer].append(Newcomers(slot, template_slot.name, tensors))
    return joining


def add_groups(
    optimizer: Optimizer, slots: Mapping[str, Slot], newcomers: Sequence[Newcomers], holders: Iterable[Any]
) -> Callable[[], None]:
    """Add a group for each, equal to its template in everything but its tensors; the returned function undoes it.

    It stands behind the last piece of the same group of the user's, where a resumed run will find it, too.
    """
    before = list(optimizer.param_groups)
    holders = list(holders)
    remembered = [(part, dict(vars(part))) for holder in holders for part in with_nested(holder)]

    def undo() -> None:
        optimizer.param_groups[:] = before
        for part, attributes in remembered:
            vars(part).update(attributes)

    origins = [slots[group["name"]].origin if group.get("name") in slots else -1 for group in before]
    mapping = list(range(len(before)))
    try:
        for new in newcomers:
            template = next(index for index, group in enumerate(before) if group.get("name") == new.template)
            group = {key: value for key, value in _copy(before[template]).items() if key not in (*LISTS, "name")}
            params = list(new.tensors.items()) if "param_names" in before[template] else list(new.tensors.values())
            optimizer.add_param_group({**group, "params": params, "name": new.slot.name})
            place = max(index for index, origin in enumerate(origins) if origin == new.slot.origin) + 1
            optimizer.param_groups.insert(place, optimizer.param_groups.pop())
            origins.insert(place, new.slot.origin)
            mapping.insert(place, template)
        for holder in holders:
            reindex(holder, mapping, len(before))
    except BaseException:
        undo()
        raise
    return undo


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
    slot: Slot
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


def _install(
    optimizer: Optimizer, groups: list[dict[str, Any]], mapping: Sequence[int], holders: Iterable[Any]
) -> None:
    n_old = len(optimizer.param_groups)
    optimizer.param_groups[:] = groups
    for holder in holders:
        reindex(holder, mapping, n_old)


def _piece(group: Mapping[str, Any], name: str, run: Sequence[int]) -> dict[str, Any]:
    """The part of a group with these tensors; every other key as it was."""
    lists = {key: [group[key][index] for index in run] for key in LISTS if key in group}
    return _copy(group) | lists | {"name": name}


def _copy(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with tensors of its own: a tensor lr is one object in all groups, and written in place."""
    return {key: own(value) for key, value in group.items()}


def _unique_name(component: str, suffix: str, taken: Collection[str], is_1d: bool) -> str:
    """The name of the component, or with what sets this group apart from the component's others."""
    if component not in taken and not is_1d:
        return component
    suffix = "1d" if is_1d else suffix
    stem = f"{component}/{suffix}" if suffix else component
    names = (stem if number == 1 else f"{stem}/{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
