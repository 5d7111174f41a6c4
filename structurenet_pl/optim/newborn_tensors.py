"""Where newborn tensors go: the param group whose settings each of them gets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn
from torch.optim import Optimizer

from structurenet_pl.optim.param_groups import GroupInfo, unique_name
from structurenet_pl.structure.partition import Structure


@dataclass(frozen=True)
class NewbornPiece:
    """A piece to be added to one optimizer, with newborn tensors and the settings of an existing piece.

    Args:
        info: The info of the new piece.
        template: Name of the piece whose settings it gets.
        tensors: The newborn tensors by name.
    """

    info: GroupInfo
    template: str
    tensors: Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class _Resident:
    """A tensor that is in a piece already."""

    optimizer: Optimizer
    info: GroupInfo
    name: str
    tensor: nn.Parameter

    @property
    def leaf(self) -> str:
        return _leaf(self.name)


def place_newborn(
    optimizers: Mapping[Optimizer, Mapping[str, GroupInfo]],
    structure: Structure,
    born: Iterable[str],
    like: str | None,
    split_1d: bool,
) -> dict[Optimizer, list[NewbornPiece]]:
    """Find for each newborn tensor the group whose settings it gets.

    That is the group with a tensor of the same leaf name and number of dimensions in the nearest component, by depth:
    biases join biases, and weights join weights.

    Args:
        optimizers: The infos of the pieces of each optimizer, by name of the piece.
        structure: The structure after the growth.
        born: Names of the newborn components.
        like: Name of the component whose groups alone are considered, None for all.
        split_1d: Whether one-dimensional tensors get pieces of their own.

    Raises:
        ValueError: If no group or several groups fit.
    """
    residents = [
        _Resident(optimizer, info, structure.parameter_names.get(tensor, ""), tensor)
        for optimizer, infos in optimizers.items()
        for group in optimizer.param_groups
        if (info := infos.get(group.get("name", ""))) and info.component in structure.components
        for tensor in group["params"]
        if like is None or info.component == like
    ]
    if not residents:
        raise ValueError(
            f"no optimizer holds {'a component' if like is None else repr(like)} whose settings newborn parameters "
            f"could take; name one of {list(structure.components)} in @growth(like=...)"
        )
    new_pieces: dict[Optimizer, list[NewbornPiece]] = {optimizer: [] for optimizer in optimizers}
    for component in born:
        homes: dict[tuple[Optimizer, int, bool], tuple[GroupInfo, dict[str, nn.Parameter]]] = {}
        for name, tensor in structure.parameters[component].items():
            template = _template(name, tensor, component, structure, residents)
            key = (template.optimizer, template.info.origin, split_1d and tensor.ndim <= 1)
            homes.setdefault(key, (template.info, {}))[1][name] = tensor
        # a resumed run splits the user's groups in their order; only in the same order do pieces get the same names
        for (optimizer, _, is_1d), (template_info, tensors) in sorted(homes.items(), key=lambda home: home[0][1]):
            used = [*optimizers[optimizer], *(piece.info.name for piece in new_pieces[optimizer])]
            name = unique_name(component, template_info.suffix, used, is_1d)
            info = replace(template_info, name=name, component=component, is_1d=is_1d)
            new_pieces[optimizer].append(NewbornPiece(info, template_info.name, tensors))
    return new_pieces


def _template(
    name: str, tensor: nn.Parameter, component: str, structure: Structure, residents: Sequence[_Resident]
) -> _Resident:
    """The resident whose group a newborn tensor joins; unlike ones only where there is none alike."""
    same_ndim = [resident for resident in residents if resident.tensor.ndim == tensor.ndim]
    alike = [resident for resident in same_ndim if resident.leaf == _leaf(name)] or same_ndim or list(residents)
    depth = structure.components[component].depth

    def distance(resident: _Resident) -> int:
        return abs(structure.components[resident.info.component].depth - depth)

    shortest = min(map(distance, alike), default=0)
    nearest = [resident for resident in alike if distance(resident) == shortest]
    if len({(resident.optimizer, resident.info.origin) for resident in nearest}) != 1:
        candidates = sorted({resident.info.component for resident in nearest})
        raise ValueError(
            f"newborn parameter {name!r} fits param groups of {candidates} equally well. Name the component whose "
            "settings it should get with @growth(like=...)."
        )
    return nearest[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[-1]
