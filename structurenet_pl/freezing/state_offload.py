"""Optimizer state that is not needed for now, in files."""

from collections.abc import Iterable, Set
from io import SEEK_END, BytesIO
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from structurenet_pl.optim.wrappers import hookable_optimizers


class _Place(NamedTuple):
    """Where a state stands in a file that has no name: it goes with the process, however that ends."""

    file: IO[bytes]
    start: int
    size: int

    def read(self) -> dict[str, Any]:
        self.file.seek(self.start)
        with torch.inference_mode(False):  # growth in a validation loop gives it back, too
            # our own file, and an optimizer may keep anything
            return torch.load(BytesIO(self.file.read(self.size)), weights_only=False)


class StateOffload:
    """Moves the state of parameters from memory to files and back; state dicts of the optimizers hold it all along."""

    def __init__(self) -> None:
        self._optimizers: list[Optimizer] = []
        self._hooks: list[RemovableHandle] = []
        self._places: dict[tuple[int, Tensor], _Place] = {}  # the first is the number of the optimizer
        self._files: list[IO[bytes]] = []

    def park(self, optimizers: Iterable[Optimizer], tensors: Set[Tensor]) -> None:
        """Keep the state of these parameters in a file, and that of all others in the optimizers."""
        self._follow([face for optimizer in optimizers for face in hookable_optimizers(optimizer)] if tensors else [])
        for key in [key for key in self._places if key[1] not in tensors]:
            self._fetch(*key)
        leaving = [
            (number, tensor)
            for number, optimizer in enumerate(self._optimizers)
            for tensor in optimizer.state
            if tensor in tensors
        ]
        if leaving:
            file = TemporaryFile()  # noqa: SIM115  open until all that is parked together is back
            self._files.append(file)
            for number, tensor in leaving:
                state = self._optimizers[number].state.pop(tensor)
                if state or (number, tensor) not in self._places:  # who looks at state[tensor] leaves an empty one
                    self._places[number, tensor] = _store(state, file)
        self._close_empty()

    def _fetch(self, number: int, tensor: Tensor) -> None:
        self._optimizers[number].state[tensor] = self._places.pop((number, tensor)).read()

    def _follow(self, optimizers: list[Optimizer]) -> None:
        """Attach to these optimizers, if they are not those that it is attached to."""
        if list(map(id, optimizers)) == list(map(id, self._optimizers)):
            return
        for key in list(self._places):
            self._fetch(*key)
        for hook in self._hooks:
            hook.remove()
        self._optimizers = optimizers
        self._hooks = [optimizer.register_state_dict_post_hook(self._complete) for optimizer in optimizers]
        self._hooks += [optimizer.register_load_state_dict_post_hook(self._forget) for optimizer in optimizers]

    def _number(self, optimizer: Optimizer) -> int:
        """Its number, or that of an optimizer before it with which it shares its state."""
        return next(number for number, other in enumerate(self._optimizers) if other.state is optimizer.state)

    def _complete(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        number = self._number(optimizer)
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        parked = {
            index: self._places[number, tensor].read()
            for index, tensor in enumerate(tensors)
            if (number, tensor) in self._places
        }
        return {**state, "state": state["state"] | parked}

    def _forget(self, optimizer: Optimizer) -> None:
        """What has been loaded is the state of all parameters."""
        for key in [key for key in self._places if key[0] == self._number(optimizer)]:
            del self._places[key]
        self._close_empty()

    def _close_empty(self) -> None:
        """Close the files of which everything is back."""
        used = {id(place.file) for place in self._places.values()}
        for file in [file for file in self._files if id(file) not in used]:
            self._files.remove(file)
            file.close()


def _store(state: dict[str, Any], file: IO[bytes]) -> _Place:
    """Write a state to the end of a file."""
    written = BytesIO()
    torch.save(state, written)
    start = file.seek(0, SEEK_END)
    return _Place(file, start, file.write(written.getbuffer()))
