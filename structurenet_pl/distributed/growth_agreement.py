"""One growth on several processes: they do the same, or all of them raise and none has grown."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from structurenet_pl.distributed.processes import check_same, of_all_processes, wrap
from structurenet_pl.lightning import Trainer
from structurenet_pl.optim.state_kinds import tensors_in
from structurenet_pl.structure.grow import Change
from structurenet_pl.structure.growth_methods import GrowthRequest

INTEGER_OF_BYTES = {1: torch.int8, 2: torch.int16, 4: torch.int32}  # by bytes; int64 for the rest
CHECKSUM_CHUNK = 1 << 20  # entries
CHECKSUM_FACTOR = 6364136223846793005
CHECKSUM_MASK = (1 << 64) - 1


class SingleProcess:
    """One process has nobody to agree with."""

    def decided(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments as they are."""
        return arguments

    def compare_and_wrap(self, change: Change) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class GrowthAgreement(SingleProcess):
    """What the ranks compare in the course of one growth.

    Args:
        trainer: The Trainer.
        request: The growth that all ranks ask for.
    """

    def __init__(self, trainer: Trainer, request: GrowthRequest) -> None:
        self._trainer, self._request = trainer, request
        self._module = trainer.strategy.lightning_module
        self._old_buffers = set(self._module.buffers())
        self._over = False  # nobody waits for what this rank has to say
        check_same(self._share({"the growth asked for": str(request)} | self._values()), f"before {request}")

    def decided(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """What rank 0 has decided by data or chance, to be done by all."""
        return self._share(dict(arguments))[0]

    def compare_and_wrap(self, change: Change) -> None:
        """Have DDP follow, once all ranks have done the same, and give all the values of rank 0."""
        when = f"{self._request} was undone on every rank: after it"
        reports = self._share([self._done(change), self._values()])
        self._over = True  # from here on all of them raise, or none
        check_same([done for done, _ in reports], when)
        values = [value for _, value in reports]
        wrap(self._trainer.strategy)
        tensors = dict(chain(self._module.named_parameters(), self._module.named_buffers()))
        for name, value in values[0].items():
            if any(other[name] != value for other in values):
                torch.distributed.broadcast(tensors[name].detach(), 0)

    def end(self) -> None:
        """All have reacted to the growth."""
        of_all_processes(None, f"after {self._request}, in what reacts to it by on_growth")

    def fail(self, error: Exception) -> None:
        """Tell those that wait for what this rank has to say."""
        if not self._over:
            self._over = True
            of_all_processes((f"{type(error).__name__}: {error}", None), f"in {self._request}")

    def _share(self, report: Any) -> list[Any]:
        """The reports of all ranks, by rank.

        Raises:
            RuntimeError: If one of them could not grow.
        """
        reports = of_all_processes((None, report), f"in {self._request}")
        for rank, (error, _) in enumerate(reports):
            if error is not None:
                self._over = True
                raise RuntimeError(f"{self._request} raised {error} on rank {rank}, and was undone on every rank")
        return [found for _, found in reports]

    def _values(self) -> dict[str, int]:
        """A checksum of each parameter, and of each buffer that is new."""
        named = dict(self._module.named_parameters())
        named |= {name: one for name, one in self._module.named_buffers() if one not in self._old_buffers}
        return dict(zip(named, checksums([tensor.detach() for tensor in named.values()]), strict=True))

    def _done(self, change: Change) -> dict[str, Any]:
        """What was done: the event, which entries continue which, and what the optimizers keep."""
        module, event, names = self._module, change.event, change.structure.parameter_names
        tensors = chain(module.named_parameters(), module.named_buffers())
        done: dict[str, Any] = {name: f"{tensor.dtype}{list(tensor.shape)}" for name, tensor in tensors}
        done["the event"] = str(event)
        for successor in change.successors.values():
            if successor is not None and successor.reshaped:
                done[f"where the entries of {names[successor.tensor]} come from"] = successor.origin
        for number, optimizer in enumerate(self._trainer.optimizers):
            for tensor, state in optimizer.state.items():
                kept = {str(path): list(one.shape) for path, one in tensors_in(state)}
                done[f"the state of {names.get(tensor)} in optimizer {number}"] = kept
        return done


@contextmanager
def all_ranks_or_none(trainer: Trainer, request: GrowthRequest) -> Iterator[SingleProcess]:
    """What is done within is done on every rank, or raises on every rank. Without DDP nothing is special."""
    strategy = trainer.strategy
    if not isinstance(wrapper := strategy.model, DistributedDataParallel):
        yield SingleProcess()
        return
    meeting = GrowthAgreement(trainer, request)
    try:
        yield meeting
    except Exception as error:
        strategy.model = wrapper
        meeting.fail(error)
        raise


def checksums(tensors: Sequence[Tensor]) -> list[int]:
    """A checksum of each tensor: its bits as whole numbers, each times one of its place."""
    sums: list[Tensor] = []
    parts = []
    for tensor in tensors:
        whole = tensor.reshape(-1).view(INTEGER_OF_BYTES.get(tensor.element_size(), torch.int64))
        chunks = whole.split(CHECKSUM_CHUNK)
        parts.append(len(chunks))
        sums += [_weighed(chunk) for chunk in chunks]
    found = iter(torch.stack(sums).tolist() if sums else [])
    return [_joined(next(found) for _ in range(part)) for part in parts]


def _weighed(chunk: Tensor) -> Tensor:
    chunk = chunk.to(torch.int32) if chunk.element_size() < 4 else chunk
    places = torch.arange(1, 2 * len(chunk), 2, dtype=chunk.dtype, device=chunk.device)
    return (chunk * places).sum(dtype=torch.int64)


def _joined(sums: Iterator[int]) -> int:
    joined = 0
    for one in sums:
        joined = (joined * CHECKSUM_FACTOR + one) & CHECKSUM_MASK
    return joined
