"""The tables of all optimizers in a fit, and what they have in common: layout, schedulers, growth, checkpoints."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.learning_rates.lr_table import LRTable, table_of
from structurenet_pl.lightning import MisconfigurationException, Trainer
from structurenet_pl.optim.group_checkpoints import restore_group_order, save_layout
from structurenet_pl.optim.late_schedulers import adapt
from structurenet_pl.optim.newborn_tensors import place_newborn
from structurenet_pl.optim.optimizer_state import carry_states, check_accepts_parameter
from structurenet_pl.optim.param_groups import audit, membership_counts
from structurenet_pl.optim.references import (
    References,
    attributes_of,
    ids_of_referenced_optimizers,
    reachable,
    set_attribute,
)
from structurenet_pl.optim.scheduler_view import real_optimizer
from structurenet_pl.optim.step_check import StepCheck
from structurenet_pl.structure.grow import Change
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.tensor_mapping import tensor_after_growth

CHECKPOINT_KEY = "structurenet_pl"


class LRTables(dict[Optimizer, LRTable]):
    """One table for each optimizer of a Trainer.

    Args:
        trainer: Its optimizers exist from the start of a fit.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer
        self._references = References()
        self.step_check = StepCheck()
        self._revealed: list[tuple[Any, Any]] = []

    @property
    def schedulers(self) -> list[Any]:
        """The schedulers that Lightning knows."""
        return [config.scheduler for config in self._trainer.lr_scheduler_configs]

    def lrs(self) -> dict[str, float]:
        """The effective lrs as they were last refreshed, by optimizer and param group."""
        return {
            f"the lr of {name} in optimizer {number}": float(lr)
            for number, table in enumerate(self.values())
            for name, lr in zip(table.names, table.lrs, strict=True)
            if lr is not None
        }

    def release_previous_fit(self) -> None:
        """Give back what tables of an earlier fit have split, of optimizers that are used again."""
        for optimizer in self._trainer.optimizers:
            if (table := table_of(optimizer)) is not None:
                self._adapt([table], self.schedulers)
                table.release()

    def split_groups(self, structure: Structure, factors: Factors) -> None:
        """Give each optimizer groups by component and a table where it has none, and schedulers the user's groups.

        Optimizers that are gone are forgotten.
        """
        for optimizer in set(self) - set(self._trainer.optimizers):
            self.pop(optimizer).release()
        new = [optimizer for optimizer in self._trainer.optimizers if optimizer not in self]
        for optimizer in self._trainer.optimizers:  # in this order
            self[optimizer] = self.pop(optimizer) if optimizer in self else LRTable(optimizer, structure, factors)
        for optimizer in new:
            self._check_saves(optimizer)
        self._stand_in([self[optimizer] for optimizer in new], [*self.schedulers, *self._keepers()])
        self.step_check.start(self.values())
        self._note([*self.schedulers, *self._kept()])

    def redirect_schedulers(self, everywhere: bool = True) -> None:
        """Give schedulers that were made in mid-fit the user's groups.

        Args:
            everywhere: Whether to look for those that module and callbacks keep, too, which takes its time.
        """
        found = [scheduler for scheduler in self.schedulers if not _is_noted(scheduler)]
        if everywhere:
            for table in self.values():
                table.absorb_new_groups()
            found += [scheduler for scheduler in self._kept() if not _is_noted(scheduler)]
        if found:
            self._adapt(list(self.values()), found)
            self._stand_in(list(self.values()), found)
            self._note(found)

    def restore_references(self) -> None:
        """Have everybody refer to the optimizers again."""
        self.step_check.stop()
        if self:
            self._references.restore([*self.schedulers, *self._keepers()])

    def show_optimizers(self) -> None:
        """Have the schedulers that Lightning knows refer to the optimizers themselves until :meth:`conceal`."""
        self._revealed = [
            (scheduler, stand_in)
            for scheduler in self.schedulers
            if isinstance(stand_in := attributes_of(scheduler).get("optimizer"), Optimizer)
        ]
        for scheduler, stand_in in self._revealed:
            set_attribute(scheduler, "optimizer", real_optimizer(stand_in))

    def show_user_groups(self) -> None:
        """The end of :meth:`reveal`."""
        while self._revealed:
            scheduler, stand_in = self._revealed.pop()
            set_attribute(scheduler, "optimizer", stand_in)

    def restore_group_order(self, structure: Structure, layouts: Sequence[Any]) -> None:
        """Put the parameters into the user's groups in the order in which a checkpoint had them.

        Raises:
            ValueError: If the checkpoint does not fit.
        """
        if len(layouts) != len(self._trainer.optimizers):
            raise ValueError(
                f"the checkpoint has {len(layouts)} optimizers, configure_optimizers gave "
                f"{len(self._trainer.optimizers)}. Resume with the configure_optimizers that wrote it."
            )
        for optimizer, layout in zip(self._trainer.optimizers, layouts, strict=True):
            restore_group_order(optimizer, structure, layout)

    def expect_piece_settings(self, settings: Sequence[Any]) -> None:
        """What stands in single pieces, to be loaded with the state of the optimizers."""
        for table, more in zip(self.values(), settings, strict=False):
            table.expect_piece_settings(more)

    def checkpoint_state(self, structure: Structure) -> dict[str, Any]:
        """What a checkpoint needs beside the states of the optimizers, which hold the user's groups as without us."""
        return {
            "groups": [save_layout(table.groups.user, structure.parameter_names) for table in self.values()],
            "settings": [table.settings_of_single_pieces() for table in self.values()],
        }

    @contextmanager
    def carry_growth(self, change: Change, split_1d: bool) -> Iterator[None]:
        """Follow a growth into the optimizers.

        If that or the body of the ``with`` raises, they are as they were. Before there are tables, the optimizers are
        still to be made.

        Args:
            change: What the growth has changed.
            split_1d: Whether one-dimensional tensors get groups of their own.
        """
        if not self:
            yield
            return
        structure = change.structure
        self.redirect_schedulers(everywhere=False)
        expected = Counter[Tensor]()
        for tensor, count in membership_counts(self).items():
            if (now := tensor_after_growth(tensor, change.successors)) is not None:
                expected[now] += count
        # by date, because a pattern may have split what was born
        born = [name for name in structure.parameters if structure.components[name].born == change.event.clock]
        expected.update(tensor for name in born for tensor in structure.parameters[name].values())
        with ExitStack() as undo:
            for optimizer, table in self.items():
                undo.callback(table.undo_point())
                undo.callback(
                    carry_states(optimizer, change.successors, change.second_moments, structure.parameter_names)
                )
                table.replace(change.successors, structure)
            slots = {optimizer: table.group_infos for optimizer, table in self.items()}
            joining = place_newborn(slots, structure, born, change.like, split_1d)
            for optimizer, new_pieces in joining.items():
                for name, tensor in (item for new in new_pieces for item in new.tensors.items()):
                    check_accepts_parameter(optimizer, tensor.ndim, name)
                self[optimizer].add(new_pieces)
            audit(self, expected)
            yield
            undo.pop_all()

    def _check_saves(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer whose state dict does not show the user's groups, because it calls no hooks.

        Raises:
            MisconfigurationException: If it shows the pieces.
        """
        saved = [len(group["params"]) for group in optimizer.state_dict()["param_groups"]]
        if saved != [len(group["params"]) for group in self[optimizer].groups.user]:
            self.pop(optimizer).release()
            raise MisconfigurationException(
                f"{type(optimizer).__name__}.state_dict() calls none of torch's hooks, so a checkpoint would hold its "
                "param groups as they are split by component. Let it call super().state_dict()."
            )

    def _keepers(self) -> list[object]:
        """Who may keep schedulers beside Lightning: all but the driver, which keeps these."""
        keepers = [self._trainer.lightning_module, *self._trainer.callbacks]
        return [keeper for keeper in keepers if vars(keeper).get("tables") is not self]

    def _kept(self) -> list[Any]:
        """The schedulers that these keep."""
        return [one for one in reachable(self._keepers()) if isinstance(one, LRScheduler)]

    def _stand_in(self, tables: Iterable[LRTable], roots: Sequence[object]) -> None:
        stand_ins = {key: stand_in for table in tables for key, stand_in in table.stand_ins.items()}
        if stand_ins:
            self._references.replace(roots, stand_ins)

    def _adapt(self, tables: Iterable[LRTable], schedulers: Iterable[Any]) -> None:
        """Have schedulers that were made on pieces be ones made on the user's groups."""
        for scheduler in (scheduler for scheduler in schedulers if not _is_noted(scheduler)):
            for table in tables:
                if ids_of_referenced_optimizers(scheduler) & table.stand_ins.keys():
                    adapt(list(reachable([scheduler])), table.groups, table.as_base)

    def _note(self, schedulers: Iterable[Any]) -> None:
        """Remember who has the user's groups."""
        for scheduler in schedulers:
            with suppress(TypeError):  # of a class that takes no weak references
                _NOTED[id(scheduler)] = scheduler


def _is_noted(scheduler: Any) -> bool:
    return _NOTED.get(id(scheduler)) is scheduler


_NOTED: WeakValueDictionary[int, Any] = WeakValueDictionary()
