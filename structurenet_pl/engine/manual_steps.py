"""Optimizers that user code steps by hand, where Lightning calls no hook before the step."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from structurenet_pl.optim.wrappers import after_closure, closure_of, with_inner


class ManualSteps:
    """Calls a function before each update of an optimizer, from torch's own hook before the step.

    Args:
        act: Called with the optimizer when its gradients are known.

    Attributes:
        hook_was_called: Whether Lightning has called ``on_before_optimizer_step`` for the step under way, so that the
            function must not be called again. The driver sets it.
    """

    def __init__(self, act: Callable[[Optimizer], None]) -> None:
        self._act = act
        self._handles: list[RemovableHandle] = []
        self.hook_was_called = False

    def register_hooks(self, optimizers: Iterable[Optimizer]) -> None:
        """Register a hook before each step of the optimizers.

        In a wrapper, the hook goes to the inner optimizers only: user code may step these directly, and a step of the
        wrapper leads to a step of theirs.
        """
        for optimizer in optimizers:
            for stepped in with_inner(optimizer)[1:] or [optimizer]:
                self._handles.append(stepped.register_step_pre_hook(partial(self._before_step, optimizer)))

    def remove_hooks(self) -> None:
        """Remove all hooks."""
        while self._handles:
            self._handles.pop().remove()

    def _before_step(
        self, optimizer: Optimizer, stepped: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if torch.compiler.is_compiling():  # the function reads the Trainer, which torch.compile cannot trace
            return None

        def act() -> None:
            if not self.hook_was_called:
                self._act(optimizer)
            self.hook_was_called = False

        if closure_of(args, kwargs) is not None:
            # Lightning calls its hook within the closure, or, under a gradient scaler, before a step without a closure:
            # with a closure, a flag that is set by now is left from a step that the scaler has skipped
            self.hook_was_called = False
        return after_closure(args, kwargs, act)
