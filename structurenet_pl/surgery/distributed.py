"""Several processes: the ranks agree on growth, grow and freeze alike or not at all, and are wrapped anew."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from structurenet_pl.lightning import MisconfigurationException, Trainer
from structurenet_pl.methods import GrowthRequest

WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32}  # by bytes; int64 for the rest


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


def of_all_processes(value: Any) -> list[Any]:
    """The plain values that all processes give, by rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
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


def agree(trainer: Trainer, waiting: Sequence[GrowthRequest]) -> bool:
    """Whether there is growth that every rank waits for; one tiny reduction where none waits for any.

    Raises:
        RuntimeError: On every rank, if they wait for different growth.
    """
    if not trainer.strategy.reduce_boolean_decision(bool(waiting), all=False):
        return False
    wishes = of_all_processes([str(request) for request in waiting])
    if any(wish != wishes[0] for wish in wishes):
        each = "; ".join(f"rank {rank}: {', '.join(wish) or 'nothing'}" for rank, wish in enumerate(wishes))
        raise RuntimeError(
            f"the ranks ask for different growth ({each}). Every rank must ask for the same: let it depend on what all "
            "know, as the clock, or a value that is reduced over them (self.log(..., sync_dist=True), self.all_gather)."
        )
    return True


@contextmanager
def together(trainer: Trainer, request: GrowthRequest) -> Iterator[Callable[[], None]]:
    """What is done within is done on every rank, or raises on every rank. Without DDP nothing is special.

    Gives a function to be called at the end of the body: it has DDP follow the growth, and gives all ranks the values
    of rank 0.
    """
    strategy = trainer.strategy
    if not isinstance(wrapper := strategy.model, DistributedDataParallel):
        yield lambda: None
        return
    module = strategy.lightning_module
    _check_same(of_all_processes({"the growth asked for": str(request)} | _values(module)), f"before {request}")
    met = False

    def wrap() -> None:
        nonlocal met
        shapes = _shapes(module)
        met = True
        _check_done(request, of_all_processes((None, shapes)))
        _wrap(strategy)
        _check_same(of_all_processes(_values(module)), f"after {request} (is init_sync=False?)")

    try:
        yield wrap
    except Exception as error:
        strategy.model = wrapper
        if not met:
            of_all_processes((f"{type(error).__name__}: {error}", {}))
        raise


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
    strategy = trainer.strategy
    if isinstance(strategy.model, DistributedDataParallel):
        when = f"freezing at step {trainer.global_step}"
        _check_same(of_all_processes(dict.fromkeys(sorted(frozen), "frozen")), when)
        _wrap(strategy)


def _wrap(strategy: Any) -> None:
    """Wrap the module anew, as Lightning does: rank 0's values for all, hooks on every parameter."""
    module = strategy.model = strategy.lightning_module
    if strategy._layer_sync is not None:
        _convert_norms(module, strategy._layer_sync.apply)
    strategy._pl_static_graph_delay_done = False  # a static graph is traced anew
    strategy.configure_ddp()


def _convert_norms(module: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> None:
    """Do with newborn batch norms what ``Trainer(sync_batchnorm=True)`` has done with the others."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                setattr(parent, name, convert(child))


def _check_done(request: GrowthRequest, reports: Sequence[tuple[str | None, Mapping[str, Any]]]) -> None:
    """Raise where a rank could not grow, or has grown otherwise than rank 0."""
    for rank, (error, _) in enumerate(reports):
        if error is not None:
            raise RuntimeError(f"{request} raised {error} on rank {rank}, and was undone on every rank")
    _check_same([shapes for _, shapes in reports], f"{request} was undone on every rank: after it")


def _check_same(reports: Sequence[Mapping[str, Any]], when: str) -> None:
    """Raise where a rank's report is not that of rank 0."""
    for rank, report in enumerate(reports):
        for name in {**reports[0], **report}:
            if report.get(name) != reports[0].get(name):
                raise RuntimeError(
                    f"{when}, rank {rank} differs from rank 0 in {name!r}: {report.get(name)} there, "
                    f"{reports[0].get(name)} on rank 0. All ranks must hold the same parameters, grow and freeze alike."
                )


def _shapes(module: nn.Module) -> dict[str, str]:
    """Type and shape of each parameter and buffer, by name."""
    tensors = chain(module.named_parameters(), module.named_buffers())
    return {name: f"{tensor.dtype}{list(tensor.shape)}" for name, tensor in tensors}


def _values(module: nn.Module) -> dict[str, int]:
    """A checksum of each parameter: its bits as whole numbers, whose sum (modulo 2^bits) is exact in any order."""
    return {name: _checksum(tensor.detach()) for name, tensor in module.named_parameters()}


def _checksum(tensor: torch.Tensor) -> int:
    dtype = WHOLE.get(tensor.element_size(), torch.int64)
    return int(tensor.reshape(-1).view(dtype).sum(dtype=dtype))
