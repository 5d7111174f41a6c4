"""Which strategies allow a module to change in a fit, and how they spread it over processes."""

from torch.nn.parallel import DistributedDataParallel

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


def sharded_units_of(trainer: Trainer) -> ShardedUnits:
    """The units of ``fully_shard`` in the module, before a growth."""
    # the number of different shares of the data: processes of one tensor-parallel plan train on the same share
    data_is_parallel = trainer.strategy.distributed_sampler_kwargs["num_replicas"] > 1
    return ShardedUnits(trainer.lightning_module, data_is_parallel)


def layout_is_known(trainer: Trainer) -> bool:
    """Whether we know which process holds which entries of the module. To be called in a fit."""
    strategy = trainer.strategy
    is_single_process = trainer.world_size == 1 and strategy.model is strategy.lightning_module
    return is_single_process or is_ddp(trainer) or is_sharded_module(trainer)


def reason_against_structural_change(trainer: Trainer) -> str | None:
    """The part of the strategy that cannot follow when tensors are added, frozen or thawed; None if all parts can."""
    if not layout_is_known(trainer):
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
