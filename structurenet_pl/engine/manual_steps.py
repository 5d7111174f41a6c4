"""Optimizers that are stepped by hand, past Lightning but not past their own hooks."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from structurenet_pl.optim.wrappers import after_closure, closure_of, with_inner


class ManualSteps:
    """Calls a function before each update of an optimizer, unless Lightning's hooks have led to it.

    Args:
        act: Called with the optimizer when its gradients are known.
    """

    def __init__(self, act: Callable[[Optimizer], None]) -> None:
        self._act = act
        self._handles: list[RemovableHandle] = []
        self.done = False  # to be set by who has acted in the step under way

    def register_hooks(self, optimizers: Iterable[Optimizer]) -> None:
        """Watch the steps of optimizers; of a wrapper those of the one inside, which may be stepped alone."""
        for optimizer in optimizers:
            for stepped in with_inner(optimizer)[1:] or [optimizer]:
                self._handles.append(stepped.register_step_pre_hook(partial(self._step, optimizer)))

    def remove_hooks(self) -> None:
        """Watch no longer."""
        while self._handles:
            self._handles.pop().remove()

    def _step(
        self, optimizer: Optimizer, stepped: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if torch.compiler.is_compiling():
            return None

        def act() -> None:
            if not self.done:  # under a gradient scaler Lightning calls its hooks before the step
                self._act(optimizer)
            self.done = False

        if closure_of(args, kwargs) is not None:
            self.done = False
        return after_closure(args, kwargs, act)
