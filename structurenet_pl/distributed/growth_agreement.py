"""One growth on several processes: all ranks grow alike, or all of them raise and none has grown."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain
from operator import inv
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from structurenet_pl.distributed.checksums import checksums
from structurenet_pl.distributed.communication import (
    check_equal_reports,
    gather_from_all_ranks,
    gather_where_different,
    max_over_ranks,
)
from structurenet_pl.distributed.ddp import rewrap
from structurenet_pl.distributed.sharding import ShardedUnits, tensors_may_mix
from structurenet_pl.distributed.supported_strategies import is_ddp, is_sharded_module, sharded_units_of
from structurenet_pl.lightning import Trainer
from structurenet_pl.optim.state_kinds import tensors_in
from structurenet_pl.structure.grow import CallAgainError, Change
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.sharded_tensors import gathering_announced, is_sharded


class GrowthAgreement(ABC):
    """The comparisons of all ranks in the course of one growth."""

    @abstractmethod
    def after_method(self, arguments: Mapping[str, Any]) -> None:
        """When the growth method has returned: agree on its arguments and, under FSDP2, shard new parameters.

        Raises:
            CallAgainError: If ranks have chosen different arguments, and this one must call the method again.
        """

    @abstractmethod
    def compare_and_rewrap(self, change: Change) -> None:
        """Compare what all ranks did, wrap the grown module in a new DDP, and give all ranks the values of rank 0."""

    @abstractmethod
    def confirm_reactions(self) -> None:
        """Wait until ``on_growth`` has returned on every rank."""


class AgreementOfOne(GrowthAgreement):
    """The agreement of a single process, which has no other ranks to compare with."""

    def after_method(self, arguments: Mapping[str, Any]) -> None:
        """Do nothing."""

    def compare_and_rewrap(self, change: Change) -> None:
        """Do nothing."""

    def confirm_reactions(self) -> None:
        """Do nothing."""


class AgreementOfRanks(GrowthAgreement):
    """The agreement of several ranks.

    Every rank sends the same sequence of reports. A rank that raises sends its error in place of the next report, so
    that no other rank waits for ever.

    Args:
        trainer: The Trainer.
        request: The growth that all ranks ask for.
    """

    def __init__(self, trainer: Trainer, request: GrowthRequest) -> None:
        self._trainer, self._request = trainer, request
        self._wrapper, self._module = trainer.strategy.model, trainer.strategy.lightning_module
        self._old_buffers = set(self._module.buffers())
        self._units = sharded_units_of(trainer) if is_sharded_module(trainer) else None
        self._reports_done = False  # whether the other ranks wait for no further report
        self._error: RuntimeError | None = None  # that all ranks raise
        reports = self._share("begins", {"the growth asked for": str(request)} | self._checksums_by_name())
        check_equal_reports(reports, f"before {request}")

    def after_method(self, arguments: Mapping[str, Any]) -> None:
        """Agree on arguments and, under FSDP2, shard new parameters."""
        self._agree_on_arguments(dict(arguments))
        if self._units is not None:
            new = self._units.new_parameters()
            shapes = {name: f"{tensor.dtype}{list(tensor.shape)}" for name, tensor in new.items()}
            reports = self._share("has new parameters", shapes)
            self._reports_done = any(report != shapes for report in reports)  # then all ranks raise
            check_equal_reports(reports, f"{self._request} was undone on every rank: after it")
            _shard_new_parameters(new.values(), self._units)

    def before_gathering(self, message: str) -> None:
        """Compare with the other ranks before this one waits for them to gather the same tensors.

        Args:
            message: What is gathered.
        """
        with _disable_current_modes():  # private: a message reads values, which no size of the method depends on
            self._share(message, None)

    def compare_and_rewrap(self, change: Change) -> None:
        """Compare what all ranks did, wrap the grown module in a new DDP, and give all ranks the values of rank 0."""
        own_checksums = self._checksums_by_name()
        # with the names, so that all ranks reduce equally many checksums below
        reports = self._share(
            "has grown", self._describe(change) | {"the new and trained tensors": list(own_checksums)}
        )
        # set before the comparison: all ranks hold the same reports, so from here on all of them raise, or none
        self._reports_done = True
        check_equal_reports(reports, f"{self._request} was undone on every rank: after it")
        if is_ddp(self._trainer):
            rewrap(self._trainer.strategy)
        tensors = dict(chain(self._module.named_parameters(), self._module.named_buffers()))
        for name in self._different(own_checksums):
            torch.distributed.broadcast(tensors[name].detach(), 0)  # initialised at random on each rank

    def confirm_reactions(self) -> None:
        """Wait until ``on_growth`` has returned on every rank."""
        gather_from_all_ranks(None, f"after {self._request}, in the on_growth hooks")

    def undo(self) -> None:
        """Have DDP, or the units of FSDP2, manage the module as before the growth, which has been undone."""
        self._trainer.strategy.model = self._wrapper
        if self._units is not None:
            self._units.restore()

    def report_failure(self, error: Exception) -> None:
        """Send an error to the ranks that wait for the next report of this one."""
        if not self._reports_done:
            self._reports_done = True
            gather_where_different((f"{type(error).__name__}: {error}", None, None), f"in {self._request}")

    def _agree_on_arguments(self, own: dict[str, Any]) -> None:
        """Have all ranks use the arguments that rank 0 has chosen, by data or at random.

        Args:
            own: The arguments of this rank.

        Raises:
            CallAgainError: If this rank must call the method again.
        """
        arguments = self._share("has returned", own)
        if all(others == own for others in arguments):
            return
        # under FSDP2 an operation in the method may need all ranks, so all of them call it again
        if own != arguments[0] or self._units is not None:
            raise CallAgainError(arguments[0], next(others for others in arguments if others != arguments[0]))
        self._share("has returned", own)  # with ranks that have called the method again

    def _share(self, stage: str, report: Any) -> list[Any]:
        """The reports of all ranks, sorted by rank.

        Args:
            stage: What this rank does now, for a message.
            report: Its report.

        Raises:
            RuntimeError: If a rank has sent an error, or does something else.
        """
        if self._error is not None:  # the growth method has caught it
            raise self._error
        reports = gather_where_different((None, stage, report), f"in {self._request}")
        for rank, (error, *_) in enumerate(reports):
            if error is not None:
                raise self._last(f"{self._request} raised {error} on rank {rank}, and was undone on every rank")
        stages = [its_stage for _, its_stage, _ in reports]
        for rank, its_stage in enumerate(stages):
            if its_stage != stages[0]:
                raise self._last(
                    f"{self._request} was undone on every rank: rank {rank} {its_stage}, but rank 0 {stages[0]}. All "
                    "ranks must grow alike."
                )
        return [rank_report for *_, rank_report in reports]

    def _last(self, message: str) -> RuntimeError:
        """An error that all ranks raise, after which no rank waits for a report."""
        self._reports_done, self._error = True, RuntimeError(message)
        return self._error

    def _checksums_by_name(self) -> dict[str, int]:
        """A checksum of each parameter and each new buffer. Old buffers may differ, as the statistics of norms do.

        Ranks hold different shards of sharded parameters, which are not compared.
        """
        named = {name: tensor for name, tensor in self._module.named_parameters() if not is_sharded(tensor)}
        named |= {name: buffer for name, buffer in self._module.named_buffers() if buffer not in self._old_buffers}
        return dict(zip(named, checksums([tensor.detach() for tensor in named.values()]), strict=True))

    def _different(self, own_checksums: Mapping[str, int]) -> list[str]:
        """The names whose checksums differ between ranks."""
        own = list(own_checksums.values())
        # one reduction shows the differences: the maximum of ~checksum is ~minimum; -checksum could overflow
        maxima = max_over_ranks(self._trainer, [*own, *map(inv, own)], f"after {self._request}")
        return [
            name
            for name, highest, inverted_lowest in zip(own_checksums, maxima, maxima[len(own) :], strict=False)
            if highest != ~inverted_lowest
        ]

    def _describe(self, change: Change) -> dict[str, Any]:
        """The event, the shapes, which entries continue which, and the shapes of the optimizer state."""
        module, event, names = self._module, change.event, change.structure.parameter_names
        tensors = chain(module.named_parameters(), module.named_buffers())
        description: dict[str, Any] = {name: f"{tensor.dtype}{list(tensor.shape)}" for name, tensor in tensors}
        description["the event"] = str(event)
        for successor in change.successors.values():
            if successor is not None and successor.reshaped:
                description[f"where the entries of {names[successor.tensor]} come from"] = successor.origin
        for number, optimizer in enumerate(self._trainer.optimizers):
            for tensor, state in optimizer.state.items():
                shapes = {str(path): list(state_tensor.shape) for path, state_tensor in tensors_in(state)}
                description[f"the state of {names.get(tensor)} in optimizer {number}"] = shapes
        return description


def _shard_new_parameters(new: Iterable[nn.Parameter], units: ShardedUnits) -> None:
    """Give new parameters the values of rank 0, and divide them among the ranks."""
    for tensor in new:
        if not is_sharded(tensor):  # initialised at random on each rank
            torch.distributed.broadcast(tensor.detach(), 0)
    units.follow()


@contextmanager
def all_ranks_or_none(trainer: Trainer, request: GrowthRequest) -> Iterator[GrowthAgreement]:
    """Have the body of the ``with`` succeed on every rank, or raise on every rank. On one process it runs as it is."""
    if not (is_ddp(trainer) or is_sharded_module(trainer)):
        yield AgreementOfOne()
        return
    agreement = AgreementOfRanks(trainer, request)
    try:
        # a growth method may index and add sharded tensors as if they were whole, with plain tensors
        mixing = tensors_may_mix() if is_sharded_module(trainer) else nullcontext()
        with mixing, gathering_announced(agreement.before_gathering):
            yield agreement
    except Exception as error:
        agreement.undo()
        agreement.report_failure(error)
        raise
