"""The successor of each tensor that growth replaces or reshapes, and where the entries of the successor came from."""

import functools
import weakref
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

NEW_ENTRY = -1  # the old position of an entry that is new; generations_after uses it as an index, of the last element


@dataclass(frozen=True, eq=False)
class Copying:
    """One step from old to new values: new entry i is old entry ``source[i]`` divided by ``share[i]``.

    Args:
        dim: The dimension of the entries.
        source: An old position for each new entry; a position may come several times. -1 for an entry that continues
            no old entry: its value is 0 here, and whatever the caller adds to that.
        share: The divisor of each new entry; None for 1.
    """

    dim: int
    source: Tensor
    share: Tensor | None = None

    def of(self, old: Tensor) -> Tensor:
        """The new values that follow from old ones."""
        along_dim = [-1 if dim == self.dim else 1 for dim in range(old.ndim)]
        # most entries stay in their places: these are copied as a slice, three times as fast along the last dimension
        lead = int((self.source.numpy() == np.arange(len(self.source))).cumprod().sum())
        moved = self.source[lead:].to(old.device)
        new = torch.cat([old.narrow(self.dim, 0, lead), old.index_select(self.dim, moved.clamp(min=0))], self.dim)
        if self.share is not None:
            new.div_(self.share.to(old).view(along_dim))
        new.narrow(self.dim, lead, len(moved)).masked_fill_((moved == NEW_ENTRY).view(along_dim), 0)
        return new


@dataclass(frozen=True, eq=False)
class Copied:
    """How a function such as ``widen`` computed the values of a new tensor from those of an old tensor.

    Averaged copies repeat the steps on their own values.

    Args:
        old: The old tensor, from before the growth. A weak reference, because a gathered tensor of FSDP2 must not stay
            in memory until the growth ends.
        steps: The steps, in order.
    """

    old: weakref.ref[Tensor]
    steps: tuple[Copying, ...]

    def of(self, old: Tensor) -> Tensor:
        """The new values that follow from values of the old tensor."""
        return functools.reduce(lambda value, step: step.of(value), self.steps, old)


@dataclass(frozen=True, eq=False)
class Successor:
    """The tensor that takes the place of an old tensor.

    Args:
        tensor: The new tensor; the old one itself if it was reshaped in place.
        old_shape: Shape of the old tensor.
        origin: For each dimension, the old position of each entry, -1 for a new entry.
    """

    tensor: nn.Parameter
    old_shape: torch.Size
    origin: tuple[tuple[int, ...], ...]

    @property
    def reshaped(self) -> bool:
        """Whether entries were added, removed or moved."""
        return any(old != tuple(range(size)) for old, size in zip(self.origin, self.old_shape, strict=True))


# Notes of the growth under way. Not attributes of the tensors, because a search for an attribute on every tensor takes
# longer than all the rest of a small growth. Weak and by identity, because == of tensors is elementwise.
_DECLARED: MutableMapping[Any, dict[int, tuple[int, ...]]] = WeakIdKeyDictionary()
_COPYING: MutableMapping[Tensor, Copied] = WeakIdKeyDictionary()


def came_from(parameter: nn.Parameter, positions: Sequence[int], dim: int = 0) -> nn.Parameter:
    """Declare which entries of an old tensor the entries of a new one continue, where these are not the first ones.

    Call it in a growth method. The optimizer state, such as momentum, is moved with the entries. Without a call, entry
    ``i`` of the new tensor continues entry ``i`` of the old one, and entries beyond the old size are new.

    Args:
        parameter: The new tensor, of shape ``[d_0, d_1, ...]``.
        positions: For each of its ``d_dim`` entries along ``dim`` the position in the old tensor, -1 for a new entry.
        dim: The dimension of the entries.

    Returns:
        The parameter.

    Raises:
        ValueError: If a position is no whole number, is used twice or is below -1, or the number of positions is not
            the number of entries; in the growth, if a position is outside the old tensor.
        IndexError: If the tensor has no dimension ``dim``.

    Example:
        >>> from torch import nn
        >>> old, keep = nn.Linear(4, 3), [0, 2]
        >>> pruned = came_from(nn.Parameter(old.weight[keep].detach()), keep)
        >>> pruned.shape
        torch.Size([2, 4])
    """
    try:
        origin = tuple(map(index, positions.tolist() if isinstance(positions, Tensor) else positions))
    except TypeError:
        raise ValueError(f"came_from got positions {positions!r}, expected a list of whole numbers") from None
    kept = [position for position in origin if position != NEW_ENTRY]
    if len(origin) != parameter.shape[dim]:
        raise ValueError(
            f"came_from got {len(origin)} positions, expected one for each of the {parameter.shape[dim]} entries of "
            f"dim {dim}"
        )
    if len(set(kept)) != len(kept) or min(kept, default=0) < 0:
        raise ValueError(
            f"came_from got positions {origin}, expected positions in the old tensor, each at most once, or -1 for a "
            "new entry"
        )
    _DECLARED.setdefault(parameter, {})[dim % parameter.ndim] = origin
    return parameter


def shape_of(tensor: Tensor) -> torch.Size | None:
    """The shape of a tensor, None for a lazy tensor, which gets its shape from the first batch."""
    return None if is_lazy(tensor) else tensor.shape


def is_declared(parameter: nn.Parameter) -> bool:
    """Whether ``came_from`` was called for a tensor."""
    return parameter in _DECLARED


def declared_parameters() -> list[nn.Parameter]:
    """The tensors for which ``came_from`` was called."""
    return list(_DECLARED)


def note_copying(new: Tensor, old: Tensor, step: Copying) -> None:
    """Note how the values of a new tensor were computed from those of an old one, until the growth ends."""
    before: Copied = _COPYING.get(old) or Copied(weakref.ref(old), ())  # the old tensor may be new in this growth, too
    _COPYING[new] = Copied(before.old, (*before.steps, step))


def pop_copied(tensors: Iterable[Tensor]) -> dict[Tensor, Copied]:
    """Remove and return the notes on how the values of tensors were computed in the growth under way."""
    return {tensor: _COPYING.pop(tensor) for tensor in (tensors if _COPYING else ()) if tensor in _COPYING}


def move_notes(old: nn.Parameter, new: nn.Parameter) -> None:
    """Let the notes on a new tensor of the growth under way hold for the tensor that takes its place."""
    if old in _DECLARED:
        _DECLARED[new] = _DECLARED.pop(old)
    if old in _COPYING:
        _COPYING[new] = _COPYING.pop(old)


def discard_notes(tensors: Iterable[Tensor]) -> None:
    """Discard the notes on tensors from before a growth: they must not count in it."""
    for tensor in tensors if _DECLARED or _COPYING else ():  # nearly always empty: then nothing is iterated
        _DECLARED.pop(tensor, None)
        _COPYING.pop(tensor, None)


def successor_of(name: str, old_shape: torch.Size | None, new: nn.Parameter) -> Successor:
    """The successor of a tensor, with the positions that were declared for it.

    Args:
        name: The name of the old tensor.
        old_shape: Its shape. None for a lazy tensor: then the shape of the new one, which it was given since.
        new: The new tensor.

    Raises:
        ValueError: If the new tensor has another number of dimensions, or declared positions outside the old tensor.
    """
    declared: Mapping[int, tuple[int, ...]] = _DECLARED.pop(new, {})
    old_shape = new.shape if old_shape is None else old_shape
    if new.ndim != len(old_shape):
        raise ValueError(
            f"parameter {name!r} had shape {tuple(old_shape)} and has {tuple(new.shape)} now, expected the same number "
            "of dimensions: give a tensor with another number of dimensions a name of its own, so that it counts as "
            "new."
        )
    for dim, positions in declared.items():
        if max(positions, default=NEW_ENTRY) >= old_shape[dim]:
            raise ValueError(
                f"came_from of {name!r} got position {max(positions)} in dim {dim}, expected positions below "
                f"{old_shape[dim]}, the number of old entries"
            )
    origin = [
        declared.get(dim, (*range(min(size, old_size)), *[NEW_ENTRY] * (size - old_size)))
        for dim, (size, old_size) in enumerate(zip(new.shape, old_shape, strict=True))
    ]
    return Successor(new, old_shape, tuple(origin))


def tensor_after_growth(tensor: Tensor, successors: Mapping[nn.Parameter, Successor | None]) -> Tensor | None:
    """The tensor in the place of an old one after the growth: itself, its successor, or None if it was removed."""
    if tensor not in successors:
        return tensor
    successor = successors[cast(nn.Parameter, tensor)]
    return None if successor is None else successor.tensor


def common_device_and_dtype(tensors: Iterable[Tensor]) -> tuple[torch.device | None, torch.dtype | None]:
    """The device of the first floating point tensor, and the dtype of all floating point tensors if it is the same."""
    firsts: dict[torch.dtype, Tensor] = {}
    for tensor in tensors:
        firsts.setdefault(tensor.dtype, tensor)
    floating = [tensor for dtype, tensor in firsts.items() if dtype.is_floating_point]
    return (floating[0].device, floating[0].dtype if len(floating) == 1 else None) if floating else (None, None)


def move_tensors(tensors: Iterable[Tensor], device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Move tensors to a device, and cast floating point tensors to a dtype; None changes nothing."""
    for tensor in tensors:
        to_dtype = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        if (to_dtype, device or tensor.device) != (tensor.dtype, tensor.device):
            # .data, so that the tensor stays the same object for optimizer and hooks
            tensor.data = tensor.data.to(device, to_dtype)
