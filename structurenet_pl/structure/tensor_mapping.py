"""Which tensor continues which, when growth replaces tensors by others of another shape."""

import functools
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

NEW_ENTRY = -1


@dataclass(frozen=True, eq=False)
class Copying:
    """The values of a new tensor made of those of an old one: entry i is old entry ``source[i]`` over ``share[i]``.

    Args:
        dim: The dimension that the entries are counted along.
        source: An old position for each entry, which may come several times.
        share: What the entries are divided by; None for 1.
    """

    dim: int
    source: Tensor
    share: Tensor | None = None

    def of(self, old: Tensor) -> Tensor:
        """The values of the new tensor, made of values of the old one."""
        new = old.index_select(self.dim, self.source.to(old.device))
        if self.share is None:
            return new
        return new / self.share.to(old).view([-1 if dim == self.dim else 1 for dim in range(old.ndim)])


@dataclass(frozen=True, eq=False)
class Copied:
    """How one of our helpers has made the values of a tensor from those of another.

    Args:
        old: The other, as it was before the growth.
        steps: One after the other.
    """

    old: Tensor
    steps: tuple[Copying, ...]

    def of(self, old: Tensor) -> Tensor:
        """What the steps make of values of the old tensor."""
        return functools.reduce(lambda value, step: step.of(value), self.steps, old)


@dataclass(frozen=True, eq=False)
class Successor:
    """The tensor that continues another one.

    Args:
        tensor: The new tensor; the old one itself if it was reshaped in place.
        old_shape: Shape of the old one.
        origin: For each dimension, the old position of each entry, -1 for what is new.
    """

    tensor: nn.Parameter
    old_shape: torch.Size
    origin: tuple[tuple[int, ...], ...]

    @property
    def reshaped(self) -> bool:
        """Whether entries have come, gone or changed their places."""
        return any(places != tuple(range(size)) for places, size in zip(self.origin, self.old_shape, strict=True))


def came_from(parameter: nn.Parameter, positions: Sequence[int], dim: int = 0) -> nn.Parameter:
    """Say which entries of an old tensor the entries of a new one continue, where it is not the first ones.

    Called inside a growth method, it lets the optimizer state follow: momentum and the like go with the entries.
    Without it, entry ``i`` of the new tensor continues entry ``i`` of the old one, and what is beyond is new.

    Args:
        parameter: The new tensor, of shape ``[d_0, d_1, ...]``.
        positions: For each of its ``d_dim`` entries along ``dim`` the position in the old tensor, -1 for a new one.
        dim: The dimension that they are counted along.

    Returns:
        The parameter.

    Raises:
        ValueError: If there are not as many positions as entries, or one is taken twice or below -1; in the growth, if
            one is outside the old tensor.
        IndexError: If the tensor has no dimension ``dim``.

    Example:
        >>> from torch import nn
        >>> old, keep = nn.Linear(4, 3), [0, 2]
        >>> pruned = came_from(nn.Parameter(old.weight[keep].detach()), keep)
        >>> pruned.shape
        torch.Size([2, 4])
    """
    positions = positions.tolist() if isinstance(positions, Tensor) else positions
    places = tuple(int(position) for position in positions)
    kept = [place for place in places if place != NEW_ENTRY]
    if len(places) != parameter.shape[dim]:
        raise ValueError(f"came_from got {len(places)} positions for the {parameter.shape[dim]} entries of dim {dim}")
    if len(set(kept)) != len(kept) or min(kept, default=0) < 0:
        raise ValueError(f"positions must be old positions, each at most once, or -1 for what is new; got {places}")
    _DECLARED.setdefault(parameter, {})[dim % parameter.ndim] = places
    return parameter


def shape_of(tensor: Tensor) -> torch.Size | None:
    """Its shape, None for a lazy tensor, which the first batch gives one."""
    return None if is_lazy(tensor) else tensor.shape


def is_declared(parameter: nn.Parameter) -> bool:
    """Whether somebody has said where its entries came from."""
    return parameter in _DECLARED


def declared_parameters() -> list[nn.Parameter]:
    """The tensors of which somebody has said where their entries came from."""
    return list(_DECLARED)


def note_copying(new: Tensor, old: Tensor, step: Copying) -> None:
    """Note how the values of a tensor were made of those of another, until the growth under way is over."""
    before: Copied = _COPYING.get(old) or Copied(old, ())
    _COPYING[new] = Copied(before.old, (*before.steps, step))


def take_copied(tensors: Iterable[Tensor]) -> dict[Tensor, Copied]:
    """How the values of some tensors were made in the growth under way, where that was noted."""
    return {tensor: _COPYING.pop(tensor) for tensor in (tensors if _COPYING else ()) if tensor in _COPYING}


def forget(tensors: Iterable[Tensor]) -> None:
    """Drop what was noted outside a growth, or in one that is over: it does not count in the next."""
    for tensor in tensors if _DECLARED or _COPYING else ():
        _DECLARED.pop(tensor, None)
        _COPYING.pop(tensor, None)


def successor_of(name: str, old_shape: torch.Size | None, new: nn.Parameter) -> Successor:
    """The successor of a tensor, with what was declared of it; a lazy one had the shape that it has been given.

    Raises:
        ValueError: If it has another number of dimensions, or positions outside the old tensor were declared.
    """
    declared: Mapping[int, tuple[int, ...]] = _DECLARED.pop(new, {})
    old_shape = new.shape if old_shape is None else old_shape
    if new.ndim != len(old_shape):
        raise ValueError(
            f"parameter {name!r} had shape {tuple(old_shape)} and has {tuple(new.shape)} now: give a tensor with "
            "another number of dimensions a name of its own, so that it counts as new."
        )
    for dim, places in declared.items():
        if max(places, default=NEW_ENTRY) >= old_shape[dim]:
            raise ValueError(
                f"came_from of {name!r} names position {max(places)} in dim {dim}, which had {old_shape[dim]} entries"
            )
    origin = [
        declared.get(dim, tuple(place if place < before else NEW_ENTRY for place in range(size)))
        for dim, (size, before) in enumerate(zip(new.shape, old_shape, strict=True))
    ]
    return Successor(new, old_shape, tuple(origin))


def continued(tensor: Tensor, successors: Mapping[nn.Parameter, Successor | None]) -> Tensor | None:
    """What stands in the place of a tensor after the growth: itself, its successor, or nothing."""
    if tensor not in successors:
        return tensor
    successor = successors[cast(nn.Parameter, tensor)]
    return None if successor is None else successor.tensor


def embed(old: Tensor, successor: Successor, dims: Sequence[bool], fill: Tensor) -> Tensor:
    """A tensor of the shape of the successor, with the old entries in their places.

    Args:
        old: Has the old shape of the tensor that is continued, or 1 in some dimensions.
        successor: Says where its entries go.
        dims: For each dimension, whether it has an entry for each of the parameter's, else one for all.
        fill: What new entries are filled with; broadcasts to the result.
    """
    sizes, sources, targets = [], [], []
    for is_whole, places in zip(dims, successor.origin, strict=True):
        entries = {to: place for to, place in enumerate(places) if place != NEW_ENTRY} if is_whole else {0: 0}
        sizes.append(len(places) if is_whole else 1)
        targets.append(list(entries))
        sources.append(list(entries.values()))
    result = fill.expand(sizes).clone()
    result[_grid(targets, old.device)] = old[_grid(sources, old.device)]
    return result


def _grid(positions: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, ...]:
    """Indices of all combinations of positions, one tensor for each dimension."""
    return tuple(
        torch.tensor(places, dtype=torch.long, device=device).view(
            [-1 if at == dim else 1 for at in range(len(positions))]
        )
        for dim, places in enumerate(positions)
    )


# Not on the tensors, because looking for an attribute on each of them takes longer than all else in a small growth.
_DECLARED: MutableMapping[Any, dict[int, tuple[int, ...]]] = WeakIdKeyDictionary()
_COPYING: MutableMapping[Tensor, Copied] = WeakIdKeyDictionary()


def whereabouts(tensors: Iterable[Tensor]) -> tuple[torch.device | None, torch.dtype | None]:
    """The device of the first floating point tensor, and the dtype of all if they have one in common."""
    firsts: dict[torch.dtype, Tensor] = {}
    for tensor in tensors:
        firsts.setdefault(tensor.dtype, tensor)
    floating = [tensor for dtype, tensor in firsts.items() if dtype.is_floating_point]
    return (floating[0].device, floating[0].dtype if len(floating) == 1 else None) if floating else (None, None)


def bring(tensors: Iterable[Tensor], device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Bring tensors to a device, and floating point ones to a dtype; None leaves them."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device, dtype if tensor.is_floating_point() else None)
