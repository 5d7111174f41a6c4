"""The tables of all optimizers in a fit: splitting of groups, growth, checkpoints."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.learning_rates.lr_table import LRTable, table_of
from structurenet_pl.lightning import MisconfigurationException, Trainer
from structurenet_pl.optim.group_checkpoints import restore_group_order, save_layout
from structurenet_pl.optim.newborn_tensors import place_newborn
from structurenet_pl.optim.optimizer_state import carry_states, check_accepts_parameter
from structurenet_pl.optim.param_groups import audit, membership_counts
from structurenet_pl.optim.schedulers import SchedulerRedirection
from structurenet_pl.optim.step_check import StepCheck
from structurenet_pl.structure.grow import Change
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.tensor_mapping import tensor_after_growth

CHECKPOINT_KEY = "structurenet_pl"


class LRTables(dict[Optimizer, LRTable]):
    """One table for each optimizer of a Trainer, in the order of ``trainer.optimizers``.

    Args:
        trainer: The Trainer. Its optimizers exist from the start of a fit.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer
        self.schedulers = SchedulerRedirection(trainer, self)
        self.step_check = StepCheck()

    def lr_report(self) -> dict[str, float]:
        """The effective lrs as they were last written, by a description for messages: ranks compare these reports."""
        return {
            f"the lr of {name} in optimizer {number}": float(lr)
            for number, table in enumerate(self.values())
            for name, lr in zip(table.matrix.piece_names, table.lrs, strict=True)
            if lr is not None
        }

    def release_previous_fit(self) -> None:
        """Give optimizers that are used in a second fit their groups back, which the tables of the first have split."""
        for optimizer in self._trainer.optimizers:
            if (table := table_of(optimizer)) is not None:
                self.schedulers.move_to_user_groups(table)  # while the table still knows which lr was read from where
                table.release()

    def split_groups(self, structure: Structure, factors: Factors) -> None:
        """Split the groups of each new optimizer by component, and redirect schedulers to the user's groups.

        Args:
            structure: Says which tensor belongs to which component.
            factors: The factors, as they were last evaluated.
        """
        for optimizer in set(self) - set(self._trainer.optimizers):
            self.pop(optimizer).release()
        new = [optimizer for optimizer in self._trainer.optimizers if optimizer not in self]
        for optimizer in self._trainer.optimizers:  # pop and insert: the dict gets the order of the Trainer
            self[optimizer] = self.pop(optimizer) if optimizer in self else LRTable(optimizer, structure, factors)
        for optimizer in new:
            self._check_saves(optimizer)
        self.schedulers.redirect_from([self[optimizer] for optimizer in new])
        self.step_check.start(self.values())

    def end_fit(self) -> None:
        """Have schedulers refer to the optimizers again. The groups stay split: lrs can be read after the fit."""
        self.step_check.stop()
        self.schedulers.restore_references()

    def restore_group_order(self, structure: Structure, layouts: Sequence[Any]) -> None:
        """Put the parameters into the user's groups in the order in which a checkpoint had them.

        Args:
            structure: Gives parameters their names.
            layouts: From ``checkpoint_state``, for each optimizer.

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
        """Give single pieces settings of their own when the states of the optimizers are loaded.

        Args:
            settings: From ``checkpoint_state``, for each optimizer.
        """
        for table, by_piece in zip(self.values(), settings, strict=False):
            table.state_dict_hooks.expect_piece_settings(by_piece)

    def checkpoint_state(self, structure: Structure) -> dict[str, Any]:
        """The part of a checkpoint that does not fit into the states of the optimizers: these hold the user's groups.

        Args:
            structure: Gives parameters their names.
        """
        for table in self.values():
            table.refresh()
        return {
            "groups": [save_layout(table.groups.user, structure.parameter_names) for table in self.values()],
            "settings": [table.state_dict_hooks.settings_of_single_pieces() for table in self.values()],
        }

    @contextmanager
    def carry_growth(self, change: Change, split_1d: bool) -> Iterator[None]:
        """Carry a growth of the network into the optimizers.

        If this or the body of the ``with`` raises, the optimizers are restored. Before the fit there are no tables, and
        the optimizers will be made for the grown network.

        Args:
            change: The tensors, modules and components that the growth has changed.
            split_1d: Whether one-dimensional tensors get groups of their own.
        """
        if not self:
            yield
            return
        structure = change.structure
        self.schedulers.redirect_new(everywhere=False)  # before growth removes pieces on which schedulers were made
        expected = Counter[Tensor]()
        for tensor, count in membership_counts(self).items():
            if (now := tensor_after_growth(tensor, change.successors)) is not None:
                expected[now] += count
        # by date and not by name: a pattern of Components may have split a newborn component
        born = [name for name in structure.parameters if structure.components[name].born == change.event.clock]
        expected.update(tensor for name in born for tensor in structure.parameters[name].values())
        with ExitStack() as undo:
            for optimizer, table in self.items():
                table.refresh()  # collects lrs that somebody has written to pieces, before growth removes pieces
                undo.callback(table.growth.undo_point())
                undo.callback(
                    carry_states(optimizer, change.successors, change.second_moments, structure.parameter_names)
                )
                table.growth.replace(change.successors, structure)
            slots = {optimizer: table.groups.group_infos for optimizer, table in self.items()}
            joining = place_newborn(slots, structure, born, change.like, split_1d)
            for optimizer, new_pieces in joining.items():
                for name, tensor in (item for new in new_pieces for item in new.tensors.items()):
                    check_accepts_parameter(optimizer, tensor.ndim, name)
                self[optimizer].growth.add(new_pieces)
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
