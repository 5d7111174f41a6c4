"""Several processes: what they tell each other, and DDP around a module that has changed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any
from zlib import crc32

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from structurenet_pl.lightning import MisconfigurationException, Trainer
from structurenet_pl.structure.growth_methods import GrowthRequest


def several(trainer: Trainer | None) -> bool:
    """Whether several processes hold the module wrapped in DDP; they do between the start of a fit and its end."""
    return (
        trainer is not None and trainer.world_size > 1 and isinstance(trainer.strategy.model, DistributedDataParallel)
    )


def whole(trainer: Trainer) -> bool:
    """Whether every process holds the whole module; in a fit."""
    strategy = trainer.strategy
    alone = trainer.world_size == 1 and strategy.model is strategy.lightning_module
    return alone or isinstance(strategy.model, DistributedDataParallel)


def obstacle(trainer: Trainer) -> str | None:
    """What cannot follow if tensors are added, frozen or thawed; None if all can."""
    if not whole(trainer):
        return type(trainer.strategy).__name__
    return None if getattr(trainer.strategy, "_ddp_comm_state", None) is None else "ddp_comm_state"


def of_all_processes(value: Any, when: str) -> list[Any]:
    """The plain values that all processes give, by rank.

    Args:
        value: What this one gives.
        when: For the error: what is under way.

    Raises:
        RuntimeError: If another process is gone, or does not come in the time that the process group allows.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    try:
        torch.distributed.all_gather_object(found, value)
    except RuntimeError as error:
        raise _left_alone(when, error) from error
    return found


def check_strategy(trainer: Trainer) -> None:
    """Refuse growth where the gradients of what is born would not be followed.

    Raises:
        MisconfigurationException: If the module is spread over processes by anything but DDP, or a communication
            hook has a state of its own.
    """
    if (found := obstacle(trainer)) is not None:
        raise MisconfigurationException(
            f"growth during a fit is not supported under {found}, which would not follow it: grow before the fit, or "
            "train with strategy='ddp' without ddp_comm_state, or on a single device. The LR callbacks work under any "
            "strategy."
        )


def all_ranks_wait(trainer: Trainer, waiting: Sequence[GrowthRequest], lrs: Mapping[str, float]) -> bool:
    """Whether there is growth that every rank waits for; one tiny reduction where none waits for any.

    Args:
        trainer: The Trainer.
        waiting: What this rank waits for.
        lrs: The learning rates of this rank, by name.

    Raises:
        RuntimeError: On every rank, if they wait for different growth, or have different learning rates.
    """
    when = f"at step {trainer.global_step}"
    checksum = crc32(repr(lrs).encode())
    waits, highest, lowest = largest(trainer, [bool(waiting), checksum, -checksum], when)
    if highest != -lowest:
        check_same(
            of_all_processes(lrs, when),
            f"{when} the learning rates differ: factors and schedulers may depend on nothing but what all ranks know, "
            "such as a metric that is reduced over them (self.log(..., sync_dist=True)). There",
        )
    if not waits:
        return False
    wishes = of_all_processes([str(request) for request in waiting], when)
    if any(wish != wishes[0] for wish in wishes):
        each = "; ".join(f"rank {rank}: {', '.join(wish) or 'nothing'}" for rank, wish in enumerate(wishes))
        raise RuntimeError(
            f"the ranks ask for different growth ({each}). Every rank must ask for the same: let it depend on what all "
            "know, as the clock, or a value that is reduced over them (self.log(..., sync_dist=True), self.all_gather)."
        )
    return True


def largest(trainer: Trainer, values: Sequence[int], when: str) -> list[int]:
    """The largest of the whole numbers that the ranks give, for each place."""
    found = torch.tensor(values, dtype=torch.int64, device=trainer.strategy.root_device)
    try:
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    except RuntimeError as error:
        raise _left_alone(when, error) from error
    return [int(value) for value in found.tolist()]


def give_values_of_first(module: nn.Module) -> None:
    """Give every process the values that a module has in the first; nothing where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in chain(module.parameters(), module.buffers()):
            torch.distributed.broadcast(tensor.detach(), 0)


def wrap_anew(trainer: Trainer, frozen: Iterable[str]) -> None:
    """Have DDP follow what is frozen now; nothing without DDP.

    Raises:
        RuntimeError: On every rank, if they freeze different components.
    """
    if isinstance(trainer.strategy.model, DistributedDataParallel):
        when = f"freezing at step {trainer.global_step}"
        check_same(of_all_processes(dict.fromkeys(sorted(frozen), "frozen"), when), when)
        wrap(trainer.strategy)


def wrap(strategy: Any) -> None:
    """Wrap the module anew, as Lightning does, with hooks on every parameter; values stay what they are."""
    module = strategy.model = strategy.lightning_module
    if strategy._layer_sync is not None:
        _convert_norms(module, strategy._layer_sync.apply)
    strategy._pl_static_graph_delay_done = False  # a static graph is traced anew
    settings = strategy._ddp_kwargs
    strategy._ddp_kwargs = settings | {"init_sync": False}  # all ranks hold the same, which takes less to check
    try:
        strategy.configure_ddp()
    finally:
        strategy._ddp_kwargs = settings


def _convert_norms(module: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> None:
    """Do with newborn batch norms what ``Trainer(sync_batchnorm=True)`` has done with the others."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                setattr(parent, name, convert(child))


def check_same(reports: Sequence[Mapping[str, Any]], when: str) -> None:
    """Raise where a rank's report is not that of rank 0."""
    for rank, report in enumerate(reports):
        for name in {**reports[0], **report}:
            if report.get(name) != reports[0].get(name):
                raise RuntimeError(
                    f"{when}, rank {rank} differs from rank 0 in {name!r}: {report.get(name)} there, "
                    f"{reports[0].get(name)} on rank 0. All ranks must hold the same parameters, grow and freeze alike."
                )


def _left_alone(when: str, error: Exception) -> RuntimeError:
    return RuntimeError(
        f"{when}, another process was gone or did not come ({error}). What it had to say for itself stands in its own "
        "output; the last checkpoint can be resumed."
    )
