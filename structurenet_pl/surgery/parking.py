"""Optimizer state that is not needed for now, in files."""

from collections.abc import Iterable, Set
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from structurenet_pl.surgery.wrappers import hookable


class Parking:
    """Moves the state of parameters from memory to files and back; state dicts of the optimizers hold it all along."""

    def __init__(self) -> None:
        self._optimizers: list[Optimizer] = []
        self._hooks: list[RemovableHandle] = []
        self._folder: TemporaryDirectory[str] | None = None
        self._files: dict[tuple[int, Tensor], Path] = {}  # the first is the number of the optimizer

    def park(self, optimizers: Iterable[Optimizer], tensors: Set[Tensor]) -> None:
        """Keep the state of these parameters in files, and that of all others in the optimizers."""
        self._follow([face for optimizer in optimizers for face in hookable(optimizer)] if tensors else [])
        for key in [key for key in self._files if key[1] not in tensors]:
            self._fetch(*key)
        for number, optimizer in enumerate(self._optimizers):
            for tensor in [tensor for tensor in optimizer.state if tensor in tensors]:
                self._store(number, tensor)

    def _store(self, number: int, tensor: Tensor) -> None:
        assert self._folder is not None
        path = Path(self._folder.name, f"{number}-{id(tensor)}.pt")
        torch.save(self._optimizers[number].state.pop(tensor), path)
        self._files[number, tensor] = path

    def _fetch(self, number: int, tensor: Tensor) -> None:
        path = self._files.pop((number, tensor))
        self._optimizers[number].state[tensor] = _read(path)
        path.unlink()

    def _follow(self, optimizers: list[Optimizer]) -> None:
        """Attach to these optimizers, if they are not those that it is attached to."""
        if list(map(id, optimizers)) == list(map(id, self._optimizers)):
            return
        for key in list(self._files):
            self._fetch(*key)
        for hook in self._hooks:
            hook.remove()
        if self._folder is not None:
            self._folder.cleanup()
        self._optimizers, self._folder = optimizers, TemporaryDirectory() if optimizers else None
        self._hooks = [optimizer.register_state_dict_post_hook(self._complete) for optimizer in optimizers]
        self._hooks += [optimizer.register_load_state_dict_post_hook(self._forget) for optimizer in optimizers]

    def _number(self, optimizer: Optimizer) -> int:
        """Its number, or that of an optimizer before it with which it shares its state."""
        return next(number for number, other in enumerate(self._optimizers) if other.state is optimizer.state)

    def _complete(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        number = self._number(optimizer)
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        parked = {
            index: _read(self._files[number, tensor])
            for index, tensor in enumerate(tensors)
            if (number, tensor) in self._files
        }
        return {**state, "state": state["state"] | parked}

    def _forget(self, optimizer: Optimizer) -> None:
        """What has been loaded is the state of all parameters."""
        for key in [key for key in self._files if key[0] == self._number(optimizer)]:
            self._files.pop(key).unlink()


def _read(path: Path) -> dict[str, Any]:
    with torch.inference_mode(False):  # growth in a validation loop gives it back, too
        return torch.load(path, weights_only=False)  # our own file, and an optimizer may keep anything
