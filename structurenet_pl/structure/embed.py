"""Puts the entries of an old tensor to their places in a tensor of another shape."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structurenet_pl.structure.tensor_mapping import NEW_ENTRY, Successor

MAX_COPIES = 64  # of slices; for more, indexing is faster


def embed(old: Tensor, successor: Successor, dims: Sequence[bool], fill: Tensor) -> Tensor:
    """A tensor of the shape of the successor, with the old entries at their new positions.

    Args:
        old: A tensor with an entry for each entry of the old parameter; in some dimensions its size may be 1.
        successor: The successor of the old parameter.
        dims: For each dimension, whether ``old`` has the size of the parameter, else 1.
        fill: The values of new entries; broadcasts to the result.
    """
    sizes, kept = [], []
    for is_whole, positions in zip(dims, successor.origin, strict=True):
        sizes.append(len(positions) if is_whole else 1)
        kept.append({to: at for to, at in enumerate(positions) if at != NEW_ENTRY} if is_whole else {0: 0})
    result = fill.expand(sizes).clone()
    runs = [_runs(along) for along in kept]
    if math.prod(map(len, runs)) <= MAX_COPIES:
        for block in itertools.product(*runs):
            to, at = result, old
            for dim, run in enumerate(block):
                to, at = to.narrow(dim, run.to, run.length), at.narrow(dim, run.at, run.length)
            to.copy_(at)
    else:  # in no order
        targets, sources = [list(along) for along in kept], [list(along.values()) for along in kept]
        result[_grid(targets, old.device)] = old[_grid(sources, old.device)]
    return result


class Run(NamedTuple):
    """Neighbouring entries that were neighbours in the old tensor, too: they are copied as a slice."""

    to: int
    at: int
    length: int


def _runs(kept: Mapping[int, int]) -> list[Run]:
    """The runs in a map from new to old positions."""
    runs: list[Run] = []
    for to, at in kept.items():
        last = runs[-1] if runs else None
        if last is not None and (to - last.to, at - last.at) == (last.length, last.length):
            runs[-1] = last._replace(length=last.length + 1)
        else:
            runs.append(Run(to, at, 1))
    return runs


def _grid(positions: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, ...]:
    """Indices of all combinations of positions, one tensor for each dimension."""
    return tuple(
        torch.tensor(along, dtype=torch.long, device=device).view(
            [-1 if other == dim else 1 for other in range(len(positions))]
        )
        for dim, along in enumerate(positions)
    )
