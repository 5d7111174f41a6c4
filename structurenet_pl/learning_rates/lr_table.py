"""The table of learning rates of one optimizer, and the one place that writes them: base lr × product of factors."""

from collections.abc import Mapping
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch.optim import Optimizer

from structurenet_pl.learning_rates.base_lrs import BaseLRs
from structurenet_pl.learning_rates.cohort_updates import CohortUpdates
from structurenet_pl.learning_rates.factor_matrix import FactorMatrix
from structurenet_pl.learning_rates.factors import Factors, Vector
from structurenet_pl.learning_rates.foreign_writes import LastWrite
from structurenet_pl.learning_rates.state_dict_hooks import StateDictHooks
from structurenet_pl.learning_rates.table_growth import TableGrowth
from structurenet_pl.optim.group_settings import write_setting
from structurenet_pl.optim.param_groups import Group, copy_if_mutable
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.optim.state_kinds import state_kinds
from structurenet_pl.optim.wrappers import after_closure, hookable_optimizers, with_inner
from structurenet_pl.structure.partition import Structure


class LRTable:
    """The learning rates of an optimizer whose param groups are split by component.

    The optimizer steps on pieces: each is a param group with tensors of one component, split from one of the user's
    groups. The table has a row for each piece, in the order of ``optimizer.param_groups``. The columns are held by the
    parts of the table: ``base_lrs``, ``matrix`` (the factors and their product) and ``last_write`` (the effective lrs).
    Logs, pictures and ``explain`` read these parts.

    The driver has ``Factors`` evaluate the factors of all components, and then calls ``refresh``, which reads
    them into the matrix and assigns ``piece["lr"] = base lr * product``.

    Args:
        optimizer: Any optimizer that takes several groups.
        structure: Says which tensor belongs to which component.
        factors: The factors, as they were last evaluated.
    """

    def __init__(self, optimizer: Optimizer, structure: Structure, factors: Factors) -> None:
        self._optimizer = ref(optimizer)  # weak, so that the table does not keep its key in _TABLES alive
        for part in with_inner(optimizer):
            state_kinds(part)  # remembers the settings that the optimizer was made with, before groups are split
        self._factors = factors
        self.groups = SplitGroups(optimizer, structure, factors.split_1d)
        self.last_write = LastWrite(self.groups)
        self.base_lrs = BaseLRs(self.groups, self.last_write)
        self.matrix = FactorMatrix(factors, self.groups)
        self.version = 0  # increases whenever lrs are written
        self._bases: Vector | None = None  # base lrs as a vector, if they are numbers
        self.growth = TableGrowth(self.groups, self.base_lrs, self.last_write)
        self.state_dict_hooks = StateDictHooks(self.groups, self.base_lrs, self.absorb_new_groups, self._write)
        # a wrapper comes first: the optimizers in it step, and may write lrs, within its step
        stepping = hookable_optimizers(optimizer)[0]
        self._step_hooks = [
            stepping.register_step_pre_hook(self._before_update),
            stepping.register_step_post_hook(self._after_update),
        ]
        self.cohort_updates = CohortUpdates(self.groups, self.matrix)
        _TABLES[optimizer] = ref(self)
        self.refresh()

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer whose lrs the table writes."""
        return cast(Optimizer, self._optimizer())

    @property
    def lrs(self) -> list[Any]:
        """The effective lr of each piece, as it was last written; None for a piece without one."""
        return self.last_write.lrs

    def refresh(self) -> None:
        """Give pieces and user's groups the lrs and the settings that were written last."""
        self.refresh_lrs()
        self.groups.settings.collect()

    def refresh_lrs(self) -> None:
        """Write the effective lr of every piece, if a base lr or a factor has changed."""
        new_bases = self._collect_writes()
        # versions are compared here, and not in update(), to save the call in steps in which nothing has changed
        if new_bases or self.matrix.version != self._factors.version:
            changed = self.matrix.update(self.last_write.pieces_changed)
            if new_bases or changed:
                self._write(new_bases)

    def before_user_groups_are_read(self) -> None:
        """Write the lrs to the user's groups that somebody has written to their pieces."""
        if not self.last_write.is_untouched():
            self.refresh_lrs()

    def after_user_groups_were_written(self) -> None:
        """Have the pieces follow the user's groups."""
        if not self.base_lrs.user_lrs_are_untouched():
            self.refresh_lrs()
        self.groups.settings.pass_on_from_loop()

    def apply_gradient_factors(self, vectors: Mapping[str, Vector]) -> None:
        """Write the effective lrs with new values of the factors that need gradients, right after a refresh.

        Args:
            vectors: The values for each component, by label of the factor.
        """
        self.matrix.set_columns(vectors)
        self._write(new_bases=False)

    def absorb_new_groups(self) -> None:
        """Split groups and tensors that somebody else has added, in whatever way."""
        self.refresh()
        if self.groups.absorb_new_groups(thoroughly=True):
            self.last_write.forget()
            self.refresh()

    def release(self) -> None:
        """Give the user's groups back to the optimizer, with base lrs.

        The pieces get base lrs, too: a scheduler may still hold a piece.
        """
        self._collect_writes()
        for piece, base in zip(self.optimizer.param_groups, self.base_lrs.of_pieces(), strict=True):
            if base is not None:
                write_setting(piece, "lr", base)
        self.groups.release()
        self.state_dict_hooks.remove()
        for hook in self._step_hooks:
            hook.remove()
        del _TABLES[self.optimizer]

    def as_base(self, piece: Group, value: Any) -> Any:
        """The base lr of a piece if the value was read from the lr of this piece, else the value.

        The value was read there if it is the same object. That holds for floats only: schedulers copy lrs that are
        tensors.
        """
        rows = zip(self.matrix.piece_names, self.lrs, self.base_lrs.of_pieces(), strict=True)
        return next((copy_if_mutable(base) for name, lr, base in rows if name == piece["name"] and lr is value), value)

    def _collect_writes(self) -> bool:
        """Collect lrs and groups that somebody else has written; whether base lrs or pieces have changed."""
        pieces_are_untouched = self.last_write.is_untouched()
        if pieces_are_untouched and self.base_lrs.user_lrs_are_untouched():
            return False
        changed = self.last_write.pieces_changed or self.base_lrs.collect_writes(self.matrix.product)
        groups_were_added = len(self.groups.user) > len(self.groups.pieces_by_group)
        if (groups_were_added or not pieces_are_untouched) and self.groups.absorb_new_groups():
            self.last_write.forget()
        self.base_lrs.record_user_lrs()
        return changed or self.last_write.pieces_changed

    def _write(self, new_bases: bool = True) -> None:
        """Write base lr × product of factors to every piece: no other place assigns an effective lr.

        Args:
            new_bases: Whether base lrs or pieces may have changed since the last write.
        """
        self.cohort_updates.update()
        pieces = self.optimizer.param_groups
        if new_bases:
            self._bases = self.base_lrs.as_vector()
        if self._bases is not None:
            lrs: list[Any] = (self._bases * self.matrix.product).tolist()
            for piece, lr in zip(pieces, lrs, strict=True):
                piece["lr"] = lr
        else:
            rows = zip(pieces, self.base_lrs.of_pieces(), self.matrix.product.tolist(), strict=True)
            for piece, base, factor in rows:
                if base is not None:
                    write_setting(piece, "lr", base * factor)  # writes a tensor in place
            lrs = [piece.get("lr") for piece in pieces]
        self.last_write.record(lrs)
        self.version += 1

    def _before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Refresh lrs with those written after our callbacks: by hooks of the module or in a wrapped step."""
        if torch.compiler.is_compiling():
            # torch.compile traces the hooks along with the step, and cannot trace this code; with disable it calls it
            if self.matrix.slow:
                return torch.compiler.disable(self._before_update)(optimizer, args, kwargs)
            return None
        self.cohort_updates.kept = None  # a step that raised has left its copies
        return after_closure(args, kwargs, self._refresh_and_keep)

    def _refresh_and_keep(self) -> None:
        """Refresh when gradients are known, and copy the entries of slow cohorts."""
        self.refresh()
        if self.matrix.slow:
            self.cohort_updates.keep()
        elif self.cohort_updates.kept is None:
            self.cohort_updates.kept = []

    def _after_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Scale the updates of slow cohorts. Warn if an lr was written in the step itself, after the last refresh."""
        if torch.compiler.is_compiling():
            if self.matrix.slow:
                torch.compiler.disable(self._after_update)(optimizer, args, kwargs)
            return
        if self.cohort_updates.kept:
            self.cohort_updates.scale()
        self.cohort_updates.kept = None
        if self.base_lrs.warning.given or not self.matrix.acts or self.last_write.is_untouched():
            return
        if acted_on := [row for row in self.last_write.rows_written_since() if self.matrix.product[row] != 1]:
            piece = self.optimizer.param_groups[acted_on[0]]
            self.base_lrs.warning.warn_of_write_in_step(piece, type(optimizer).__name__)


_TABLES: WeakKeyDictionary[Optimizer, "ref[LRTable]"] = WeakKeyDictionary()


def table_of(optimizer: Optimizer) -> LRTable | None:
    """The table that writes the lrs of an optimizer; it may be of an earlier fit."""
    held = _TABLES.get(optimizer)
    return None if held is None else held()
