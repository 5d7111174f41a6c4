"""DDP around a module that changes in a fit: wraps the module anew."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from structurenet_pl.distributed.communication import check_equal_reports, gather_where_different
from structurenet_pl.distributed.supported_strategies import is_ddp, ranks_train_together
from structurenet_pl.lightning import Trainer


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
