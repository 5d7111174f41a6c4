"""Proof, at the first step of each optimizer, that it steps on all of its pieces and at the effective lrs."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.optim.split_groups import SplitGroups

ENTRIES_PER_TENSOR = 16  # of each tensor are looked at
MIN_COMPARABLE_LR = 0.1  # of the lr of what has moved: what has less may be too slow to be seen


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


class StepProof:
    """Looks at what happens in the first update of each optimizer.

    An optimizer may step another one that it keeps in a way that nobody foresees, on groups of its own or at lrs that
    it writes itself, or have a list by group that nobody knows of. It would train as if there were no factors, or leave
    pieces out.
    """

    def __init__(self) -> None:
        self._splits: list[Split] = []
        self._open: list[Split] = []
        self._under_way: Split | None = None
        self._stepped = False
        self._before: list[list[tuple[Tensor, Tensor]]] = []
        self._handle: RemovableHandle | None = None

    def start(self, optimizers: Iterable[Split]) -> None:
        """Look at the first update of those that are new; these are all that there are now."""
        before, self._splits = self._splits, list(optimizers)
        self._open = [split for split in self._splits if split in self._open or split not in before]

    def begin(self, optimizer: Optimizer) -> None:
        """An update follows: gradients are known."""
        if not self._open or torch.compiler.is_compiling():
            return
        self._under_way = next((split for split in self._open if split.optimizer is optimizer), None)
        self._stepped = False
        if self._under_way is not None:
            self._before = [_look_at(piece["params"]) for piece in optimizer.param_groups]
            if self._handle is None:
                self._handle = register_optimizer_step_post_hook(self._after)

    def end(self) -> None:
        """The update is over, if there was one; it shows in the end of the step where the optimizer has hooks."""
        split, self._under_way = self._under_way, None
        if split is not None and self._stepped:
            self._check_all_moved(split)
            self._open.remove(split)
            if not self._open:
                self._close()

    def stop(self) -> None:
        """Look no more."""
        self._splits, self._open, self._under_way = [], [], None
        self._close()

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        split = self._under_way
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
        """Refuse an optimizer inside that has other groups, or other lrs."""
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
                f"{outer} writes lrs before it steps {type(inner).__name__}: that of {piece['name']!r} was "
                f"{float(piece['lr']):g} in the update, so the factors had no effect. Set its lrs in an LR scheduler, "
                "or return the inner optimizer from configure_optimizers."
            )

    def _check_all_moved(self, split: Split) -> None:
        """Refuse an optimizer that has moved as many pieces as the user has groups, and no other."""
        pieces = split.optimizer.param_groups
        moved = [any(not torch.equal(_entries(tensor), before) for tensor, before in some) for some in self._before]
        first = [piece for piece, has in zip(pieces, moved[: len(split.groups.user)], strict=False) if has]
        slowest = min((float(piece["lr"]) for piece in first if piece.get("lr") is not None), default=None)
        if slowest is None or len(pieces) == len(split.groups.user):
            return
        rest = [
            (piece["name"], has)
            for piece, some, has in list(zip(pieces, self._before, moved, strict=True))[len(split.groups.user) :]
            if some and piece.get("lr") is not None and float(piece["lr"]) >= MIN_COMPARABLE_LR * slowest
        ]
        if rest and not any(has for _, has in rest):
            raise MisconfigurationException(
                f"{type(split.optimizer).__name__} has moved {[piece['name'] for piece in first]} and none of "
                f"{[name for name, _ in rest]}, although these have gradients: it seems to hold a list with an entry "
                f"for each of your {len(split.groups.user)} param group(s), which are split by component. "
                "Use an optimizer that keeps what belongs to a group in the group."
            )

    def _close(self) -> None:
        self._before = []
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _look_at(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Some tensors that are about to be moved, and some entries of each."""
    pairs = [(tensor, tensor.grad) for tensor in tensors]
    found = [(tensor, grad) for tensor, grad in pairs if grad is not None and not grad.is_sparse]
    return [(tensor, _entries(tensor)) for tensor, grad in found if bool(_entries(grad).any())]


def _entries(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1)[:ENTRIES_PER_TENSOR].clone()
