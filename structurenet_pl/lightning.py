"""What we take from Lightning, which is installed under one of two names, or both.

They hold the same code in classes of their own. Modules and Trainers are those of ``lightning`` where it is installed;
callbacks are callbacks of all that are, so that the Trainer and the command line of each accept them. Exceptions are
those of ``lightning``, too.
"""

from typing import Any

from torch.nn import Module

try:
    from lightning.pytorch import Callback as _Callback
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import LearningRateMonitor as _LearningRateMonitor
    from lightning.pytorch.core.optimizer import LightningOptimizer as _LightningOptimizer
    from lightning.pytorch.loggers import TensorBoardLogger as _TensorBoardLogger
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
    from lightning.pytorch.utilities.seed import isolate_rng
except ModuleNotFoundError:
    from pytorch_lightning import Callback as _Callback
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.callbacks import LearningRateMonitor as _LearningRateMonitor
    from pytorch_lightning.core.optimizer import LightningOptimizer as _LightningOptimizer
    from pytorch_lightning.loggers import TensorBoardLogger as _TensorBoardLogger
    from pytorch_lightning.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
    from pytorch_lightning.utilities.seed import isolate_rng

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
    "isolate_rng",
    "rank_zero_info",
    "rank_zero_warn",
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


def _is_method_of_module(value: object) -> bool:
    return isinstance(getattr(value, "__self__", None), Module)
