"""DDP around a module that changes in a fit: which strategies allow that, and wrapping the module anew."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from structurenet_pl.distributed.communication import check_equal_reports, gather_where_different
from structurenet_pl.distributed.sharding import ShardedUnits, holds_shards
from structurenet_pl.lightning import MisconfigurationException, Trainer


def ranks_train_together(trainer: Trainer | None) -> bool:
    """Whether several processes train the module now, each with the whole of it in DDP, or with shards of FSDP2.

    They do so between the start and the end of a fit.
    """
    return trainer is not None and trainer.world_size > 1 and (is_ddp(trainer) or is_sharded_module(trainer))


def is_ddp(trainer: Trainer) -> bool:
    """Whether the module is in DDP now."""
    return isinstance(trainer.strategy.model, DistributedDataParallel)


def is_sharded_module(trainer: Trainer) -> bool:
    """Whether processes hold shards of the parameters of the module itself, as under FSDP2."""
    strategy = trainer.strategy
    return strategy.model is strategy.lightning_module and holds_shards(strategy.lightning_module)


def units_of(trainer: Trainer) -> ShardedUnits:
    """The units of ``fully_shard`` in the module, before a growth."""
    # the number of different shares of the data: processes of one tensor-parallel plan train on the same share
    data_is_parallel = trainer.strategy.distributed_sampler_kwargs["num_replicas"] > 1
    return ShardedUnits(trainer.lightning_module, data_is_parallel)


def can_follow(trainer: Trainer) -> bool:
    """Whether we know how the tensors of the module are held by the processes. To be called in a fit."""
    strategy = trainer.strategy
    is_single_process = trainer.world_size == 1 and strategy.model is strategy.lightning_module
    return is_single_process or is_ddp(trainer) or is_sharded_module(trainer)


def reason_against_structural_change(trainer: Trainer) -> str | None:
    """The part of the strategy that cannot follow when tensors are added, frozen or thawed; None if all parts can."""
    if not can_follow(trainer):
        return type(trainer.strategy).__name__
    # Lightning's only record of a communication hook with a state, which holds tensors for the buckets of the old DDP
    return None if getattr(trainer.strategy, "_ddp_comm_state", None) is None else "ddp_comm_state"


def check_strategy(trainer: Trainer) -> None:
    """Refuse growth under a strategy that would not reduce the gradients of new parameters.

    Raises:
        MisconfigurationException: If anything but DDP and FSDP2 spreads the module over processes, or a communication
            hook has a state of its own.
    """
    if (reason := reason_against_structural_change(trainer)) is not None:
        raise MisconfigurationException(
            f"growth during a fit is not supported under {reason}, which would not reduce the gradients of new "
            "parameters: grow before the fit, or train with strategy='ddp' without ddp_comm_state, with "
            "ModelParallelStrategy and fully_shard in configure_model, or on a single device. The LR callbacks work "
            "under any strategy."
        )


def rewrap_after_freezing(trainer: Trainer, frozen: Iterable[str]) -> None:
    """Have DDP reduce the gradients of exactly the parameters that are trained now; FSDP2 does so by itself.

    Args:
        trainer: The Trainer.
        frozen: Names of the frozen components.

    Raises:
        RuntimeError: On every rank, if the ranks freeze different components.
    """
    if ranks_train_together(trainer):
        when = f"freezing at step {trainer.global_step}"
        check_equal_reports(gather_where_different(dict.fromkeys(sorted(frozen), "frozen"), when), when)
    if is_ddp(trainer):
        rewrap(trainer.strategy)


def rewrap(strategy: Any) -> None:
    """Wrap the module in a new DDP, as Lightning does, with hooks on every parameter. No value changes.

    DDP reads the parameters and their ``requires_grad`` once, when it is made. Lightning has no public way to make
    another one in a fit, so this uses private attributes of its ``DDPStrategy``.
    """
    module = strategy.model = strategy.lightning_module
    if strategy._layer_sync is not None:  # set by Trainer(sync_batchnorm=True), applied once at the start of the fit
        _convert_batch_norms(module, strategy._layer_sync.apply)
    # with static_graph=True Lightning starts the all-reduce of the first backward pass by hand, once, and remembers it
    # here; the new DDP has a first backward pass of its own
    strategy._pl_static_graph_delay_done = False
    # the arguments that Lightning passes to DDP; all ranks hold equal values already, and without init_sync DDP
    # neither broadcasts nor compares them
    settings = strategy._ddp_kwargs
    strategy._ddp_kwargs = settings | {"init_sync": False}
    try:
        strategy.configure_ddp()
    finally:
        strategy._ddp_kwargs = settings


def _convert_batch_norms(module: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> None:
    """Convert new batch norms as ``Trainer(sync_batchnorm=True)`` has converted the old ones.

    Only the batch norms are replaced: ``convert(module)`` would also build new objects for the layers that are
    converted already. torch has no public base class of batch norms.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                setattr(parent, name, convert(child))
