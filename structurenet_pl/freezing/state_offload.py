"""Moves optimizer state of frozen parameters from memory to temporary files, and back."""

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
    """The position of one state in a temporary file. The file has no name, so it vanishes with the process."""

    file: IO[bytes]
    start: int
    size: int

    def read(self) -> dict[str, Any]:
        self.file.seek(self.start)
        # growth in a validation loop runs in inference mode; tensors made there could not be changed later
        with torch.inference_mode(False):
            # weights_only=False is safe here: this process wrote the file, and a state may hold any object
            return torch.load(BytesIO(self.file.read(self.size)), weights_only=False)


class StateOffload:
    """Keeps the optimizer state of some parameters in files. State dicts of the optimizers hold all states as usual."""

    def __init__(self) -> None:
        self._optimizers: list[Optimizer] = []
        self._hooks: list[RemovableHandle] = []
        self._places: dict[tuple[int, Tensor], _Place] = {}  # by number of the optimizer, and parameter
        self._files: list[IO[bytes]] = []

    def offload_only(self, optimizers: Iterable[Optimizer], tensors: Set[Tensor]) -> None:
        """Keep the state of these parameters in files, and the state of all other parameters in the optimizers.

        Args:
            optimizers: The optimizers of the fit.
            tensors: The parameters; an empty set brings all states back.
        """
        self._register_hooks([one for whole in optimizers for one in hookable_optimizers(whole)] if tensors else [])
        for key in [key for key in self._places if key[1] not in tensors]:
            self._bring_back(*key)
        moving = [
            (number, tensor)
            for number, optimizer in enumerate(self._optimizers)
            for tensor in optimizer.state
            if tensor in tensors
        ]
        if moving:
            file = TemporaryFile()  # noqa: SIM115  stays open until all states in it are back
            self._files.append(file)
            for number, tensor in moving:
                state = self._optimizers[number].state.pop(tensor)
                # state is a defaultdict, and reading state[tensor] leaves an empty entry: it must not replace the
                # state in the file
                if state or (number, tensor) not in self._places:
                    self._places[number, tensor] = _store(state, file)
        self._close_unused_files()

    def _bring_back(self, number: int, tensor: Tensor) -> None:
        self._optimizers[number].state[tensor] = self._places.pop((number, tensor)).read()

    def _register_hooks(self, optimizers: list[Optimizer]) -> None:
        """Register hooks with these optimizers, and bring all states back, unless they are the hooked ones already."""
        if list(map(id, optimizers)) == list(map(id, self._optimizers)):
            return
        for key in list(self._places):
            self._bring_back(*key)
        for hook in self._hooks:
            hook.remove()
        self._optimizers = optimizers
        self._hooks = [optimizer.register_state_dict_post_hook(self._add_offloaded) for optimizer in optimizers]
        self._hooks += [optimizer.register_load_state_dict_post_hook(self._drop_offloaded) for optimizer in optimizers]

    def _number(self, optimizer: Optimizer) -> int:
        """The number of the first optimizer that shares its state: a wrapper shares it with the optimizer inside."""
        return next(number for number, other in enumerate(self._optimizers) if other.state is optimizer.state)

    def _add_offloaded(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """Add the offloaded states to a state dict."""
        number = self._number(optimizer)
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        offloaded = {
            index: self._places[number, tensor].read()
            for index, tensor in enumerate(tensors)
            if (number, tensor) in self._places
        }
        return {**state, "state": state["state"] | offloaded}

    def _drop_offloaded(self, optimizer: Optimizer) -> None:
        """Forget the offloaded states, because a loaded state dict replaces the state of all parameters."""
        for key in [key for key in self._places if key[0] == self._number(optimizer)]:
            del self._places[key]
        self._close_unused_files()

    def _close_unused_files(self) -> None:
        """Close the files whose states are all back."""
        used = {id(place.file) for place in self._places.values()}
        for file in [file for file in self._files if id(file) not in used]:
            self._files.remove(file)
            file.close()


def _store(state: dict[str, Any], file: IO[bytes]) -> _Place:
    """Append a state to a file."""
    written = BytesIO()
    torch.save(state, written)
    start = file.seek(0, SEEK_END)
    return _Place(file, start, file.write(written.getbuffer()))
