"""Redirects LR schedulers to the user's param groups, wherever a scheduler is kept and whenever it was made."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakValueDictionary

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from structurenet_pl.lightning import Trainer
from structurenet_pl.optim.group_settings import settings_equal
from structurenet_pl.optim.param_groups import Group, settings_of
from structurenet_pl.optim.references import (
    References,
    attributes_of,
    ids_of_referenced_optimizers,
    reachable,
    set_attribute,
)
from structurenet_pl.optim.scheduler_view import HoldsUserGroups, UnsplitOptimizer, real_optimizer
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.optim.wrappers import with_inner


class SplitOptimizer(HoldsUserGroups, Protocol):
    """An optimizer whose groups are split; the table of its learning rates is one."""

    @property
    def groups(self) -> SplitGroups:
        """The pieces and the user's groups."""

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""

    def absorb_new_groups(self) -> None:
        """Split groups and tensors that somebody else has added."""

    def as_base(self, piece: Group, value: Any) -> Any:
        """The base lr of a piece if the value was read from the lr of this piece, else the value."""


class SchedulerRedirection:
    """Has the schedulers of a Trainer refer to stand-ins of the optimizers, which show the user's groups.

    A scheduler may be one that Lightning knows, or be kept by the module or by a callback. It may have been made before
    the groups were split, or in mid-fit, when it has already read pieces and effective lrs.

    Args:
        trainer: The Trainer.
        optimizers: Its optimizers with split groups, as they come and go. An object that holds this mapping in an
            attribute drives the fit, and is not searched for schedulers.
    """

    def __init__(self, trainer: Trainer, optimizers: Mapping[Optimizer, SplitOptimizer]) -> None:
        self._trainer = trainer
        self._optimizers = optimizers
        self._references = References()
        self._shown: list[tuple[Any, Any]] = []

    def redirect_from(self, optimizers: Sequence[SplitOptimizer]) -> None:
        """Redirect all schedulers from optimizers whose groups have just been split.

        Args:
            optimizers: The optimizers.
        """
        self._put_stand_ins(optimizers, [*self._of_lightning, *self._keepers()])
        _mark_redirected([*self._of_lightning, *self._kept()])

    def redirect_new(self, everywhere: bool = True) -> None:
        """Redirect the schedulers that were made since the last call.

        Args:
            everywhere: Whether to search module and callbacks, too. The search takes time.
        """
        new = [scheduler for scheduler in self._of_lightning if not _is_redirected(scheduler)]
        if everywhere:
            for optimizer in self._optimizers.values():
                optimizer.absorb_new_groups()
            new += [scheduler for scheduler in self._kept() if not _is_redirected(scheduler)]
        if new:
            optimizers = list(self._optimizers.values())
            _move_to_user_groups(new, optimizers)
            self._put_stand_ins(optimizers, new)
            _mark_redirected(new)

    def move_to_user_groups(self, optimizer: SplitOptimizer) -> None:
        """Prepare the schedulers that Lightning knows for an optimizer that gets its groups back.

        Args:
            optimizer: The optimizer, split in an earlier fit.
        """
        made_since = [scheduler for scheduler in self._of_lightning if not _is_redirected(scheduler)]
        _move_to_user_groups(made_since, [optimizer])

    def restore_references(self) -> None:
        """Have all schedulers refer to the optimizers themselves again."""
        if self._optimizers:
            self._references.restore([*self._of_lightning, *self._keepers()])

    def show_optimizers(self) -> None:
        """Have the schedulers that Lightning knows refer to the optimizers themselves until ``show_user_groups``.

        Other callbacks compare ``scheduler.optimizer`` with the optimizers of the Trainer.
        """
        self._shown = [
            (scheduler, stand_in)
            for scheduler in self._of_lightning
            if isinstance(stand_in := attributes_of(scheduler).get("optimizer"), Optimizer)
        ]
        for scheduler, stand_in in self._shown:
            set_attribute(scheduler, "optimizer", real_optimizer(stand_in))

    def show_user_groups(self) -> None:
        """Have these schedulers refer to the stand-ins again."""
        while self._shown:
            scheduler, stand_in = self._shown.pop()
            set_attribute(scheduler, "optimizer", stand_in)

    @property
    def _of_lightning(self) -> list[Any]:
        """The schedulers that Lightning knows, of any class."""
        return [config.scheduler for config in self._trainer.lr_scheduler_configs]

    def _keepers(self) -> list[object]:
        """The module and the callbacks, which may keep schedulers that Lightning does not know.

        The driver keeps none, and a search through its tables takes time. It is the callback that holds the optimizers.
        """
        keepers = [self._trainer.lightning_module, *self._trainer.callbacks]
        return [keeper for keeper in keepers if all(value is not self._optimizers for value in vars(keeper).values())]

    def _kept(self) -> list[Any]:
        """The schedulers that module and callbacks keep: instances of torch's class, others have no mark."""
        return [part for part in reachable(self._keepers()) if isinstance(part, LRScheduler)]

    def _put_stand_ins(self, optimizers: Iterable[SplitOptimizer], roots: Sequence[object]) -> None:
        by_id = {key: stand_in for optimizer in optimizers for key, stand_in in stand_ins(optimizer).items()}
        if by_id:  # the search takes time
            self._references.replace(roots, by_id)


def stand_ins(split: SplitOptimizer) -> dict[int, UnsplitOptimizer]:
    """Stand-ins for an optimizer and the optimizers inside it, by the ``id`` of each optimizer."""
    return {id(optimizer): UnsplitOptimizer(optimizer, split) for optimizer in with_inner(split.optimizer)}


def _move_to_user_groups(schedulers: Iterable[Any], optimizers: Iterable[SplitOptimizer]) -> None:
    """Have schedulers that were made on pieces be as if they had been made on the user's groups."""
    for scheduler in schedulers:
        for split in optimizers:
            if not ids_of_referenced_optimizers(scheduler).isdisjoint(map(id, with_inner(split.optimizer))):
                _rewrite_entries(list(reachable([scheduler])), split.groups, split.as_base)


def _rewrite_entries(parts: Iterable[object], groups: SplitGroups, as_base: Callable[[Group, Any], Any]) -> None:
    """Replace the entries that a scheduler keeps for each piece by entries for each of the user's groups.

    A value that was read from the lr of a piece becomes the base lr of the piece. Then a list or tuple with as many
    entries as there are pieces, and with equal entries for all pieces of a group, keeps one entry for each group. Other
    lists have this length by chance. A key that the scheduler has written to all pieces of a group, such as
    ``initial_lr``, is written to the group.

    Args:
        parts: The scheduler and the objects in it.
        groups: The pieces and the user's groups.
        as_base: Gives the base lr of a piece if a value was read from the lr of this piece, else the value.
    """
    groups.absorb_new_groups()
    pieces = [piece for split in groups.pieces_by_group for piece in split]
    for group, split in groups:
        for piece in split:
            piece.update({key: as_base(piece, piece[key]) for key in settings_of(piece).keys() - group.keys()})
    groups.settings.collect()
    for part in parts:
        for name, value in attributes_of(part).items():
            if type(value) in (list, tuple) and len(value) == len(pieces):
                entries = iter([as_base(piece, entry) for piece, entry in zip(pieces, value, strict=True)])
                by_group = [[next(entries) for _ in split] for split in groups.pieces_by_group]
                if all(settings_equal(entry, split[0]) for split in by_group for entry in split):
                    set_attribute(part, name, type(value)(split[0] for split in by_group))


# Schedulers that refer to stand-ins, by id: a class with an equality but no hash would not go into a WeakSet. The dict
# is one for all fits: a scheduler of an earlier fit was made on the user's groups, or has been moved to them.
_REDIRECTED: WeakValueDictionary[int, Any] = WeakValueDictionary()


def _mark_redirected(schedulers: Iterable[Any]) -> None:
    for scheduler in schedulers:
        with suppress(TypeError):  # its class allows no weak references: it is redirected again each time
            _REDIRECTED[id(scheduler)] = scheduler


def _is_redirected(scheduler: Any) -> bool:
    return _REDIRECTED.get(id(scheduler)) is scheduler
