"""Tensors whose entries are divided among processes (``DTensor``), as FSDP2 and tensor parallelism have them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn

from structurenet_pl.structure.partition import Generations

DTensor: Any = ()  # isinstance(tensor, ()) is False: a torch without distributed has no sharded tensors
if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset  # private: no public offsets


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process may hold a part of the tensor only."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All entries of a tensor. Every process must call this, because sharded tensors are gathered."""
    return cast(Tensor, tensor.full_tensor()) if isinstance(tensor, DTensor) else tensor


def local_entries(tensor: Tensor) -> Tensor:
    """The entries of a tensor on this process; they share memory with it."""
    return cast(Tensor, tensor.to_local()) if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that is equal on all processes, divided among them as another one is. No message is sent."""
    if not isinstance(like, DTensor):
        return tensor
    mesh = like.device_mesh
    replicated = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return cast(Tensor, replicated.redistribute(placements=like.placements))


def shard_count(tensor: Tensor) -> int:
    """How many shards a tensor is divided into; other processes hold copies of these."""
    if not isinstance(tensor, DTensor):
        return 1
    count = 1
    for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
        count *= 1 if isinstance(placement, Replicate) else size
    return count


def sum_over_shards(numbers: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The sums over all shards of numbers that each process has computed from its own, in one message for all tensors.

    Args:
        numbers: A number for each tensor, or several rows of them. Those of whole tensors are equal on all processes,
            and stay as they are.
        tensors: The tensors.
    """
    if not any(map(is_sharded, tensors)):
        return numbers
    # each shard counts once, on however many processes there are copies of it
    copies = torch.distributed.get_world_size()
    sums = numbers * numbers.new_tensor([shard_count(tensor) / copies for tensor in tensors])
    torch.distributed.all_reduce(sums)
    return sums


def norms_of_whole(norms: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The norms of whole tensors, from those of the entries that each process holds, in one message for all tensors.

    Args:
        norms: A norm for each tensor, or several rows of them.
        tensors: The tensors.
    """
    # without shards the norms themselves, because the square and its root would round
    return sum_over_shards(norms.square(), tensors).sqrt() if any(map(is_sharded, tensors)) else norms


def generations_of_shard(tensor: Tensor, generations: Generations) -> Generations:
    """The generations of the indices of a tensor that this process holds.

    Args:
        tensor: The tensor.
        generations: For each dimension, the generation of each index of the whole tensor.

    Raises:
        NotImplementedError: If the tensor is not divided into blocks, as under FSDP2 with tensor parallelism.
    """
    if not isinstance(tensor, DTensor):
        return generations
    if not all(type(placement) in (Replicate, Shard) for placement in tensor.placements):
        raise NotImplementedError(
            f"a tensor with placements {tensor.placements} has entries of several ages, whose learning rates differ. "
            "That is supported for tensors that are divided into blocks: use FSDP2 without tensor parallelism, or "
            "factors that are equal for old and new entries of a widened component."
        )
    shape, start = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(indices[first : first + size] for indices, first, size in zip(generations, start, shape, strict=True))


Announce = Callable[[str], None]
_ANNOUNCE: ContextVar[Announce] = ContextVar("announce", default=lambda message: None)


@contextmanager
def gathering_announced(announce: Announce) -> Iterator[None]:
    """Have ``gather_parameters`` say what it is about to do, so that processes that do something else can be found.

    Args:
        announce: Is called with a message that is the same on all processes that gather the same tensors.
    """
    token = _ANNOUNCE.set(announce)
    try:
        yield
    finally:
        _ANNOUNCE.reset(token)


def gather_parameters(module: nn.Module) -> None:
    """Replace the sharded parameters of a module itself, without its children, by whole ones."""
    # named_parameters() leaves out a second name of a parameter
    sharded = {name: tensor for name, tensor in module._parameters.items() if tensor is not None and is_sharded(tensor)}
    if sharded:
        shapes = {name: list(tensor.shape) for name, tensor in sharded.items()}
        _ANNOUNCE.get()(f"gathers {type(module).__name__} {shapes}")
        for name, tensor in sharded.items():
            module._parameters[name] = nn.Parameter(whole(tensor.detach()), tensor.requires_grad)
