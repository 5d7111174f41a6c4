"""The param groups of an optimizer split by component, beside the user's own, which stay alive."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from operator import is_
from typing import Any, cast
from weakref import ref

from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.optim.group_settings import GroupSettings, put
from structurenet_pl.optim.param_groups import (
    EMPTY,
    PER_TENSOR_KEYS,
    Group,
    GroupInfo,
    Newcomers,
    emptied,
    own,
    piece_of,
    runs,
    settings,
    unique_name,
)
from structurenet_pl.optim.probe import Recipe
from structurenet_pl.optim.wrappers import set_groups, with_inner
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.tensor_mapping import Successor, tensor_after_growth


@dataclass
class _List:
    """A list of the user's groups, and the list of pieces that stands in its place in an optimizer."""

    user: list[Group]
    pieces: list[Group]


class SplitGroups:
    """The pieces that an optimizer steps on, each with the tensors of one component, and the user's groups behind them.

    The user's groups hold settings and base lrs. Their dicts and their list are the user's own objects: schedulers, and
    whoever has kept a reference, go on writing to them, and ``settings`` passes it on to the pieces. Their tensors
    follow growth. An optimizer that wraps others, or has lists by group of its own, is given pieces throughout.

    Args:
        optimizer: Any optimizer that takes several groups.
        structure: Says which tensor belongs to which component.
        split_1d: Whether one-dimensional tensors get groups of their own.
    """

    def __init__(self, optimizer: Optimizer, structure: Structure, split_1d: bool) -> None:
        self._optimizer = ref(optimizer)  # weak: it lives as long as its optimizer, not the other way round
        self._structure, self._split_1d = structure, split_1d
        self.user: list[Group] = optimizer.param_groups
        self.pieces: list[list[Group]] = []  # of each of the user's groups
        self.group_infos: dict[str, GroupInfo] = {}
        self.settings = GroupSettings(lambda: self)
        lists = {id(one.param_groups): _List(one.param_groups, []) for one in with_inner(optimizer)}
        self._lists = [(ref(one), lists[id(one.param_groups)]) for one in with_inner(optimizer)]
        self._by_group: list[tuple[str, Any]] = []
        with suppress(TypeError):  # no copy can be made
            self._by_group = [(name, vars(optimizer)[name]) for name in Recipe.of(optimizer).lists_by_group()]
        self._installed: list[list[Tensor]] = []  # the tensors of each of the user's groups
        for origin, group in enumerate(self.user):
            self.pieces.append(self._pieces_of(group, origin))
        self._install()
        self.settings.start()

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer whose groups they are."""
        return cast(Optimizer, self._optimizer())

    def __iter__(self) -> Iterator[tuple[Group, list[Group]]]:
        """Each of the user's groups and the pieces made of it; one that somebody has just appended has none yet."""
        return zip(self.user, self.pieces, strict=False)

    def user_groups(self, optimizer: Optimizer) -> list[Group]:
        """The user's groups in an optimizer, or in one inside it."""
        return next((one.user for known, one in self._lists if known() is optimizer), optimizer.param_groups)

    def tensors_of(self, name: str) -> list[Tensor]:
        """The tensors of a piece."""
        return next(piece["params"] for pieces in self.pieces for piece in pieces if piece["name"] == name)

    def absorb_new_groups(self, thoroughly: bool = False) -> bool:
        """Take over groups and tensors that somebody else has added; tell if there were any.

        Args:
            thoroughly: Whether to compare all tensors, too, and not just their numbers.

        Raises:
            MisconfigurationException: If pieces have been taken out, or others put in their place.
        """
        known = {id(piece): piece for pieces in self.pieces for piece in pieces}
        groups = self.optimizer.param_groups
        added = [group for group in groups if id(group) not in known]
        if groups is not self._lists[0][1].pieces or len(groups) - len(added) != len(known):
            raise MisconfigurationException(
                f"param groups of {type(self.optimizer).__name__} have been taken out or replaced in the middle of the "
                "fit, where they are split by component: change them before the fit, or give it a new optimizer."
            )
        changed = [origin for origin in range(len(self.pieces)) if self._differs(origin, thoroughly)]
        if not (added or changed or len(self.user) > len(self.pieces)):
            return False
        self.settings.pass_on()
        for one in {id(one): one for _, one in self._lists}.values():
            one.user.extend(group for group in one.pieces if id(group) not in known)
        for origin in changed:
            if not _same_tensors(self.user[origin]["params"], self._installed[origin]):
                for piece in self.pieces[origin]:
                    del self.group_infos[piece["name"]]
                self.pieces[origin] = self._pieces_of(self.user[origin], origin)
        for group in self.user[len(self.pieces) :]:
            self.pieces.append(self._pieces_of(group, len(self.pieces)))
        self._install()
        self.settings.start()
        return True

    def undo_point(self) -> Callable[[], None]:
        """A function that puts everything back as it is now, but for what stands in settings."""
        pieces, slots = [list(some) for some in self.pieces], dict(self.group_infos)
        lists = [
            (group, {key: group[key] for key in PER_TENSOR_KEYS if key in group}) for some in pieces for group in some
        ]
        contents = [(group[key], list(group[key])) for group in self.user for key in PER_TENSOR_KEYS if key in group]

        def undo() -> None:
            self.pieces, self.group_infos = pieces, slots
            for group, before in lists:
                group.update(before)
            for items, content in contents:
                items[:] = content
            self._install()

        return undo

    def replace(self, successors: Mapping[nn.Parameter, Successor | None], structure: Structure) -> None:
        """Put the successors of tensors in their places, and take out what is gone.

        A piece that is left empty goes; if it is the last of one of the user's groups, it is named as it is on resume.

        Args:
            successors: What has become of tensors; None for gone.
            structure: The structure after the growth.
        """
        self._structure = structure
        for origin, pieces in enumerate(self.pieces):
            for piece in pieces:
                now = [tensor_after_growth(tensor, successors) for tensor in piece["params"]]
                if "param_names" in piece:
                    piece["param_names"] = [
                        structure.parameter_names.get(cast(nn.Parameter, tensor), name)
                        for tensor, name in zip(now, piece["param_names"], strict=True)
                        if tensor is not None
                    ]
                piece["params"] = [tensor for tensor in now if tensor is not None]
            self.pieces[origin] = [piece for piece in pieces if piece["params"]] or pieces[:1]
        before, self.group_infos = self.group_infos, {}
        for piece in (piece for pieces in self.pieces for piece in pieces):
            slot = before[piece["name"]] if piece["params"] else emptied(before[piece["name"]], self.group_infos)
            owners = (structure.owner[tensor] for tensor in piece["params"] if tensor in structure.owner)
            self.group_infos[slot.name] = replace(slot, component=next(owners, slot.component))
            piece["name"] = slot.name
        self._install()

    def add(self, newcomers: Sequence[Newcomers]) -> None:
        """Add a piece for each, equal to its template in everything but its tensors.

        It stands behind the last piece of the same group of the user's, where a resumed run will find it, too.
        """
        groups = self.optimizer.param_groups
        for new in newcomers:
            origin = new.slot.origin
            template = next(piece for piece in self.pieces[origin] if piece["name"] == new.template)
            tensors = list(new.tensors.items()) if "param_names" in template else list(new.tensors.values())
            self.optimizer.add_param_group(piece_of(template, {"params": tensors}, new.slot.name))
            self.pieces[origin].append(groups.pop())
            self.group_infos[new.slot.name] = new.slot
        self._install()

    def release(self) -> None:
        """Give the user's groups back to the optimizer."""
        self.settings.collect()
        for one in with_inner(self.optimizer):
            set_groups(one, self.user_groups(one))
        for name, values in self._by_group:
            setattr(self.optimizer, name, values)

    def joined(self, optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state dict of an optimizer with the user's groups in place of the pieces."""
        self.settings.collect()
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        return {**state, "param_groups": _packed(self.user_groups(optimizer), iter(numbers))}

    def split_state(
        self, optimizer: Optimizer, state: Mapping[str, Any], more: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The state dict of an optimizer with pieces in place of the user's groups.

        Args:
            optimizer: Whose it is to be.
            state: With the user's groups.
            more: Settings of single pieces, by name.

        Raises:
            ValueError: If its groups are not those of the user's in this run.
        """
        groups, user = state["param_groups"], self.user_groups(optimizer)
        theirs, ours = ([len(group["params"]) for group in some] for some in (groups, user))
        if theirs != ours:
            raise ValueError(
                f"the optimizer of the checkpoint has param groups of {theirs} tensors, this run's "
                f"configure_optimizers makes groups of {ours}. Resume with the module and the configure_optimizers "
                "that wrote it."
            )
        split = []
        for saved, group in zip(groups, user, strict=True):
            rest = {key: iter(saved[key]) for key in PER_TENSOR_KEYS if key in saved}
            for piece in self._made_of(group):
                lists = {key: list(islice(items, len(piece["params"]))) for key, items in rest.items()}
                split.append(piece_of(saved | more.get(piece["name"], {}), lists, piece["name"]))
        return {**state, "param_groups": split}

    def loaded(self, optimizer: Optimizer, groups: Sequence[Mapping[str, Any]]) -> None:
        """Take over what an optimizer has loaded. Dicts and lists stay the objects that they were, unlike in torch.

        Args:
            optimizer: Its list of groups is a new one.
            groups: The user's groups as they were loaded.
        """
        one = next(one for known, one in self._lists if known() is optimizer)
        for piece, new in zip(one.pieces, list(optimizer.param_groups), strict=True):
            if new is not piece:
                piece.clear()
                piece.update(new)
        set_groups(optimizer, one.pieces)
        for group, saved in zip(one.user, groups, strict=True):
            for key in settings(group).keys() - saved.keys():
                del group[key]
            for key, value in settings(saved).items():
                put(group, key, value)
        self.settings.start()

    def _made_of(self, group: Group) -> list[Group]:
        return next((pieces for user, pieces in self if user is group), [group])

    def _differs(self, origin: int, thoroughly: bool) -> bool:
        """Whether somebody has changed the tensors of one of the user's groups, or of its pieces."""
        user, known = self.user[origin]["params"], self._installed[origin]
        if len(user) != len(known) or not thoroughly:
            return len(user) != len(known)
        pieces = [tensor for piece in self.pieces[origin] for tensor in piece["params"]]
        return not (_same_tensors(user, known) and _same_tensors(pieces, known))

    def _pieces_of(self, group: Group, origin: int) -> list[Group]:
        """Make the pieces of one of the user's groups."""
        decays = any(other.get("weight_decay") for other in self.user)
        suffix = group.get("name") or ("no_decay" if decays and group.get("weight_decay") == 0 else "")
        pieces = []
        found = list(runs(group["params"], self._structure, self._split_1d))
        for component, is_1d, run in found or [(EMPTY, False, [])]:
            name = unique_name(component, suffix, self.group_infos, is_1d)
            self.group_infos[name] = GroupInfo(name, component, origin, suffix, is_1d)
            lists = {key: [group[key][index] for index in run] for key in PER_TENSOR_KEYS if key in group}
            pieces.append(piece_of(group, lists, name))
        return pieces

    def _install(self) -> None:
        """Have the optimizer step on the pieces, and the user's groups hold their tensors."""
        made_of = {id(group): pieces for group, pieces in self}
        for _, one in self._lists:
            one.pieces[:] = [piece for group in one.user for piece in made_of.get(id(group), [group])]
        for optimizer, one in self._lists:
            set_groups(cast(Optimizer, optimizer()), one.pieces)
        for group, pieces in self:
            for key in PER_TENSOR_KEYS:
                if key in group:
                    group[key][:] = [item for piece in pieces for item in piece[key]]
        self._installed = [list(group["params"]) for group in self.user]
        origins = [origin for origin, pieces in enumerate(self.pieces) for _ in pieces]
        for name, values in self._by_group:
            entries = type(values)(own(values[origin]) for origin in origins if origin < len(values))
            setattr(self.optimizer, name, entries)


def _packed(groups: Sequence[Group], numbers: Iterator[int]) -> list[Group]:
    """Groups as they stand in a state dict, with numbers in place of tensors."""
    packed = []
    for group in groups:
        rest = {key: own(value) for key, value in group.items() if key != "params"}
        packed.append(rest | {"params": list(islice(numbers, len(group["params"])))})
    return packed


def _same_tensors(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))
