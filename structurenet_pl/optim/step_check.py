"""Checks, in the first update of each optimizer, that it steps on all of its pieces and with the effective lrs."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.structure.sharded_tensors import local_entries

ENTRIES_PER_TENSOR = 16  # compared before and after the update
MIN_COMPARABLE_LR = 0.1  # of the lowest lr among moved pieces; with a lower lr a movement may be lost to rounding


class WrittenLRs(Protocol):
    """The lrs that were last written to the pieces."""

    def rows_written_since(self) -> list[int]:
        """The rows of the pieces whose lr somebody else has written."""


class Split(Protocol):
    """An optimizer whose groups are split."""

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""

    @property
    def groups(self) -> SplitGroups:
        """The pieces and the user's groups."""

    @property
    def last_write(self) -> WrittenLRs:
        """The lrs that were last written."""


class StepCheck:
    """Checks the first update of each optimizer.

    An optimizer may step another one that it keeps in an unknown way, on groups of its own or with lrs that it writes
    itself, or have a list by group that is not known. It would train as if there were no factors, or leave pieces out.
    """

    def __init__(self) -> None:
        self._splits: list[Split] = []
        self._unchecked: list[Split] = []
        self._current: Split | None = None  # whose update is going on
        self._stepped = False
        self._before: list[list[tuple[Tensor, Tensor]]] = []  # moving tensors and their first entries, by piece
        self._handle: RemovableHandle | None = None

    def start(self, optimizers: Iterable[Split]) -> None:
        """Set the optimizers of the fit; those that were not among the last ones will be checked."""
        before, self._splits = self._splits, list(optimizers)
        self._unchecked = [split for split in self._splits if split in self._unchecked or split not in before]

    def begin(self, optimizer: Optimizer) -> None:
        """Prepare for an update. To be called when gradients are known, just before the optimizer steps."""
        if not self._unchecked or torch.compiler.is_compiling():
            return
        self._current = next((split for split in self._unchecked if split.optimizer is optimizer), None)
        self._stepped = False
        if self._current is not None:
            self._before = [_entries_to_compare(piece["params"]) for piece in optimizer.param_groups]
            if self._handle is None:
                # a global hook, because it has to see the steps of inner optimizers that are not known
                self._handle = register_optimizer_step_post_hook(self._after_step)

    def end(self) -> None:
        """Check the update, if there was one. The hook calls this itself, except for optimizers without hooks."""
        split, self._current = self._current, None
        if split is not None and self._stepped:
            self._check_all_moved(split)
            self._unchecked.remove(split)
            if not self._unchecked:
                self._close()

    def stop(self) -> None:
        """Check no more optimizers."""
        self._splits, self._unchecked, self._current = [], [], None
        self._close()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        split = self._current
        if split is None:
            return
        if optimizer is split.optimizer:
            self._stepped = True
            self.end()
            return
        stepped = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
        if not stepped.isdisjoint(id(tensor) for group in split.optimizer.param_groups for tensor in group["params"]):
            self._check_inner(split, optimizer)
            self._stepped = True

    def _check_inner(self, split: Split, inner: Optimizer) -> None:
        """Refuse an inner optimizer with groups or lrs of its own."""
        outer = type(split.optimizer).__name__
        pieces = {id(piece) for one in self._splits for piece in one.optimizer.param_groups}
        if any(id(group) not in pieces for group in inner.param_groups):
            raise MisconfigurationException(
                f"{outer} has {type(inner).__name__} step on param groups of its own, so the lrs of components could "
                "have no effect. Let both hold the same groups, as with super().__init__(inner.param_groups, {}), and "
                "keep the inner optimizer in an attribute; or return the inner one from configure_optimizers."
            )
        if written := split.last_write.rows_written_since():
            piece = split.optimizer.param_groups[written[0]]
            raise MisconfigurationException(
                f"{outer} writes lrs before it steps {type(inner).__name__}: the lr of {piece['name']!r} was "
                f"{float(piece['lr']):g} in the update, so the factors had no effect. Set its lrs in an LR scheduler, "
                "or return the inner optimizer from configure_optimizers."
            )

    def _check_all_moved(self, split: Split) -> None:
        """Refuse an optimizer that has moved only as many pieces as the user has groups.

        It has a list with an entry for each of the user's groups, and ``zip`` has stopped at the end of that list.
        """
        pieces, count = split.optimizer.param_groups, len(split.groups.user)
        moved = [
            any(not torch.equal(_first_entries(tensor), before) for tensor, before in some) for some in self._before
        ]
        moved_first = [piece for piece, has_moved in zip(pieces, moved[:count], strict=False) if has_moved]
        lowest_lr = min((float(piece["lr"]) for piece in moved_first if piece.get("lr") is not None), default=None)
        if lowest_lr is None or len(pieces) == count:
            return
        rest = [
            (piece["name"], has_moved)
            for piece, some, has_moved in list(zip(pieces, self._before, moved, strict=True))[count:]
            if some and piece.get("lr") is not None and float(piece["lr"]) >= MIN_COMPARABLE_LR * lowest_lr
        ]
        if rest and not any(has_moved for _, has_moved in rest):
            raise MisconfigurationException(
                f"{type(split.optimizer).__name__} has moved {[piece['name'] for piece in moved_first]} and none of "
                f"{[name for name, _ in rest]}, although these have gradients: it seems to hold a list with an entry "
                f"for each of your {count} param group(s), which are split by component. "
                "Use an optimizer that keeps the data of a group in the group."
            )

    def _close(self) -> None:
        self._before = []
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _entries_to_compare(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The tensors whose first entries have a gradient that is not 0, and copies of these entries."""
    pairs = [(tensor, tensor.grad) for tensor in tensors]
    dense = [(tensor, grad) for tensor, grad in pairs if grad is not None and not grad.is_sparse]
    return [(tensor, _first_entries(tensor)) for tensor, grad in dense if bool(_first_entries(grad).any())]


def _first_entries(tensor: Tensor) -> Tensor:
    return local_entries(tensor.detach()).reshape(-1)[:ENTRIES_PER_TENSOR].clone()
