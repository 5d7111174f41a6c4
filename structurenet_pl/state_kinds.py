"""What the tensors in the state of an optimizer are: their shapes and what they follow, found out on copies."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.surgery.param_groups import LISTS
from structurenet_pl.trial import copied, train

Path = tuple[Any, ...]  # keys that lead to a tensor in the state; of a list all entries have one path
SHAPE = (2, 3, 5, 4)  # each size another, so that it can be told which dimensions a state has
ANY = "*"  # in a path: every position of a list
GOAL = 0.3
NEAR = 0.3  # relative; weight decay moves a parameter a little
STEPS = 12  # states that are kept every few steps are there by then


@dataclass(frozen=True)
class Kind:
    """What a state tensor is.

    Args:
        dims: For each dimension of the parameter, whether the state has as many entries, else 1; None if its shape is
            not that of the parameter.
        follows: What it follows: ``"gradient"`` if it turns around with the gradient, such as a momentum; ``"size"`` if
            it does not, such as a second moment; ``"weight"`` if it is an average or a copy of the parameter; None if
            that cannot be told.
    """

    dims: tuple[bool, ...] | None
    follows: Literal["gradient", "size", "weight"] | None


def state_kinds(optimizer: Optimizer, ndim: int) -> Mapping[Path, Kind]:
    """What an optimizer keeps for a parameter with so many dimensions; nothing where that cannot be seen on a copy."""
    known = _KINDS.setdefault(optimizer, {})
    if ndim not in known:
        known[ndim] = _try_out(optimizer, SHAPE[:ndim]) if ndim <= len(SHAPE) else {}
    return known[ndim]


def refusal(optimizer: Optimizer, ndim: int) -> str | None:
    """The error that an optimizer under way raises if it is given one more parameter with so many dimensions.

    None if it takes it, or if it cannot be seen on a copy what it does.
    """
    known = _REFUSALS.setdefault(optimizer, {})
    if ndim not in known:
        known[ndim] = _add_to_copy(optimizer, ndim)
    return known[ndim]


def tensors_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """The tensors in a state, however deep in dicts, lists and tuples, with their paths."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, (*path, key))
    elif isinstance(value, list | tuple | deque):
        for item in value:
            yield from tensors_in(item, (*path, ANY))


def _try_out(optimizer: Optimizer, shape: tuple[int, ...]) -> dict[Path, Kind]:
    start = torch.linspace(-1.0, 2.0, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    try:
        one, other = (_state(optimizer, sign * start, sign * GOAL) for sign in (1.0, -1.0))
        weights = _like_weights(optimizer, start)
    except Exception:  # whatever somebody's optimizer needs that a copy on the CPU does not have
        return {}
    return {
        path: Kind(_dims(tensors, shape), "weight" if path in weights else _follows(tensors, other.get(path)))
        for path, tensors in one.items()
    }


def _state(optimizer: Optimizer, start: Tensor, goal: float) -> dict[Path, list[Tensor]]:
    """The state tensors of a copy after some steps."""
    made = copied(optimizer, [start])
    train(made, goal=goal, steps=STEPS)
    return _by_path(made)


def _like_weights(optimizer: Optimizer, start: Tensor) -> set[Path]:
    """The states that are near the parameter as soon as they are there, although there is no gradient."""
    made = copied(optimizer, [start])
    known: set[Path] = set()
    found = set()
    for _ in range(STEPS):
        weight = train(made, slope=0.0, steps=1)
        for path, tensors in _by_path(made).items():
            new = path not in known and all(tensor.shape == start.shape for tensor in tensors)
            if new and all(torch.allclose(tensor.flatten(), weight, rtol=NEAR) for tensor in tensors):
                found.add(path)
            known.add(path)
    return found


def _by_path(optimizer: Optimizer) -> dict[Path, list[Tensor]]:
    found: dict[Path, list[Tensor]] = {}
    for state in optimizer.state.values():
        for path, tensor in tensors_in(state):
            found.setdefault(path, []).append(tensor.detach().clone())
    return found


def _dims(tensors: Sequence[Tensor], shape: tuple[int, ...]) -> tuple[bool, ...] | None:
    """Which dimensions all of some tensors have, None if they are not alike or have others."""
    if any(tensor.shape != tensors[0].shape or tensor.ndim != len(shape) for tensor in tensors):
        return None
    if any(size not in (1, whole) for size, whole in zip(tensors[0].shape, shape, strict=True)):
        return None
    return tuple(size == whole for size, whole in zip(tensors[0].shape, shape, strict=True))


def _follows(tensors: Sequence[Tensor], turned: Sequence[Tensor] | None) -> Literal["gradient", "size"] | None:
    """What tensors follow, given those of a run in which all gradients are turned around."""
    pairs = [(one.double(), other.double()) for one, other in zip(tensors, turned or (), strict=False)]
    if len(pairs) != len(tensors) or any(one.shape != other.shape for one, other in pairs):
        return None
    if all(torch.allclose(one, -other) for one, other in pairs):
        return "gradient"
    return "size" if all(torch.allclose(one, other) for one, other in pairs) else None


def _add_to_copy(optimizer: Optimizer, ndim: int) -> str | None:
    held = optimizer.param_groups[0]["params"]
    first = torch.ones(SHAPE[: held[0].ndim] if held else SHAPE[:2], dtype=torch.float64)
    try:
        made = copied(optimizer, [first])
        train(made)
    except Exception:  # as in _try_out
        return None
    group = {key: value for key, value in made.param_groups[0].items() if key not in LISTS}
    try:
        made.add_param_group({**group, "params": [nn.Parameter(torch.ones(SHAPE[:ndim], dtype=torch.float64))]})
        train(made)
    except Exception as error:  # in whatever way it refuses
        return f"{type(error).__name__}: {error}"
    return None


_KINDS: WeakKeyDictionary[Optimizer, dict[int, Mapping[Path, Kind]]] = WeakKeyDictionary()
_REFUSALS: WeakKeyDictionary[Optimizer, dict[int, str | None]] = WeakKeyDictionary()
