"""Param groups by component: split those of the user, add those of the newborn, audit the result."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.components import Structure
from structurenet_pl.surgery.schedulers import reindex

OWN_KEYS = ("params", "param_names", "name")


@dataclass(frozen=True)
class Slot:
    """What a param group stands for.

    Args:
        name: Unique name of the group.
        component: Name of the component whose tensors it holds.
        origin: Index of the user's own group that it is a piece of.
        is_1d: Whether it holds one-dimensional tensors, set apart for a factor that leaves them alone.
    """

    name: str
    component: str
    origin: int
    is_1d: bool = False


def split_groups(optimizer: Optimizer, structure: Structure, split_1d: bool, schedulers: Iterable[Any]) -> list[Slot]:
    """Split the groups in place into maximal runs of consecutive tensors of one component.

    No tensor changes its place in the order, so norms over all gradients stay the same to the last bit.

    Args:
        optimizer: Any optimizer that takes several groups.
        structure: Says which tensor belongs to which component.
        split_1d: Whether one-dimensional tensors get groups of their own.
        schedulers: What holds lists by group.
    """
    groups: list[dict[str, Any]] = []
    slots: list[Slot] = []
    for origin, group in enumerate(optimizer.param_groups):
        params = group["params"]
        label = group.get("name") or ("no_decay" if origin and group.get("weight_decay") == 0 else "")

        def key(index: int, params: Sequence[Tensor] = params) -> tuple[str, bool]:
            tensor = params[index]
            return structure.owner.get(cast(nn.Parameter, tensor), "outside"), split_1d and tensor.ndim <= 1

        for (component, is_1d), run in groupby(range(len(params)), key):
            name = _unique_name(component, label, slots, is_1d)
            slots.append(Slot(name, component, origin, is_1d))
            groups.append(_piece(group, name, list(run)))
    _install(optimizer, groups, [slot.origin for slot in slots], schedulers)
    return slots


def restore_groups(
    optimizer: Optimizer,
    structure: Structure,
    saved: Sequence[tuple[Slot, Sequence[str]]],
    schedulers: Iterable[Any],
) -> list[Slot]:
    """Rearrange the groups in place as a checkpoint had them, by parameter names.

    Raises:
        ValueError: If checkpoint and optimizer do not hold the same parameters.
    """
    parameters = {name: tensor for tensor, name in structure.parameter_names.items()}
    home = {
        tensor: (at, index)
        for at, group in enumerate(optimizer.param_groups)
        for index, tensor in enumerate(group["params"])
    }
    wanted = {name for _, names in saved for name in names}
    present = {name for name, tensor in parameters.items() if tensor in home}
    if wanted != present:
        raise ValueError(
            f"the checkpoint's optimizer holds {sorted(wanted - present)} which this run's does not, and this run's "
            f"holds {sorted(present - wanted)} which the checkpoint's does not. Resume with the module and the "
            "configure_optimizers that wrote it."
        )
    groups, origins = [], []
    for slot, names in saved:
        at, _ = home[parameters[names[0]]]
        template = optimizer.param_groups[at]
        tensors: dict[str, Any] = {"params": [parameters[name] for name in names]}
        if "param_names" in template:
            tensors["param_names"] = list(names)
        groups.append(_copy(template) | tensors | {"name": slot.name})
        origins.append(at)
    _install(optimizer, groups, origins, schedulers)
    return [slot for slot, _ in saved]


@dataclass(frozen=True)
class Newcomers:
    """Newborn tensors that join one optimizer beside the tensors of one of its groups."""

    slot: Slot
    template: int
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
        _Resident(optimizer, index, slot, structure.parameter_names.get(tensor, ""), tensor)
        for optimizer, slots in optimizers.items()
        for index, group in enumerate(optimizer.param_groups)
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
        homes: dict[tuple[Optimizer, int, bool], dict[str, nn.Parameter]] = {}
        templates: dict[tuple[Optimizer, int, bool], _Resident] = {}
        for name, tensor in structure.parameters[component].items():
            template = _template(name, tensor, component, structure, residents)
            key = (template.optimizer, template.slot.origin, split_1d and tensor.ndim <= 1)
            homes.setdefault(key, {})[name] = tensor
            templates.setdefault(key, template)
        for (optimizer, origin, is_1d), tensors in homes.items():
            taken = [*optimizers[optimizer].values(), *(new.slot for new in joining[optimizer])]
            template = templates[optimizer, origin, is_1d]
            label = template.slot.name.partition("/")[2]
            slot = Slot(_unique_name(component, label, taken, is_1d), component, origin, is_1d)
            joining[optimizer].append(Newcomers(slot, template.index, tensors))
    return joining


def add_groups(optimizer: Optimizer, newcomers: Sequence[Newcomers], schedulers: Iterable[Any]) -> Callable[[], None]:
    """Add a group for each, equal to its template in everything but its tensors; the returned function undoes it."""
    before = list(optimizer.param_groups)
    schedulers = list(schedulers)

    def undo() -> None:
        n_new = len(optimizer.param_groups)
        optimizer.param_groups[:] = before
        for scheduler in schedulers:
            reindex(scheduler, range(len(before)), n_new)

    for new in newcomers:
        template = before[new.template]
        group = {key: value for key, value in _copy(template).items() if key not in OWN_KEYS}
        params = list(new.tensors.items()) if "param_names" in template else list(new.tensors.values())
        try:
            optimizer.add_param_group({**group, "params": params, "name": new.slot.name})
        except BaseException:
            optimizer.param_groups[:] = before
            raise
    mapping = [*range(len(before)), *(new.template for new in newcomers)]
    for scheduler in schedulers:
        reindex(scheduler, mapping, len(before))
    return undo


def audit(optimizers: Iterable[Optimizer], expected: Mapping[nn.Parameter, str]) -> None:
    """Check that each of the expected parameters stands in exactly one group.

    Raises:
        RuntimeError: If one does not; that is a defect of this package.
    """
    counts: dict[nn.Parameter, int] = dict.fromkeys(expected, 0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                counts[tensor] = counts.get(tensor, 0) + 1
    if wrong := {expected.get(tensor, "?"): count for tensor, count in counts.items() if count != 1}:
        raise RuntimeError(f"parameters must stand in one param group each, but these stand in so many: {wrong}")


@dataclass(frozen=True)
class _Resident:
    optimizer: Optimizer
    index: int
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
    optimizer: Optimizer, groups: list[dict[str, Any]], mapping: Sequence[int], schedulers: Iterable[Any]
) -> None:
    n_old = len(optimizer.param_groups)
    optimizer.param_groups[:] = groups
    for scheduler in schedulers:
        reindex(scheduler, mapping, n_old)


def _piece(group: Mapping[str, Any], name: str, run: Sequence[int]) -> dict[str, Any]:
    """The part of a group with these tensors; every other key as it was."""
    lists = {key: [group[key][index] for index in run] for key in ("params", "param_names") if key in group}
    return _copy(group) | lists | {"name": name}


def _copy(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with tensors of its own: a tensor lr is one object in all groups, and written in place."""
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in group.items()}


def _unique_name(component: str, label: str, slots: Iterable[Slot], is_1d: bool) -> str:
    """The name of the component, or with what sets this group apart from the component's others."""
    taken = {slot.name for slot in slots}
    if component not in taken and not is_1d:
        return component
    label = "1d" if is_1d else label
    stem = f"{component}/{label}" if label else component
    names = (stem if number == 1 else f"{stem}/{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
