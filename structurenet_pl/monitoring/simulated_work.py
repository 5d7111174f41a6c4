"""The work that freezing saves in a run, without training: what each network of the run costs, and when it freezes."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from structurenet_pl.freezing.training_work import TrainingWork, step_cost
from structurenet_pl.structure.module_structure import structure_of
from structurenet_pl.structure.partition import parameter_count
from structurenet_pl.structure.random_states import kept_rng
from structurenet_pl.structure.role_patterns import Patterns


@dataclass(frozen=True)
class NetworkSize:
    """What the components of a network cost between two growth events.

    Args:
        depths: Depth of each component.
        parameters: Number of parameters of each component.
        trainable: Names of the components that train unless a callback freezes them.
        multiply_adds: Multiply-adds of each component in a forward pass; None without an input to count them with.
    """

    depths: Mapping[str, int]
    parameters: Mapping[str, int]
    trainable: frozenset[str]
    multiply_adds: Mapping[str, int] | None


class Saved(NamedTuple):
    """What freezing saves of a run; None if it is not known.

    Args:
        work: Share of the multiply-adds.
        updates: Share of the updates of single parameters.
    """

    work: float | None
    updates: float | None


def measure_network(module: nn.Module, patterns: Patterns, example_input: Any) -> NetworkSize:
    """Measure a network; a copy of it runs once, if there is an input.

    Args:
        module: The network, which stays unchanged.
        patterns: Name pattern -> role, for a module that cannot grow.
        example_input: What ``forward`` takes: a tensor, a tuple of arguments, or a dict of keyword arguments; None
            if there is none.

    Raises:
        ValueError: If the network does not run on the input.
    """
    work = TrainingWork()
    if example_input is not None:
        module = deepcopy(module)  # a forward pass may change buffers, and leave tensors of its graph in the module
        work.count_next_batch(module)
        _run(module, example_input)
    structure = structure_of(module, patterns)
    work.end_batch(module, structure)
    return NetworkSize(
        depths={name: component.depth for name, component in structure.components.items()},
        parameters={name: parameter_count(tensors.values()) for name, tensors in structure.parameters.items()},
        trainable=frozenset(name for tensor, name in structure.owner.items() if tensor.requires_grad),
        multiply_adds=None if example_input is None else work.multiply_adds(structure),
    )


def saved_by_freezing(
    names: Sequence[str], frozen: NDArray[np.bool_], generations: NDArray[np.int64], sizes: Sequence[NetworkSize | None]
) -> Saved:
    """What freezing saves, against the same run without the callbacks that freeze.

    Args:
        names: Name of the component of each row of ``frozen``.
        frozen: Whether it is frozen, by row and step.
        generations: Number of growth events before each step.
        sizes: The network after each number of growth events, None where it is not known.
    """
    turns = np.diff(frozen, axis=1).any(axis=0) | (np.diff(generations) != 0)
    starts = np.append(0, np.flatnonzero(turns) + 1)
    lengths = np.diff(np.append(starts, len(generations)))
    work = whole_work = updates = whole_updates = 0
    counted = True
    for start, steps in zip(starts.tolist(), lengths.tolist(), strict=True):
        generation = int(generations[start])
        size = sizes[generation] if generation < len(sizes) else None
        if size is None:
            return Saved(None, None)
        trained = size.trainable - {names[row] for row in np.flatnonzero(frozen[:, start]).tolist()}
        updates += steps * sum(size.parameters[name] for name in trained)
        whole_updates += steps * sum(size.parameters[name] for name in size.trainable)
        if size.multiply_adds is None:
            counted = False
        else:
            work += steps * step_cost(size.multiply_adds, size.depths, trained)
            whole_work += steps * step_cost(size.multiply_adds, size.depths, size.trainable)
    return Saved(_saved(work, whole_work) if counted else None, _saved(updates, whole_updates))


def _saved(used: int, whole: int) -> float:
    return 1 - used / whole if whole else 0.0


def _run(module: nn.Module, example_input: Any) -> None:
    """Run a module as training does: in train mode, because some modules take other paths in eval mode."""
    module.train()
    try:
        with kept_rng(), torch.no_grad():
            if isinstance(example_input, Mapping):
                module(**example_input)
            else:
                module(*(example_input if isinstance(example_input, tuple | list) else (example_input,)))
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} does not run on the example_input of preview, expected what its forward takes: a "
            f"tensor, a tuple of arguments, or a dict of keyword arguments; {type(error).__name__}: {error}"
        ) from error
