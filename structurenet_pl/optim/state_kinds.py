"""The kind of each tensor in an optimizer's state: its shape, and whether it follows gradients, their size or weights.

An optimizer does not declare this, so it is observed on small copies.
"""

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
from structurenet_pl.optim.small_copies import Recipe, train

Path = tuple[Any, ...]  # keys that lead to a tensor in the state of a parameter; all entries of a list share one path
ANY_POSITION = "*"  # in a path: any position of a list
COPY_SIZES = (2, 3, 5, 4)  # of a copy's parameter; all differ, so that a state shows which dimensions it has
STATE_TARGET = 0.3  # none of the start values, so that all gradients differ from 0
STATE_STEPS = 12  # enough for states that an optimizer makes only every few steps
MAX_RELATIVE_DISTANCE = 0.3  # of a copy of the weights from these; weight decay moves them a little
WIDENING = 100  # times; a state with one entry for a small tensor may have one for each block of a large tensor


@dataclass(frozen=True)
class StateKind:
    """The kind of a state tensor.

    Args:
        dims: For each dimension of the parameter, whether the state has as many entries (True) or one (False). None if
            its shape is not derived from that of the parameter.
        single: Whether it has one entry only, whatever the size of the parameter.
        follows: ``"gradient"`` if it changes its sign with the gradient, such as a momentum; ``"size"`` if it does not,
            such as a second moment; ``"weight"`` if it is an average or a copy of the parameter; None if unknown.
    """

    dims: tuple[bool, ...] | None
    single: bool
    follows: Literal["gradient", "size", "weight"] | None


class StateKinds:
    """The kinds of an optimizer's state tensors, by number of dimensions of the parameter.

    Copies are made of the optimizer as it is when this object is made.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._recipe: Recipe | None = None
        with suppress(TypeError):  # no copy can be made
            self._recipe = Recipe.of(optimizer)
        self._ndim = next((tensor.ndim for group in optimizer.param_groups for tensor in group["params"]), 2)
        self._kinds: dict[int, Mapping[Path, StateKind]] = {}
        self._refusals: dict[tuple[int, bool], str | None] = {}

    def of(self, ndim: int, state: Mapping[Tensor, Any]) -> Mapping[Path, StateKind]:
        """The kinds for parameters with so many dimensions.

        Args:
            ndim: The number of dimensions.
            state: The state of the optimizer, whose shapes are the only source where no copy can be made.
        """
        if ndim not in self._kinds:
            sizes = COPY_SIZES[:ndim]
            can_copy = ndim <= len(COPY_SIZES)
            self._kinds[ndim] = _kinds_from_copies(self._recipe, sizes) if self._recipe and can_copy else {}
        return self._kinds[ndim] or _kinds_from_shapes(state, ndim)

    def refusal(self, ndim: int, had_state: bool) -> str | None:
        """The error of a step in mid-training if the optimizer has no state for a parameter.

        Args:
            ndim: The number of dimensions of the parameter.
            had_state: Whether its state was dropped; else the parameter is new, in a group of its own.

        Returns:
            None if the step succeeds, or if that cannot be observed on a copy.
        """
        if self._recipe is None:
            return None
        if (ndim, had_state) not in self._refusals:
            first_ndim = ndim if had_state else self._ndim
            self._refusals[ndim, had_state] = _error_without_state(self._recipe, first_ndim, ndim, had_state)
        return self._refusals[ndim, had_state]


def state_kinds(optimizer: Optimizer) -> StateKinds:
    """The one ``StateKinds`` of an optimizer. Call it first while the optimizer is as the user has made it."""
    return _STATE_KINDS.get(optimizer) or _STATE_KINDS.setdefault(optimizer, StateKinds(optimizer))


def tensors_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """The tensors in a state with their paths, at any depth of dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, (*path, key))
    elif isinstance(value, list | tuple | deque):
        for item in value:
            yield from tensors_in(item, (*path, ANY_POSITION))


def _kinds_from_copies(recipe: Recipe, shape: tuple[int, ...]) -> dict[Path, StateKind]:
    """Compare copies in two runs of opposite sign, one without gradients, and one with a large parameter."""
    start = torch.linspace(-1.0, 2.0, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    try:
        states, mirrored = (_trained_states(recipe, sign * start, sign * STATE_TARGET) for sign in (1.0, -1.0))
        weight_paths = _paths_of_weight_copies(recipe, start)
        wide_start = start.repeat(*[1] * (start.ndim - 1), WIDENING) if start.ndim else start
        wide = _trained_states(recipe, wide_start, STATE_TARGET)
    except Exception:  # any error of somebody's optimizer that needs more than a copy on the CPU has
        return {}
    return {
        path: StateKind(
            _dims(tensors, shape),
            all(tensor.numel() == 1 for tensor in [*tensors, *wide.get(path, ())]),
            "weight" if path in weight_paths else _gradient_or_size(tensors, mirrored.get(path)),
        )
        for path, tensors in states.items()
    }


def _trained_states(recipe: Recipe, start: Tensor, target: float) -> dict[Path, list[Tensor]]:
    """The state tensors of a copy after some steps."""
    made = recipe.make([start])
    train(made, target=target, steps=STATE_STEPS)
    return _states_by_path(made)


def _paths_of_weight_copies(recipe: Recipe, start: Tensor) -> set[Path]:
    """The paths of states that are near the parameter when they first appear, although there is no gradient."""
    made = recipe.make([start])
    known: set[Path] = set()
    weight_paths = set()
    for _ in range(STATE_STEPS):
        weight = train(made, slope=0.0, steps=1)
        for path, tensors in _states_by_path(made).items():
            is_new = path not in known and all(tensor.shape == start.shape for tensor in tensors)
            if is_new and all(
                torch.allclose(tensor.flatten().to(weight), weight, rtol=MAX_RELATIVE_DISTANCE) for tensor in tensors
            ):
                weight_paths.add(path)
            known.add(path)
    return weight_paths


def _states_by_path(optimizer: Optimizer) -> dict[Path, list[Tensor]]:
    states: dict[Path, list[Tensor]] = {}
    for state in optimizer.state.values():
        for path, tensor in tensors_in(state):
            states.setdefault(path, []).append(tensor.detach().clone())
    return states


def _dims(tensors: Sequence[Tensor], shape: tuple[int, ...]) -> tuple[bool, ...] | None:
    """The field ``dims`` of tensors at one path; None if their shapes differ or are not derived from ``shape``."""
    if any(tensor.shape != tensors[0].shape or tensor.ndim != len(shape) for tensor in tensors):
        return None
    if any(size not in (1, full_size) for size, full_size in zip(tensors[0].shape, shape, strict=True)):
        return None
    return tuple(size == full_size for size, full_size in zip(tensors[0].shape, shape, strict=True))


def _gradient_or_size(
    tensors: Sequence[Tensor], mirrored: Sequence[Tensor] | None
) -> Literal["gradient", "size"] | None:
    """The field ``follows`` of tensors, given those of a run in which all gradients have the opposite sign."""
    pairs = [(tensor.double(), mirror.double()) for tensor, mirror in zip(tensors, mirrored or (), strict=False)]
    if len(pairs) != len(tensors) or any(tensor.shape != mirror.shape for tensor, mirror in pairs):
        return None
    if all(torch.allclose(tensor, -mirror) for tensor, mirror in pairs):
        return "gradient"
    return "size" if all(torch.allclose(tensor, mirror) for tensor, mirror in pairs) else None


def _kinds_from_shapes(state: Mapping[Tensor, Any], ndim: int) -> dict[Path, StateKind]:
    """The part of the kinds that the shapes of a state show."""
    seen: dict[Path, set[tuple[tuple[bool, ...] | None, bool]]] = {}
    for parameter, entries in state.items():
        if isinstance(parameter, Tensor) and parameter.ndim == ndim:
            for path, tensor in tensors_in(entries):
                seen.setdefault(path, set()).add((_dims([tensor], tuple(parameter.shape)), tensor.numel() == 1))
    kinds = {}
    for path, shapes in seen.items():
        dims = {dims for dims, _ in shapes}
        kinds[path] = StateKind(dims.pop() if len(dims) == 1 else None, all(single for _, single in shapes), None)
    return kinds


def _error_without_state(recipe: Recipe, ndim: int, new_ndim: int, had_state: bool) -> str | None:
    """The error of a copy in mid-training whose state is dropped, or that gets a new parameter; None without error."""
    start, new_start = (torch.ones(COPY_SIZES[:dims], dtype=torch.float64) for dims in (ndim, new_ndim))
    try:
        made = recipe.make([start])
        train(made)
    except Exception:  # as in _kinds_from_copies
        return None
    try:
        if had_state:
            made.state.clear()
        else:
            group = {key: value for key, value in made.param_groups[0].items() if key not in PER_TENSOR_KEYS}
            made.add_param_group({**group, "params": [nn.Parameter(new_start)]})
            for name in recipe.lists_by_group():
                setattr(made, name, [recipe.attributes[name][0]] * 2)
        train(made)
    except Exception as error:  # optimizers refuse with errors of any class
        return f"{type(error).__name__}: {error}"
    return None


_STATE_KINDS: WeakKeyDictionary[Optimizer, StateKinds] = WeakKeyDictionary()
