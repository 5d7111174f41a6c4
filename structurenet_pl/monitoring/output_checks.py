"""Checks at the start of a fit: can the monitor write and draw what it is to write and draw?"""

from structurenet_pl.distributed.supported_strategies import layout_is_known
from structurenet_pl.lightning import MisconfigurationException, Trainer, rank_zero_info, rank_zero_warn
from structurenet_pl.monitoring.tensorboard import can_draw, tensorboard_loggers


def check_outputs(trainer: Trainer, norms: bool) -> None:
    """Warn of output that cannot be written, and refuse norms of tensors that are split over processes.

    Args:
        trainer: The Trainer, at the start of a fit.
        norms: Whether norms are to be logged.

    Raises:
        MisconfigurationException: With norms under a strategy that splits tensors over processes.
    """
    if not trainer.loggers:
        rank_zero_warn("StrataMonitor has no logger to write to: give the Trainer one, or leave the callback out")
    if norms and not layout_is_known(trainer):
        raise MisconfigurationException(
            f"StrataMonitor(norms=True) is not supported under {type(trainer.strategy).__name__}, which splits "
            "tensors over processes: set norms=False, or use DDP or FSDP2 (ModelParallelStrategy)."
        )
    if tensorboard_loggers(trainer) and not can_draw():
        rank_zero_info("StrataMonitor draws no heat map: for that, pip install matplotlib tensorboard")
