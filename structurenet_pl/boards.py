"""The boards of all optimizers in a fit, and what they have in common: layout, growth, checkpoints."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from structurenet_pl.board import Board, board_of
from structurenet_pl.comparison import Change
from structurenet_pl.components import Structure
from structurenet_pl.lightning import Trainer
from structurenet_pl.successors import continued
from structurenet_pl.surgery.checkpoints import (
    arrange,
    join_scheduler_state,
    join_state,
    own_settings,
    save_layout,
    split_scheduler_state,
    split_state,
)
from structurenet_pl.surgery.param_groups import (
    add_groups,
    audit,
    count_places,
    join_groups,
    place_newborn,
    split_groups,
)
from structurenet_pl.surgery.replacement import replace_tensors, wrapped

CHECKPOINT_KEY = "structurenet_pl"
FEW = 20  # nobody keeps more schedulers in one list; lists of values may be long


class Boards(dict[Optimizer, Board]):
    """One board for each optimizer of a Trainer.

    Args:
        trainer: Its optimizers exist from the start of a fit.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer

    @property
    def complete(self) -> bool:
        """Whether these are the optimizers of the Trainer; they may be replaced in the middle of a fit."""
        return list(self) == self._trainer.optimizers

    def holders(self, optimizer: Optimizer) -> list[Any]:
        """What may hold lists by group: the schedulers of an optimizer, and it itself (``base_lrs`` of AdaBound)."""
        return [*self.schedulers(optimizer), optimizer]

    def schedulers(self, optimizer: Optimizer, everywhere: bool = True) -> list[Any]:
        """The schedulers of an optimizer: those that Lightning knows, and those that module or callbacks step."""
        known = [config.scheduler for config in self._trainer.lr_scheduler_configs]
        keepers = [self._trainer.lightning_module, *self._trainer.callbacks] if everywhere else []
        kept = [scheduler for keeper in keepers for scheduler in _schedulers_in(vars(keeper).values())]
        mine = [scheduler for scheduler in [*known, *kept] if _optimizer_of(scheduler) in wrapped(optimizer)]
        return list({id(scheduler): scheduler for scheduler in mine}.values())

    def bind(self, everywhere: bool = True) -> None:
        """Keep all schedulers on base lrs, those included that have been put in place of others.

        Args:
            everywhere: Whether to look for those that module and callbacks keep, too, which takes its time.
        """
        for optimizer, board in self.items():
            for scheduler in self.schedulers(optimizer, everywhere):
                board.bind(scheduler)

    def take_over(self) -> None:
        """Undo what boards of an earlier fit have done to optimizers that are used again."""
        for optimizer in self._trainer.optimizers:
            if (board := board_of(optimizer)) is not None:
                board.release()
                join_groups(optimizer, board.slots, self.holders(optimizer))

    def adopt(self, structure: Structure, split_1d: bool) -> bool:
        """Give groups by component to what somebody else has added to an optimizer; tell if there was any."""
        found = False
        for optimizer, board in self.items():
            names = board.names
            if len(set(names)) < len(names) or not board.slots.keys() >= set(names):
                board.slots = split_groups(optimizer, structure, split_1d, self.holders(optimizer), board.slots)
                found = True
        return found

    def lay_out(self, structure: Structure, split_1d: bool) -> None:
        """Give each optimizer groups by component and a board where it has none; forget optimizers that are gone."""
        for optimizer in set(self) - set(self._trainer.optimizers):
            del self[optimizer]
        for optimizer in self._trainer.optimizers:
            board = self.pop(optimizer, None)
            if board is None:
                board = Board(optimizer, split_groups(optimizer, structure, split_1d, self.holders(optimizer), {}))
            self[optimizer] = board

    def arrange(self, structure: Structure, layouts: Sequence[Any]) -> None:
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
            arrange(optimizer, structure, layout)

    def convert(self, checkpoint: dict[str, Any]) -> None:
        """Give a checkpoint, before Lightning restores from it, the groups that the optimizers have now."""
        states = checkpoint.get("optimizer_states", [])
        settings = checkpoint.get(CHECKPOINT_KEY, {}).get("settings", [{}] * len(states))
        checkpoint["optimizer_states"] = [
            split_state(state, optimizer, board.slots, own)
            for state, own, (optimizer, board) in zip(states, settings, self.items(), strict=False)
        ]
        self._convert_schedulers(checkpoint, split_scheduler_state)

    def save(self, checkpoint: dict[str, Any], structure: Structure) -> None:
        """Give a checkpoint the user's own groups, and what is needed to make ours of them again."""
        states = checkpoint["optimizer_states"]
        names = structure.parameter_names
        checkpoint[CHECKPOINT_KEY] = {
            "groups": [save_layout(optimizer, board.slots, names) for optimizer, board in self.items()],
            "settings": [own_settings(state, board.slots) for state, board in zip(states, self.values(), strict=True)],
        }
        checkpoint["optimizer_states"] = [
            join_state(state, board.slots) for state, board in zip(states, self.values(), strict=True)
        ]
        self._convert_schedulers(checkpoint, join_scheduler_state)

    @contextmanager
    def following(self, structure: Structure, change: Change, split_1d: bool) -> Iterator[None]:
        """Follow a growth into optimizers and schedulers.

        If that or the body of the ``with`` raises, they are as they were. Before there are boards, the optimizers are
        still to be made.

        Args:
            structure: The structure after the growth.
            change: What the growth has changed.
            split_1d: Whether one-dimensional tensors get groups of their own.
        """
        if not self:
            yield
            return
        expected = Counter[Tensor]()
        for tensor, count in count_places(self).items():
            if (now := continued(tensor, change.successors)) is not None:
                expected[now] += count
        # by date, because a pattern may have split what was born
        born = [name for name in structure.parameters if structure.components[name].born == change.event.clock]
        expected.update(tensor for name in born for tensor in structure.parameters[name].values())
        with ExitStack() as undo:
            for optimizer, board in self.items():
                with board.base_lrs():
                    undo.callback(setattr, board, "slots", board.slots)
                    board.slots, back = replace_tensors(
                        optimizer, board.slots, change.successors, change.moments, structure, self.holders(optimizer)
                    )
                    undo.callback(back)
            slots = {optimizer: board.slots for optimizer, board in self.items()}
            joining = place_newborn(slots, structure, born, change.like, split_1d)
            for optimizer, newcomers in joining.items():
                board = self[optimizer]
                with board.base_lrs():
                    undo.callback(setattr, board, "slots", board.slots)
                    undo.callback(add_groups(optimizer, board.slots, newcomers, self.holders(optimizer)))
                    board.slots = board.slots | {new.slot.name: new.slot for new in newcomers}
            audit(self, expected)
            yield
            undo.pop_all()

    def _convert_schedulers(self, checkpoint: dict[str, Any], convert: Callable[..., dict[str, Any]]) -> None:
        states = checkpoint.get("lr_schedulers", [])
        optimizers = [_optimizer_of(config.scheduler) for config in self._trainer.lr_scheduler_configs]
        boards = [next((self[mine] for mine in self if other in wrapped(mine)), None) for other in optimizers]
        checkpoint["lr_schedulers"] = [
            state if board is None else convert(state, board.names, board.slots)
            for state, board in zip(states, boards, strict=False)
        ]


def _schedulers_in(values: Iterable[Any], depth: int = 2) -> Iterator[Any]:
    """The schedulers among some values, and in the short lists and dicts among them."""
    for value in values:
        if isinstance(value, LRScheduler) or _is_timms(value):
            yield value
        elif isinstance(value, list | tuple | dict) and depth and len(value) <= FEW:
            yield from _schedulers_in(value.values() if isinstance(value, dict) else value, depth - 1)


def _is_timms(value: Any) -> bool:
    """The class first: this is asked of whatever module and callbacks hold, and nobody's property should be run."""
    return hasattr(type(value), "step_update") and isinstance(getattr(value, "optimizer", None), Optimizer)


def _optimizer_of(scheduler: Any) -> Any:
    """The optimizer itself, where Lightning has put its own around it."""
    optimizer = vars(scheduler).get("optimizer")
    return getattr(optimizer, "_optimizer", optimizer)
