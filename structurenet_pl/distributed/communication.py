"""Communication of ranks: values that they gather, reduce, compare and broadcast."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import chain
from typing import Any
from zlib import crc32

import torch
from torch import nn

from structurenet_pl.lightning import Trainer
from structurenet_pl.structure.growth_methods import GrowthRequest


def gather_from_all_ranks(value: Any, when: str) -> list[Any]:
    """Gather one plain value from each rank, sorted by rank.

    Args:
        value: The value of this rank.
        when: The moment, for the error message, such as ``"at step 8"``.

    Raises:
        RuntimeError: If another process has ended, or does not answer in the time that the process group allows.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    try:
        torch.distributed.all_gather_object(values, value)
    except RuntimeError as error:
        raise _lost_process_error(when, error) from error
    return values


def gather_where_different(report: Any, when: str) -> list[Any]:
    """The reports of all ranks, sorted by rank. They are sent only if their digests differ.

    So where all ranks agree, nothing is sent that grows with the report, and no rank holds the reports of all others.

    Args:
        report: Plain values, with the same ``repr`` where they are equal.
        when: The moment, for the error message, such as ``"at step 8"``.

    Raises:
        RuntimeError: If another process has ended, or does not answer in the time that the process group allows.
    """
    digests = gather_from_all_ranks(sha256(repr(report).encode()).digest(), when)
    return [report] * len(digests) if len(set(digests)) == 1 else gather_from_all_ranks(report, when)


def max_over_ranks(trainer: Trainer, values: Sequence[int], when: str) -> list[int]:
    """The maximum over all ranks of each whole number.

    Raises:
        RuntimeError: If another process has ended, or does not answer in the time that the process group allows.
    """
    maxima = torch.tensor(values, dtype=torch.int64, device=trainer.strategy.root_device)
    try:
        torch.distributed.all_reduce(maxima, torch.distributed.ReduceOp.MAX)
    except RuntimeError as error:
        raise _lost_process_error(when, error) from error
    return [int(value) for value in maxima.tolist()]


def broadcast_from_rank_0(module: nn.Module) -> None:
    """Give every rank the parameters and buffers that the module has on rank 0; without other ranks, do nothing."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in chain(module.parameters(), module.buffers()):
            torch.distributed.broadcast(tensor.detach(), 0)


def check_equal_reports(reports: Sequence[Mapping[str, Any]], when: str) -> None:
    """Compare the reports of all ranks with the report of rank 0.

    Args:
        reports: One report for each rank, sorted by rank. All ranks hold the same list, so that all of them raise.
        when: The moment, for the error message, such as ``"at step 8"``.

    Raises:
        RuntimeError: If a report differs.
    """
    for rank, report in enumerate(reports):
        for name in {**reports[0], **report}:
            if report.get(name) != reports[0].get(name):
                raise RuntimeError(
                    f"{when}, rank {rank} differs from rank 0 in {name!r}: {report.get(name)} there, "
                    f"{reports[0].get(name)} on rank 0. All ranks must hold the same parameters, grow and freeze alike."
                )


def all_ranks_wait(trainer: Trainer, waiting: Sequence[GrowthRequest], lrs: Mapping[str, float]) -> bool:
    """Whether all ranks wait for growth, and for the same growth.

    Ranks compare their learning rates in the same reduction. Where no rank waits, this one small reduction is all.

    Args:
        trainer: The Trainer.
        waiting: The growth that this rank waits for.
        lrs: The learning rates of this rank, by name.

    Raises:
        RuntimeError: On every rank, if they wait for different growth or have different learning rates.
    """
    when = f"at step {trainer.global_step}"
    checksum = crc32(repr(lrs).encode())
    # the maximum of -checksum is minus the minimum, so one reduction shows whether all checksums are equal
    any_waits, highest, negated_lowest = max_over_ranks(trainer, [bool(waiting), checksum, -checksum], when)
    if highest != -negated_lowest:
        check_equal_reports(
            gather_from_all_ranks(lrs, when),
            f"{when} the learning rates differ: factors and schedulers may depend only on values that all ranks know, "
            "such as a metric that is reduced over them (self.log(..., sync_dist=True)). There",
        )
    if not any_waits:
        return False
    requests_by_rank = gather_from_all_ranks([str(request) for request in waiting], when)
    if any(requests != requests_by_rank[0] for requests in requests_by_rank):
        each = "; ".join(
            f"rank {rank}: {', '.join(requests) or 'nothing'}" for rank, requests in enumerate(requests_by_rank)
        )
        raise RuntimeError(
            f"the ranks ask for different growth ({each}). Every rank must ask for the same growth: let the decision "
            "depend on values that all ranks know, such as the clock, or a metric that is reduced over them "
            "(self.log(..., sync_dist=True), self.all_gather)."
        )
    return True


def _lost_process_error(when: str, error: Exception) -> RuntimeError:
    return RuntimeError(
        f"{when}, another process has ended or did not answer ({error}). Look for the cause in the output of that "
        "process, then resume from the last checkpoint."
    )
