"""What we take from Lightning, which is installed under one of two names, or both.

They hold the same code in classes of their own. Modules and Trainers are those of ``lightning`` where it is installed;
callbacks are callbacks of all that are, so that the Trainer and the command line of each accept them. Exceptions are
those of ``lightning``, too.
"""

import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch.nn import Module

OLDEST_LIGHTNING = (2, 5, 5)

for _name in ("lightning", "pytorch-lightning"):
    with suppress(PackageNotFoundError):
        if tuple(map(int, re.findall(r"\d+", version(_name))[:3])) < OLDEST_LIGHTNING:
            raise ImportError(
                f"structurenet_pl needs {_name} {'.'.join(map(str, OLDEST_LIGHTNING))} or later, on which it can "
                f"resume bit for bit, but {version(_name)} is installed: pip install -U {_name}"
            )

try:
    from lightning.pytorch import Callback as _Callback
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import LearningRateMonitor as _LearningRateMonitor
    from lightning.pytorch.core.optimizer import LightningOptimizer as _LightningOptimizer
    from lightning.pytorch.loggers import TensorBoardLogger as _TensorBoardLogger
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
except ModuleNotFoundError:
    from pytorch_lightning import Callback as _Callback
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.callbacks import LearningRateMonitor as _LearningRateMonitor
    from pytorch_lightning.core.optimizer import LightningOptimizer as _LightningOptimizer
    from pytorch_lightning.loggers import TensorBoardLogger as _TensorBoardLogger
    from pytorch_lightning.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

try:
    from pytorch_lightning import Callback as _OtherCallback
    from pytorch_lightning import Trainer as _OtherTrainer
    from pytorch_lightning.callbacks import LearningRateMonitor as _OtherLearningRateMonitor
    from pytorch_lightning.core.optimizer import LightningOptimizer as _OtherLightningOptimizer
    from pytorch_lightning.loggers import TensorBoardLogger as _OtherTensorBoardLogger
except ModuleNotFoundError:
    _OtherCallback = _Callback
    _OtherTrainer = Trainer
    _OtherLearningRateMonitor = _LearningRateMonitor
    _OtherLightningOptimizer = _LightningOptimizer
    _OtherTensorBoardLogger = _TensorBoardLogger

TENSORBOARD_LOGGERS = (_TensorBoardLogger, _OtherTensorBoardLogger)
CALLBACKS = (_Callback, _OtherCallback)
TRAINERS = (Trainer, _OtherTrainer)
LR_MONITORS = (_LearningRateMonitor, _OtherLearningRateMonitor)

__all__ = [
    "CALLBACKS",
    "LR_MONITORS",
    "TENSORBOARD_LOGGERS",
    "TRAINERS",
    "Callback",
    "LightningModule",
    "MisconfigurationException",
    "Trainer",
    "rank_zero_info",
    "rank_zero_warn",
    "resume_data",
    "unwrapped",
]


class Callback(*dict.fromkeys([_Callback, _OtherCallback])):  # type: ignore[misc]
    """A callback in every Lightning that is installed."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the methods of the module that Lightning hangs on callbacks: a copy would take the module along."""
        return {key: value for key, value in vars(self).items() if not _is_method_of_module(value)}


def unwrapped(optimizer: Any) -> Any:
    """The optimizer itself, where Lightning has put its own around it."""
    wrapped = isinstance(optimizer, _LightningOptimizer | _OtherLightningOptimizer)
    return optimizer.optimizer if wrapped else optimizer


def resume_data(fit_loop: Any) -> None:
    """Have a stateful loader go on where it stood.

    Lightning forgets that where the loader was set up before the checkpoint was restored, as by
    ``trainer.estimated_stepping_batches`` in ``configure_optimizers`` (its issue #20550); all names are private.
    """
    states, loader = (getattr(fit_loop, name, None) for name in ("_combined_loader_states_to_load", "_combined_loader"))
    if states and loader is not None:
        loader._load_state_dicts(states)
        fit_loop._combined_loader_states_to_load = []


def _is_method_of_module(value: object) -> bool:
    return isinstance(getattr(value, "__self__", None), Module)
