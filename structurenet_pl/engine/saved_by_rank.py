"""What each process has for itself in checkpoints: its random numbers, and growth that waits for a safe moment."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from structurenet_pl.distributed.communication import gather_from_all_ranks
from structurenet_pl.structure.growth_methods import BY_USER, GrowthRequest, request_by_name
from structurenet_pl.structure.random_states import collect_rng


def own_of_all_processes(waiting: Iterable[GrowthRequest]) -> dict[str, list[Any]]:
    """What each process has, by rank; triggers know from the clock, or by themselves, what is due."""
    by_user = [request for request in waiting if request.asked_by == BY_USER]
    wishes = [{"name": request.method.name, "arguments": dict(request.arguments)} for request in by_user]
    found = gather_from_all_ranks((collect_rng(), wishes), "writing a checkpoint")
    return {"rng": [rng for rng, _ in found], "waiting": [wishes for _, wishes in found]}


def waiting_from(saved: Sequence[Sequence[Mapping[str, Any]]], module: nn.Module, rank: int) -> list[GrowthRequest]:
    """What waits in a process, by what a checkpoint says; in one that was not there, what waited in the first.

    Raises:
        AttributeError: If the module has no such growth method.
        TypeError: If the arguments do not fit it.
    """
    return [request_by_name(module, **wish) for wish in saved[rank if rank < len(saved) else 0]]
