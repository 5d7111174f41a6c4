"""What the tensors in the state of an optimizer are: their shapes and what they follow, found out on copies."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.optim.param_groups import PER_TENSOR_KEYS
from structurenet_pl.optim.probe import Recipe, train

Path = tuple[Any, ...]  # keys that lead to a tensor in the state; of a list all entries have one path
SHAPE = (2, 3, 5, 4)  # each size another, so that it can be told which dimensions a state has
ANY_POSITION = "*"  # in a path: every position of a list
GOAL = 0.3
MAX_RELATIVE_DISTANCE = 0.3  # relative; weight decay moves a parameter a little
WIDE = 100  # times; what has one entry for a small tensor may have one for each block of a large one
STEPS = 12  # states that are kept every few steps are there by then


@dataclass(frozen=True)
class Kind:
    """What a state tensor is.

    Args:
        dims: For each dimension of the parameter, whether the state has as many entries, else 1; None if its shape is
            not that of the parameter.
        single: Whether it has one entry only, whatever the size of the parameter.
        follows: What it follows: ``"gradient"`` if it turns around with the gradient, such as a momentum; ``"size"`` if
            it does not, such as a second moment; ``"weight"`` if it is an average or a copy of the parameter; None if
            that cannot be told.
    """

    dims: tuple[bool, ...] | None
    single: bool
    follows: Literal["gradient", "size", "weight"] | None


class StateKinds:
    """What an optimizer keeps for parameters, tried out on copies of what it was when it was made or a fit started.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._recipe: Recipe | None = None
        with suppress(TypeError):  # no copy can be made
            self._recipe = Recipe.of(optimizer)
        self._ndim = next((tensor.ndim for group in optimizer.param_groups for tensor in group["params"]), 2)
        self._kinds: dict[int, Mapping[Path, Kind]] = {}
        self._refusals: dict[tuple[int, bool], str | None] = {}

    def of(self, ndim: int, state: Mapping[Tensor, Any]) -> Mapping[Path, Kind]:
        """What is kept for parameters with so many dimensions.

        Args:
            ndim: The number of dimensions.
            state: The state of the optimizer, whose shapes tell something where no copy can be made.
        """
        if ndim not in self._kinds:
            self._kinds[ndim] = _try_out(self._recipe, SHAPE[:ndim]) if self._recipe and ndim <= len(SHAPE) else {}
        return self._kinds[ndim] or _look_at(state, ndim)

    def refusal(self, ndim: int, anew: bool) -> str | None:
        """The error that the optimizer raises under way if it has no state for a parameter with so many dimensions.

        Args:
            ndim: The number of dimensions.
            anew: Whether it had a state; else the parameter is new, in a group of its own.

        Returns:
            None if it takes the parameter, or if that cannot be seen on a copy.
        """
        if self._recipe is None:
            return None
        if (ndim, anew) not in self._refusals:
            self._refusals[ndim, anew] = _step_without_state(self._recipe, ndim if anew else self._ndim, ndim, anew)
        return self._refusals[ndim, anew]


def state_kinds(optimizer: Optimizer) -> StateKinds:
    """What is known of the state of an optimizer; to be called first when it is as it was made."""
    return _KNOWN.get(optimizer) or _KNOWN.setdefault(optimizer, StateKinds(optimizer))


def tensors_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """The tensors in a state, however deep in dicts, lists and tuples, with their paths."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, (*path, key))
    elif isinstance(value, list | tuple | deque):
        for item in value:
            yield from tensors_in(item, (*path, ANY_POSITION))


def _try_out(recipe: Recipe, shape: tuple[int, ...]) -> dict[Path, Kind]:
    start = torch.linspace(-1.0, 2.0, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    try:
        one, other = (_state(recipe, sign * start, sign * GOAL) for sign in (1.0, -1.0))
        weights = _like_weights(recipe, start)
        large = _state(recipe, start.repeat(*[1] * (start.ndim - 1), WIDE) if start.ndim else start, GOAL)
    except Exception:  # whatever somebody's optimizer needs that a copy on the CPU does not have
        return {}
    return {
        path: Kind(
            _dims(tensors, shape),
            all(tensor.numel() == 1 for tensor in [*tensors, *large.get(path, ())]),
            "weight" if path in weights else _follows(tensors, other.get(path)),
        )
        for path, tensors in one.items()
    }


def _state(recipe: Recipe, start: Tensor, goal: float) -> dict[Path, list[Tensor]]:
    """The state tensors of an optimizer after some steps."""
    made = recipe.make([start])
    train(made, goal=goal, steps=STEPS)
    return _by_path(made)


def _like_weights(recipe: Recipe, start: Tensor) -> set[Path]:
    """The states that are near the parameter as soon as they are there, although there is no gradient."""
    made = recipe.make([start])
    known: set[Path] = set()
    found = set()
    for _ in range(STEPS):
        weight = train(made, slope=0.0, steps=1)
        for path, tensors in _by_path(made).items():
            new = path not in known and all(tensor.shape == start.shape for tensor in tensors)
            if new and all(
                torch.allclose(tensor.flatten().to(weight), weight, rtol=MAX_RELATIVE_DISTANCE) for tensor in tensors
            ):
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


def _look_at(state: Mapping[Tensor, Any], ndim: int) -> dict[Path, Kind]:
    """What can be told from the shapes of a state."""
    seen: dict[Path, set[tuple[tuple[bool, ...] | None, bool]]] = {}
    for parameter, entries in state.items():
        if isinstance(parameter, Tensor) and parameter.ndim == ndim:
            for path, tensor in tensors_in(entries):
                seen.setdefault(path, set()).add((_dims([tensor], tuple(parameter.shape)), tensor.numel() == 1))
    kinds = {}
    for path, found in seen.items():
        dims = {dims for dims, _ in found}
        kinds[path] = Kind(dims.pop() if len(dims) == 1 else None, all(single for _, single in found), None)
    return kinds


def _step_without_state(recipe: Recipe, ndim: int, new_ndim: int, anew: bool) -> str | None:
    ones = [torch.ones(SHAPE[:dims], dtype=torch.float64) for dims in (ndim, new_ndim)]
    try:
        made = recipe.make(ones[:1])
        train(made)
    except Exception:  # as in _try_out
        return None
    try:
        if anew:
            made.state.clear()
        else:
            group = {key: value for key, value in made.param_groups[0].items() if key not in PER_TENSOR_KEYS}
            made.add_param_group({**group, "params": [nn.Parameter(ones[1])]})
            for name in recipe.lists_by_group():
                setattr(made, name, [recipe.attributes[name][0]] * 2)
        train(made)
    except Exception as error:  # in whatever way it refuses
        return f"{type(error).__name__}: {error}"
    return None


_KNOWN: WeakKeyDictionary[Optimizer, StateKinds] = WeakKeyDictionary()
