"""The table of learning rates of one optimizer, and the one writer of them: base lr × product of factors."""

from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.learning_rates.base_lrs import LR_OF, BaseLRs, Lrs
from structurenet_pl.learning_rates.factors import Factors, Vector, product
from structurenet_pl.optim.group_checkpoints import (
    install_loaded_groups,
    state_with_pieces,
    state_with_user_groups,
)
from structurenet_pl.optim.group_settings import write_setting
from structurenet_pl.optim.newborn_tensors import NewbornPiece
from structurenet_pl.optim.param_groups import Group, GroupInfo, copy_if_mutable
from structurenet_pl.optim.scheduler_view import UnsplitOptimizer
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.optim.state_kinds import state_kinds
from structurenet_pl.optim.wrappers import after_closure, hookable_optimizers, with_inner
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.tensor_mapping import Successor


class LRTable:
    """All that is known of the learning rates of an optimizer whose param groups are split by component.

    It has a row for each piece: its base lr, the factors, their product, and the effective lr, which stands in the
    piece. Whoever shows learning rates reads it. A state dict of the optimizer holds the user's groups and base lrs, so
    anyone can load it.

    Args:
        optimizer: Any optimizer that takes several groups.
        structure: Says which tensor belongs to which component.
        known: The factors, as they were last evaluated.
    """

    def __init__(self, optimizer: Optimizer, structure: Structure, known: Factors) -> None:
        self._optimizer = ref(optimizer)  # weak: a table lives as long as its optimizer, not the other way round
        for one in with_inner(optimizer):
            state_kinds(one)  # while it is as it was made
        self.groups = SplitGroups(optimizer, structure, known.split_1d)
        self.bases = BaseLRs(self.groups)
        self.names: list[str] = []
        self.factors = np.ones((0, len(known)))  # a row for each piece, a column for each label
        self.product = np.ones(0)
        self.version = 0  # moves whenever lrs are written
        self._known = known
        self._known_version = -1
        self._row_of: Mapping[str, int] = {}
        self._columns: dict[str, Vector] = {}  # as the factors gave them
        self._standing: Lrs | None = None  # what was written to the pieces; None if pieces have come or gone since
        self._left: list[Any] | None = None  # what stood in the groups then; None if that does not tell
        self._own_to_load: Mapping[str, Mapping[str, Any]] = {}
        self._loading: list[Group] = []
        self._hooks = []
        for one in hookable_optimizers(optimizer):
            self._hooks.append(one.register_state_dict_post_hook(self._save))
            self._hooks.append(one.register_load_state_dict_pre_hook(self._prepare_load))
            self._hooks.append(one.register_load_state_dict_post_hook(self._load))
        self._hooks.append(hookable_optimizers(optimizer)[0].register_step_pre_hook(self._before_update))
        self._hooks.append(hookable_optimizers(optimizer)[0].register_step_post_hook(self._look_back))
        _TABLES[optimizer] = self
        self.refresh()

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer whose lrs it writes."""
        return cast(Optimizer, self._optimizer())

    @property
    def group_infos(self) -> Mapping[str, GroupInfo]:
        """What each of the pieces stands for, by name."""
        return self.groups.group_infos

    @property
    def lrs(self) -> list[Any]:
        """The effective lr of each piece, as it was written; None where there is none."""
        return self._standing.values if self._standing else []

    @property
    def written(self) -> list[int]:
        """The rows of the pieces whose lr somebody else has written since."""
        return self._standing.changed(self.optimizer.param_groups) if self._standing else []

    @property
    def stand_ins(self) -> dict[int, UnsplitOptimizer]:
        """What schedulers see in place of the optimizer and of those inside it, by the ``id`` of these."""
        return {id(one): UnsplitOptimizer(one, self) for one in with_inner(self.optimizer)}

    def absorb_new_groups(self) -> None:
        """Take over groups and tensors that somebody else has added, however they did it."""
        self.refresh()
        if self.groups.absorb_new_groups(thoroughly=True):
            self._standing = None
            self.refresh()

    def refresh(self) -> None:
        """Set every effective lr from its base and the factors, if any of them has moved."""
        taken = self._take()
        moved = (taken or self._known.version != self._known_version) and self._read_factors()
        if taken or moved:
            self._write()

    def measure(self, vectors: Mapping[str, Vector]) -> None:
        """Take in the factors that need gradients, by label."""
        self.refresh()
        for label, vector in vectors.items():
            self._set_column(label, vector)
        self.product = product(self.factors)
        self._write()

    def release(self) -> None:
        """Give the user's groups back to the optimizer, with base lrs, also in the pieces: somebody may hold them."""
        self._take()
        for piece, base in zip(self.optimizer.param_groups, self.bases.of_pieces(), strict=True):
            if base is not None:
                write_setting(piece, "lr", base)
        self.groups.release()
        for hook in self._hooks:
            hook.remove()
        del _TABLES[self.optimizer]

    def replace(self, successors: Mapping[nn.Parameter, Successor | None], structure: Structure) -> None:
        """Put the successors of tensors in their places, and take out what is gone."""
        self._take()
        self.groups.replace(successors, structure)
        for name in self.bases.own.keys() - self.group_infos.keys():
            del self.bases.own[name]  # a name may come back, for somebody else
        self._standing = None

    def add(self, new_pieces: Sequence[NewbornPiece]) -> None:
        """Add a piece for each, with the settings of its template and the same base lr."""
        self.groups.add(new_pieces)
        for new in new_pieces:
            if new.template in self.bases.own:
                self.bases.own[new.info.name] = copy_if_mutable(self.bases.own[new.template])
        self._standing = None

    def undo_point(self) -> Callable[[], None]:
        """A function that puts groups and base lrs back as they are now."""
        self.refresh()
        groups, bases = self.groups.undo_point(), dict(self.bases.own)

        def undo() -> None:
            groups()
            self.bases.own = bases
            self._standing = None

        return undo

    def settings_of_single_pieces(self) -> dict[str, Group]:
        """What stands in single pieces only, by name of the piece: somebody wrote it there."""
        self.refresh()
        found = self.groups.settings.settings_of_single_pieces()
        for name, lr in self.bases.own.items():
            found[name] = found.get(name, {}) | {"lr": copy_if_mutable(lr)}
        return found

    def expect_piece_settings(self, more: Mapping[str, Mapping[str, Any]]) -> None:
        """Give single pieces settings of their own, which :meth:`differing` found, when the next state is loaded."""
        self._own_to_load = more

    def as_base(self, piece: Group, value: Any) -> Any:
        """The base lr of a piece, if a value was read from its lr, else the value.

        That is known by identity, as for floats; tensors are copied when they are read.
        """
        rows = zip(self.names, self.lrs, self.bases.of_pieces(), strict=True)
        return next((copy_if_mutable(base) for name, lr, base in rows if name == piece["name"] and lr is value), value)

    def _take(self) -> bool:
        """Take over what others have written and added; tell if that moves an lr."""
        if self._as_left():
            return False
        written = self._standing is None or self.bases.take(self._standing, self.product)
        if self.groups.absorb_new_groups():
            self._standing = None
        self.groups.settings.collect()
        self.bases.start()
        self._note_what_stands()
        return written or self._standing is None

    def _as_left(self) -> bool:
        """Whether nobody has written anything since we did: a shortcut, which tensors have to do without."""
        if self._standing is None or self._left is None:
            return False
        now = self._look()
        return len(now) == len(self._left) and all(map(is_, now, self._left))

    def _look(self) -> list[Any]:
        """The objects that are the lrs of all pieces and the settings of the user's groups and of the first pieces.

        What is written to all pieces is written to the first, too.
        """
        found = list(map(LR_OF, cast(Optimizer, self._optimizer()).param_groups))
        for group, pieces in zip(self.groups.user, self.groups.pieces, strict=False):
            found.extend(group.values())
            found.extend(pieces[0].values())
        return found

    def _note_what_stands(self) -> None:
        self._left = self._look()
        if any(issubclass(kind, Tensor) for kind in set(map(type, self._left))):
            self._left = None  # they can be written in place

    def _read_factors(self) -> bool:
        """Fill the columns of the factors that have moved, all of them if rows have come or gone; tell if any has."""
        if self._standing is None or self._row_of is not self._known.rows:
            self._make_rows()
        elif self._known_version == self._known.version:
            return False
        self._known_version = self._known.version
        moved = [label for label, vector in self._known.vectors.items() if vector is not self._columns.get(label)]
        for label in moved:
            self._columns[label] = self._known.vectors[label]
            self._set_column(label, self._columns[label])
        if moved or self._standing is None:
            self.product = product(self.factors)
        return bool(moved)

    def _make_rows(self) -> None:
        """Make a row for each piece; what was measured of one stays."""
        before = dict(zip(self.names, self.factors, strict=True))
        slots = [self.group_infos[piece["name"]] for piece in self.optimizer.param_groups]
        names = [slot.name for slot in slots]
        if names != self.names:
            self.names = names  # who keeps the list sees by that whether the rows are still the same
        self.factors = np.ones((len(slots), len(self._known)))
        for row, name in enumerate(self.names):
            self.factors[row] = before.get(name, 1.0)
        self._row_of = self._known.rows
        self._rows = np.array([self._row_of.get(slot.component, -1) for slot in slots], dtype=np.intp)
        self._is_1d = np.array([slot.is_1d for slot in slots], dtype=bool)
        self._columns.clear()

    def _set_column(self, label: str, vector: Vector) -> None:
        column = vector[self._rows]
        if self._known[label].skip_1d:
            column[self._is_1d] = 1.0
        self.factors[:, self._known.order[label]] = column

    def _write(self) -> None:
        pieces, bases = self.optimizer.param_groups, self.bases.of_pieces()
        if set(map(type, bases)) | {type(piece.get("lr")) for piece in pieces} <= {float, int}:
            values: list[Any] = (np.array(bases, dtype=np.float64) * self.product).tolist()
            for piece, lr in zip(pieces, values, strict=True):
                piece["lr"] = lr
        else:
            for piece, base, factor in zip(pieces, bases, self.product.tolist(), strict=True):
                if base is not None:
                    write_setting(piece, "lr", base * factor)  # a tensor in place
            values = [piece.get("lr") for piece in pieces]
        self._standing = Lrs(values)
        self._note_what_stands()
        self.version += 1

    def _before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Take over what has been written in the last hooks before the update, after all of ours."""
        return None if torch.compiler.is_compiling() else after_closure(args, kwargs, self.refresh)

    def _look_back(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Say if an lr was written again between the last refresh and the update."""
        if torch.compiler.is_compiling() or self.bases.foreign.told or self._as_left():
            return
        if acted_on := [row for row in self.written if self.product[row] != 1]:
            self.bases.foreign.in_step(self.optimizer.param_groups[acted_on[0]], type(optimizer).__name__)

    def _save(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        self.absorb_new_groups()
        return state_with_user_groups(self.groups, optimizer, state)

    def _prepare_load(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        self._loading = state["param_groups"]
        return state_with_pieces(self.groups, optimizer, state, self._own_to_load)

    def _load(self, optimizer: Optimizer) -> None:
        install_loaded_groups(self.groups, optimizer, self._loading)
        self.bases.own = {
            name: copy_if_mutable(values["lr"]) for name, values in self._own_to_load.items() if "lr" in values
        }
        self.bases.start()
        self._own_to_load, self._loading = {}, []
        self._write()


_TABLES: WeakKeyDictionary[Optimizer, LRTable] = WeakKeyDictionary()


def table_of(optimizer: Optimizer) -> LRTable | None:
    """The table that writes the lrs of an optimizer, from an earlier fit perhaps."""
    return _TABLES.get(optimizer)
