"""Puts the entries of an old tensor into their places in a tensor of another shape."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
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
    origin = [positions if is_whole else (0,) for is_whole, positions in zip(dims, successor.origin, strict=True)]
    result = fill.expand(list(map(len, origin))).clone()
    runs = [_runs(positions) for positions in origin]
    if math.prod(map(len, runs)) <= MAX_COPIES:
        for block in itertools.product(*runs):
            target, source = result, old
            for dim, run in enumerate(block):
                target = target.narrow(dim, run.target, run.length)
                source = source.narrow(dim, run.source, run.length)
            target.copy_(source)
    else:  # scattered entries, in too many runs
        kept = [[(target, source) for target, source in enumerate(places) if source != NEW_ENTRY] for places in origin]
        targets, sources = ([[pair[end] for pair in along] for along in kept] for end in (0, 1))
        result[_grid(targets, old.device)] = old[_grid(sources, old.device)]
    return result


class Run(NamedTuple):
    """Neighbouring entries that were neighbours in the old tensor, too: they are copied as a slice.

    Args:
        target: The first of their positions in the new tensor.
        source: The first of their positions in the old tensor.
        length: Their number.
    """

    target: int
    source: int
    length: int


@lru_cache(maxsize=16)  # the tensors of an optimizer state share their positions with the parameter
def _runs(positions: tuple[int, ...]) -> list[Run]:
    """The runs among the new entries with these old positions, without entries that are new."""
    origin = np.array(positions, dtype=np.int64)
    targets = np.flatnonzero(origin != NEW_ENTRY)
    sources = origin[targets]
    starts = np.flatnonzero((np.diff(targets, prepend=-2) != 1) | (np.diff(sources, prepend=-2) != 1))
    lengths = np.diff(starts, append=len(targets))
    columns = targets[starts].tolist(), sources[starts].tolist(), lengths.tolist()
    return [Run(*run) for run in zip(*columns, strict=True)]


def _grid(positions: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, ...]:
    """Indices of all combinations of positions, one tensor for each dimension."""
    return tuple(
        torch.tensor(along, dtype=torch.long, device=device).view(
            [-1 if other == dim else 1 for other in range(len(positions))]
        )
        for dim, along in enumerate(positions)
    )
