"""Growth that waits for a safe moment, in checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from structurenet_pl.grown import requested
from structurenet_pl.methods import BY_USER, GrowthRequest
from structurenet_pl.surgery.distributed import of_all_processes


def waiting_of_all_processes(waiting: Iterable[GrowthRequest]) -> list[Any]:
    """What waits in each process, as plain values; triggers know from the clock, or by themselves, what is due."""
    by_user = [request for request in waiting if request.asked_by == BY_USER]
    return of_all_processes(
        [{"name": request.method.name, "arguments": dict(request.arguments)} for request in by_user]
    )


def waiting_from(saved: Sequence[Sequence[Mapping[str, Any]]], module: nn.Module, rank: int) -> list[GrowthRequest]:
    """What waits in a process, by what a checkpoint says; in one that was not there, what waited in the first.

    Raises:
        AttributeError: If the module has no such growth method.
        TypeError: If the arguments do not fit it.
    """
    return [requested(module, **wish) for wish in saved[rank if rank < len(saved) else 0]]
