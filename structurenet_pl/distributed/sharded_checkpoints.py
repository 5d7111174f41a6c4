"""Loads checkpoints, in a folder of shards or in one file, into a module and optimizers whose tensors are sharded.

A checkpoint may have been written by any number of processes, under FSDP2 or not. Lightning's own function gives up if
a parameter has no optimizer state yet, as after a growth, and takes the numbers of an optimizer's parameters for their
numbers in the module.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.optim import Optimizer

from structurenet_pl.structure.log_tensors import LOG_KEY
from structurenet_pl.structure.sharded_tensors import is_sharded, sharded_like

METADATA_FILE = "meta.pt"  # Lightning's name of the file that holds everything but tensors


class ShardedCheckpoint:
    """A checkpoint to be loaded into sharded tensors. All processes must make and use it together.

    Args:
        path: The folder or file.
        weights_only: As in ``torch.load``.

    Attributes:
        rest: Everything in it but the states of module and optimizers.
    """

    def __init__(self, path: Path, weights_only: bool | None) -> None:
        self._folder = path if path.is_dir() else None
        file = path / METADATA_FILE if path.is_dir() else path
        # mmap: a process reads only its share of each tensor
        self.rest: dict[str, Any] = torch.load(file, mmap=True, map_location="cpu", weights_only=weights_only)
        self._module: dict[str, Any] = self.rest.pop("state_dict", {})
        self._optimizers: list[Mapping[str, Any]] = self.rest.pop("optimizer_states", [])

    def tensor(self, name: str) -> Tensor | None:
        """A tensor of the module's state dict that is whole on all processes, None if there is none."""
        if self._folder is None:
            return self._module.get(name)
        saved = self._saved().get(f"state_dict.{name}")
        if not isinstance(saved, TensorStorageMetadata):
            return None
        tensor = torch.empty(saved.size, dtype=saved.properties.dtype)
        load({"state_dict": {name: tensor}}, checkpoint_id=self._folder)
        return tensor

    def load_module(self, module: nn.Module, strict: bool) -> None:
        """Load parameters and buffers into a module."""
        if self._folder is not None:
            state = get_model_state_dict(module)
            load({"state_dict": state}, checkpoint_id=self._folder)
            module.load_state_dict(state, strict=strict)
            return
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=strict)
        # torch would look for a growth log among the tensors; it has been replayed
        tensors = {name: tensor for name, tensor in self._module.items() if name.rpartition(".")[-1] != LOG_KEY}
        set_model_state_dict(module, tensors, options=options)

    def load_optimizer(
        self, number: int, optimizer: Optimizer, module: nn.Module, layout: Sequence[Sequence[str | None]] | None
    ) -> None:
        """Load the state of an optimizer.

        Args:
            number: Its number among the optimizers of the Trainer.
            optimizer: The optimizer, with the groups of the user.
            module: The module that holds its parameters.
            layout: The names of the parameters in each group when the checkpoint was written in a file; if they are not
                known, the parameters of the optimizer must have the order that they had then.
        """
        names = {tensor: name for name, tensor in module.named_parameters()}
        current = [[names.get(tensor) for tensor in group["params"]] for group in optimizer.param_groups]
        if self._folder is not None:
            state = self._state_in_folder(number, optimizer, module)
            groups = state["param_groups"]
            by_name = state["state"]
        else:
            saved = self._optimizers[number]
            groups = saved["param_groups"]
            by_name = {
                name: saved["state"][key]
                for group, written in zip(groups, layout or current, strict=True)
                for key, name in zip(group["params"], written, strict=True)
                if key in saved["state"]
            }
        place_of = {tensor: place for place, tensor in enumerate(_tensors(optimizer))}
        optimizer.load_state_dict(
            {
                "state": {
                    place: _sharded_state(by_name[names[tensor]], tensor, names[tensor])
                    for tensor, place in place_of.items()
                    if names.get(tensor) in by_name
                },
                "param_groups": [
                    {**saved_group, "params": [place_of[tensor] for tensor in group["params"]]}
                    for saved_group, group in zip(groups, optimizer.param_groups, strict=True)
                ],
            }
        )

    def _state_in_folder(self, number: int, optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
        key = f"optimizer_{number}"
        state: dict[str, Any] = get_optimizer_state_dict(module, optimizer)  # with a state for every parameter
        saved = list(self._saved())
        # a parameter that was born just before has no state in the checkpoint
        state["state"] = {
            name: entry
            for name, entry in state["state"].items()
            if any(other.startswith(f"{key}.state.{name}.") for other in saved)
        }
        load({key: state}, checkpoint_id=self._folder)
        return state

    def _saved(self) -> Mapping[str, Any]:
        """What the folder holds of each tensor, by its name."""
        return FileSystemReader(str(self._folder)).read_metadata().state_dict_metadata


def numbered_as_by_torch(
    state: Mapping[str, Any], module: nn.Module, layout: Sequence[Sequence[str | None]]
) -> Mapping[str, Any]:
    """The state of an optimizer for a file, with its parameters numbered in their order in the groups.

    Lightning numbers them in their order in the module, and sorts them in each group: torch would then give a parameter
    the state of another one. A state for a folder, which has names, and the empty one of other ranks stay as they are.

    Args:
        state: The state that Lightning is about to write.
        module: The module.
        layout: The names of the parameters in each group.

    Raises:
        ValueError: If the state has another number of parameters than the groups.
    """
    number_in_module = {name: number for number, (name, _) in enumerate(module.named_parameters())}
    names = [name for group in layout for name in group]
    written = [number for group in state.get("param_groups", ()) for number in group["params"]]
    if not written or not all(isinstance(number, int) for number in written):
        return state
    if len(written) != len(names):
        raise ValueError(
            f"Lightning saves the state of an optimizer with {len(written)} parameters, expected the {len(names)} "
            "parameters of its groups: numbered in another order, they would get the states of others. Save a folder "
            "(save_distributed_checkpoint=True), which has names."
        )
    numbers = iter(range(len(names)))
    return {
        "state": {
            number: state["state"][number_in_module[name]]
            for number, name in enumerate(names)
            if name in number_in_module and number_in_module[name] in state["state"]
        },
        "param_groups": [
            {**group, "params": [next(numbers) for _ in written_names]}
            for group, written_names in zip(state["param_groups"], layout, strict=True)
        ],
    }


def _tensors(optimizer: Optimizer) -> Iterator[Any]:
    return (tensor for group in optimizer.param_groups for tensor in group["params"])


def _sharded_state(state: Mapping[str, Any], parameter: Tensor, name: str) -> dict[str, Any]:
    """The state of a parameter, with the tensors of its shape divided as the parameter is.

    Raises:
        ValueError: If another tensor would have to be divided.
    """
    result = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and is_sharded(parameter) and not is_sharded(value) and value.numel() > 1:
            if value.shape != parameter.shape:
                raise ValueError(
                    f"the optimizer state {key!r} of {name!r} has shape {tuple(value.shape)}, and nothing says how to "
                    f"divide it, for the parameter has shape {tuple(parameter.shape)}. Resume under the strategy that "
                    "wrote the checkpoint, or from a folder (save_distributed_checkpoint=True)."
                )
            value = sharded_like(value, parameter)
        result[key] = value
    return result
