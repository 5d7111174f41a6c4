"""The param groups of an optimizer split by component, beside the user's own groups, which stay alive."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import is_
from typing import Any, NamedTuple, cast
from weakref import ref

from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.optim.group_settings import GroupSettings
from structurenet_pl.optim.newborn_tensors import NewbornPiece
from structurenet_pl.optim.param_groups import (
    EMPTY,
    PER_TENSOR_KEYS,
    Group,
    GroupInfo,
    component_runs,
    copy_if_mutable,
    info_of_emptied_piece,
    make_piece,
    unique_name,
)
from structurenet_pl.optim.small_copies import Recipe
from structurenet_pl.optim.wrappers import set_groups, with_inner
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.tensor_mapping import Successor, tensor_after_growth


class GroupLists(NamedTuple):
    """A list of the user's groups, and the list of pieces that an optimizer has in its place."""

    user: list[Group]
    pieces: list[Group]


class SplitGroups:
    """The pieces that an optimizer steps on, each with tensors of one component, and the user's groups behind them.

    The user's groups hold settings and base lrs. Their dicts and their list stay the user's own objects: schedulers and
    all code that holds a reference to them go on writing to them, and ``settings`` passes the values on to the pieces.
    Their tensors follow growth. An optimizer inside the optimizer gets the pieces, too, and each list by group that an
    optimizer keeps gets an entry for each piece.

    Args:
        optimizer: Any optimizer that accepts several groups.
        structure: Maps tensors to components.
        split_1d: Whether one-dimensional tensors get pieces of their own.
    """

    def __init__(self, optimizer: Optimizer, structure: Structure, split_1d: bool) -> None:
        self._optimizer = ref(optimizer)  # weak, so that this object does not keep its optimizer alive
        self.structure, self._split_1d = structure, split_1d
        self.user: list[Group] = optimizer.param_groups
        self.pieces_by_group: list[list[Group]] = []  # of each of the user's groups
        self.group_infos: dict[str, GroupInfo] = {}
        self.settings = GroupSettings(lambda: self)
        # an inner optimizer shares its list with the outer one, or has a list of its own with the same dicts
        lists = {id(one.param_groups): GroupLists(one.param_groups, []) for one in with_inner(optimizer)}
        self._lists = [(ref(one), lists[id(one.param_groups)]) for one in with_inner(optimizer)]
        self._lists_by_group: list[tuple[str, Any]] = []  # attributes with an entry for each of the user's groups
        with suppress(TypeError):  # no copy of the optimizer can be made, so nothing is known of its lists
            self._lists_by_group = [(name, vars(optimizer)[name]) for name in Recipe.of(optimizer).lists_by_group()]
        self._installed: list[list[Tensor]] = []  # the tensors of each of the user's groups at the last _install
        for origin, group in enumerate(self.user):
            self.pieces_by_group.append(self._make_pieces(group, origin))
        self._install()
        self.settings.mark_passed_on()

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that steps on the pieces."""
        return cast(Optimizer, self._optimizer())

    def __iter__(self) -> Iterator[tuple[Group, list[Group]]]:
        """Each of the user's groups with its pieces, without groups that were just appended and have no pieces yet."""
        return zip(self.user, self.pieces_by_group, strict=False)

    def lists_of(self, optimizer: Optimizer) -> GroupLists:
        """The user's groups and the pieces of an optimizer; for an optimizer put inside later, its own groups twice."""
        own_groups = optimizer.param_groups
        return next((lists for known, lists in self._lists if known() is optimizer), GroupLists(own_groups, own_groups))

    def tensors_of(self, name: str) -> list[Tensor]:
        """The tensors of a piece."""
        return next(piece["params"] for pieces in self.pieces_by_group for piece in pieces if piece["name"] == name)

    def absorb_new_groups(self, thoroughly: bool = False) -> bool:
        """Split the groups and tensors that somebody else has added; return whether there were any.

        Args:
            thoroughly: Whether to compare all tensors, and not only how many there are.

        Raises:
            MisconfigurationException: If somebody has removed or replaced pieces.
        """
        known = {id(piece): piece for pieces in self.pieces_by_group for piece in pieces}
        groups = self.optimizer.param_groups
        added = [group for group in groups if id(group) not in known]
        if groups is not self._lists[0][1].pieces or len(groups) - len(added) != len(known):
            raise MisconfigurationException(
                f"param groups of {type(self.optimizer).__name__} were removed or replaced during the fit, in which "
                "they are split by component: change them before the fit, or give the Trainer a new optimizer."
            )
        differ = _tensors_differ if thoroughly else _counts_differ
        changed = [
            origin
            for origin, pieces in enumerate(self.pieces_by_group)
            if differ(self.user[origin]["params"], pieces, self._installed[origin])
        ]
        if not (added or changed or len(self.user) > len(self.pieces_by_group)):
            return False
        self.settings.pass_on()
        for lists in {id(lists): lists for _, lists in self._lists}.values():
            lists.user.extend(group for group in lists.pieces if id(group) not in known)
        for origin in changed:
            # tensors that were added to a piece alone reach the user's group in _install
            if not _same_tensors(self.user[origin]["params"], self._installed[origin]):
                for piece in self.pieces_by_group[origin]:
                    del self.group_infos[piece["name"]]
                self.pieces_by_group[origin] = self._make_pieces(self.user[origin], origin)
        for group in self.user[len(self.pieces_by_group) :]:
            self.pieces_by_group.append(self._make_pieces(group, len(self.pieces_by_group)))
        self._install()
        self.settings.mark_passed_on()
        return True

    def undo_point(self) -> Callable[[], None]:
        """A function that restores all groups and tensors as they are now, but no settings."""
        pieces, infos = [list(some) for some in self.pieces_by_group], dict(self.group_infos)
        piece_lists = [
            (piece, {key: piece[key] for key in PER_TENSOR_KEYS if key in piece}) for some in pieces for piece in some
        ]
        user_lists = [(group[key], list(group[key])) for group in self.user for key in PER_TENSOR_KEYS if key in group]

        def undo() -> None:
            self.pieces_by_group, self.group_infos = pieces, infos
            for piece, lists in piece_lists:
                piece.update(lists)
            for items, content in user_lists:
                items[:] = content
            self._install()

        return undo

    def replace(self, successors: Mapping[nn.Parameter, Successor | None], structure: Structure) -> None:
        """Replace tensors by their successors, and drop removed tensors.

        A piece without tensors is dropped. If all pieces of a user's group are empty, the first one stays, named as a
        resumed run names it.

        Args:
            successors: The tensors that continue others, None for a removed tensor.
            structure: The structure after the growth.
        """
        self.structure = structure
        for origin, pieces in enumerate(self.pieces_by_group):
            for piece in pieces:
                now = [tensor_after_growth(tensor, successors) for tensor in piece["params"]]
                if "param_names" in piece:
                    piece["param_names"] = [
                        structure.parameter_names.get(cast(nn.Parameter, tensor), name)
                        for tensor, name in zip(now, piece["param_names"], strict=True)
                        if tensor is not None
                    ]
                piece["params"] = [tensor for tensor in now if tensor is not None]
            self.pieces_by_group[origin] = [piece for piece in pieces if piece["params"]] or pieces[:1]
        before, self.group_infos = self.group_infos, {}
        for piece in (piece for pieces in self.pieces_by_group for piece in pieces):
            info = before[piece["name"]]
            if not piece["params"]:
                info = info_of_emptied_piece(info, self.group_infos)
            owners = (structure.owner[tensor] for tensor in piece["params"] if tensor in structure.owner)
            self.group_infos[info.name] = replace(info, component=next(owners, info.component))
            piece["name"] = info.name
        self._install()

    def add(self, new_pieces: Sequence[NewbornPiece]) -> None:
        """Add pieces with the settings of their templates.

        Each is placed behind the last piece of the same user's group, where a resumed run places it, too.
        """
        for new in new_pieces:
            origin = new.info.origin
            template = next(piece for piece in self.pieces_by_group[origin] if piece["name"] == new.template)
            tensors = list(new.tensors.items()) if "param_names" in template else list(new.tensors.values())
            # the optimizer's own method checks and completes the group; it appends at the end, so the piece moves
            self.optimizer.add_param_group(make_piece(template, {"params": tensors}, new.info.name))
            self.pieces_by_group[origin].append(self.optimizer.param_groups.pop())
            self.group_infos[new.info.name] = new.info
        self._install()

    def release(self) -> None:
        """Give the user's groups back to the optimizer."""
        self.settings.collect()
        for one in with_inner(self.optimizer):
            set_groups(one, self.lists_of(one).user)
        for name, values in self._lists_by_group:
            setattr(self.optimizer, name, values)

    def _make_pieces(self, group: Group, origin: int) -> list[Group]:
        """Make the pieces of one of the user's groups."""
        any_decays = any(other.get("weight_decay") for other in self.user)
        suffix = group.get("name") or ("no_decay" if any_decays and group.get("weight_decay") == 0 else "")
        pieces = []
        runs = list(component_runs(group["params"], self.structure, self._split_1d))
        for component, is_1d, run in runs or [(EMPTY, False, [])]:
            name = unique_name(component, suffix, self.group_infos, is_1d)
            self.group_infos[name] = GroupInfo(name, component, origin, suffix, is_1d)
            lists = {key: [group[key][index] for index in run] for key in PER_TENSOR_KEYS if key in group}
            pieces.append(make_piece(group, lists, name))
        return pieces

    def _install(self) -> None:
        """Give the pieces to the optimizers, and the tensors of the pieces to the user's groups.

        Lists of groups and of tensors are changed in place: wrappers and the user's code hold references to them. The
        lists that an optimizer keeps by group are replaced by new ones.
        """
        pieces_of = {id(group): pieces for group, pieces in self}
        for _, lists in self._lists:
            lists.pieces[:] = [piece for group in lists.user for piece in pieces_of.get(id(group), [group])]
        for optimizer, lists in self._lists:
            set_groups(cast(Optimizer, optimizer()), lists.pieces)
        for group, pieces in self:
            for key in PER_TENSOR_KEYS:
                if key in group:
                    group[key][:] = [item for piece in pieces for item in piece[key]]
        self._installed = [list(group["params"]) for group in self.user]
        origins = [origin for origin, pieces in enumerate(self.pieces_by_group) for _ in pieces]
        for name, values in self._lists_by_group:
            entries = type(values)(copy_if_mutable(values[origin]) for origin in origins if origin < len(values))
            setattr(self.optimizer, name, entries)


def _counts_differ(tensors: Sequence[Tensor], pieces: Sequence[Group], installed: Sequence[Tensor]) -> bool:
    return len(tensors) != len(installed)


def _tensors_differ(tensors: Sequence[Tensor], pieces: Sequence[Group], installed: Sequence[Tensor]) -> bool:
    """Whether the tensors of one of the user's groups, or of its pieces, are others than those installed."""
    in_pieces = [tensor for piece in pieces for tensor in piece["params"]]
    return not (_same_tensors(tensors, installed) and _same_tensors(in_pieces, installed))


def _same_tensors(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(map(is_, first, second))
