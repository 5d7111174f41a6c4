"""Proof, at the first step of each optimizer, that what steps steps on the pieces and at the effective lrs."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.surgery.stand_in import real


class Split(Protocol):
    """An optimizer whose groups are split."""

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""

    @property
    def written(self) -> list[int]:
        """The rows of the pieces whose lr somebody else has written since."""


class StepProof:
    """Looks at whatever steps on the parameters of an optimizer until that has taken its first step.

    An optimizer may step another one that it keeps in a way that nobody foresees, on groups of its own or at lrs that
    it writes itself: it would train as if there were no factors.
    """

    def __init__(self) -> None:
        self._splits: list[Split] = []
        self._open: list[Split] = []
        self._seen: list[Split] = []
        self._handles: list[RemovableHandle] = []

    def start(self, optimizers: Iterable[Split]) -> None:
        """Look at the first step of those that are new; these are all that there are now."""
        before, self._splits = self._splits, list(optimizers)
        self._open = [split for split in self._splits if split in self._open or split not in before]
        if self._open and not self._handles:
            self._handles = [
                register_optimizer_step_pre_hook(self._before),
                register_optimizer_step_post_hook(self._after),
            ]

    def end_of_step(self) -> None:
        """Look no more at those that have been seen to step."""
        self._open = [split for split in self._open if split not in self._seen]
        if not self._open:
            self._stop_looking()

    def stop(self) -> None:
        """Look no more."""
        self._splits, self._open, self._seen = [], [], []
        self._stop_looking()

    def _stop_looking(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for split in self._concerned(optimizer):
            if any(id(group) not in self._pieces() for group in real(optimizer).param_groups):
                raise MisconfigurationException(
                    f"{type(split.optimizer).__name__} has {type(optimizer).__name__} step on param groups of its own, "
                    "so the lrs of components could have no effect. Let both hold the same groups, as with "
                    "super().__init__(inner.param_groups, {}), and keep the inner optimizer in an attribute; or return "
                    "the inner one from configure_optimizers."
                )

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for split in self._concerned(optimizer):
            self._seen.append(split)
            inner = real(optimizer)
            if inner is not split.optimizer and (written := split.written):
                piece = split.optimizer.param_groups[written[0]]
                raise MisconfigurationException(
                    f"{type(split.optimizer).__name__} writes lrs before it steps {type(inner).__name__}: that of "
                    f"{piece['name']!r} was {float(piece['lr']):g} in the update, so the factors had no "
                    "effect. Set its lrs in an LR scheduler, or return the inner optimizer from configure_optimizers."
                )

    def _pieces(self) -> set[int]:
        return {id(piece) for split in self._splits for piece in split.optimizer.param_groups}

    def _concerned(self, optimizer: Optimizer) -> list[Split]:
        """Those that hold parameters of an optimizer that steps; another of them may hold some of these, too."""
        if torch.compiler.is_compiling():
            return []
        if own := [split for split in self._splits if split.optimizer is real(optimizer)]:
            return [split for split in own if split in self._open]
        stepped = {id(tensor) for group in real(optimizer).param_groups for tensor in group["params"]}
        return [
            split
            for split in self._open
            if any(id(tensor) in stepped for group in split.optimizer.param_groups for tensor in group["params"])
        ]
