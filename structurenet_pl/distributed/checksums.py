"""Checksums of tensors, by which ranks compare parameters without sending them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

INTEGER_BY_BYTES = {1: torch.int8, 2: torch.int16, 4: torch.int32}  # element size in bytes -> dtype; else int64
ENTRIES_PER_CHUNK = 1 << 20  # limits the memory of the weights that entries are multiplied by
CHUNK_MULTIPLIER = 6364136223846793005  # of Knuth's 64-bit linear congruential generator
BITS = 64


def checksums(tensors: Sequence[Tensor]) -> list[int]:
    """A checksum of each tensor, an int64 that is equal for equal bits in equal places.

    The bits of an entry count as a whole number. Each entry has a weight that depends on its place, so that a
    permutation of the entries changes the checksum. All sums leave the device at once: one synchronisation, not one for
    each tensor.

    Args:
        tensors: Tensors of any dtype, on any one device.

    Example:
        >>> first, second = checksums([torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])])
        >>> first == second
        False
    """
    chunk_sums: list[Tensor] = []
    chunk_counts = []
    for tensor in tensors:
        integers = tensor.reshape(-1).view(INTEGER_BY_BYTES.get(tensor.element_size(), torch.int64))
        chunks = integers.split(ENTRIES_PER_CHUNK)
        chunk_counts.append(len(chunks))
        chunk_sums += [_weighted_sum(chunk) for chunk in chunks]
    sums = iter(torch.stack(chunk_sums).tolist() if chunk_sums else [])
    return [_combined(next(sums) for _ in range(count)) for count in chunk_counts]


def _weighted_sum(chunk: Tensor) -> Tensor:
    chunk = chunk.to(torch.int32) if chunk.element_size() < 4 else chunk
    # odd weights are invertible modulo 2**32 and 2**64, so no change of a single entry is lost when products overflow
    weights = torch.arange(1, 2 * len(chunk), 2, dtype=chunk.dtype, device=chunk.device)
    return (chunk * weights).sum(dtype=torch.int64)


def _combined(chunk_sums: Iterator[int]) -> int:
    combined = 0
    for chunk_sum in chunk_sums:
        combined = (combined * CHUNK_MULTIPLIER + chunk_sum) % (1 << BITS)
    return combined - (combined >> (BITS - 1) << BITS)  # with a sign, so that it fits into a tensor
