"""All imports from Lightning, which is installed as ``lightning``, as ``pytorch_lightning``, or as both.

The two packages hold the same code in different classes. Modules, Trainers and exceptions come from ``lightning`` where
it is installed. Our callbacks derive from the callback class of every installed package, so that the Trainer and the
command line of each accept them.
"""

import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch.nn import Module

OLDEST_LIGHTNING = (2, 5, 5)

# both are checked, because a callback of ours may run in the Trainer of either
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

# with pytorch_lightning alone, these are the same classes again; with lightning alone, they fall back to its classes
try:
    from pytorch_lightning import Callback as _OtherCallback
    from pytorch_lightning import LightningModule as _OtherLightningModule
    from pytorch_lightning import Trainer as _OtherTrainer
    from pytorch_lightning.callbacks import LearningRateMonitor as _OtherLearningRateMonitor
    from pytorch_lightning.core.optimizer import LightningOptimizer as _OtherLightningOptimizer
    from pytorch_lightning.loggers import TensorBoardLogger as _OtherTensorBoardLogger
except ModuleNotFoundError:
    _OtherCallback = _Callback
    _OtherLightningModule = LightningModule
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
    "has_hook",
    "rank_zero_info",
    "rank_zero_warn",
    "restore_loader_position",
    "unwrapped",
]


# dict.fromkeys: a class cannot have the same base twice, which it would have where one package is installed
class Callback(*dict.fromkeys([_Callback, _OtherCallback])):  # type: ignore[misc]
    """A callback for the Trainer of every installed Lightning."""

    def __getstate__(self) -> dict[str, Any]:
        """The attributes for copies, without ``log`` and ``log_dict``.

        Lightning sets these methods of the module on each callback: a copy of the callback would copy the module.
        """
        return {key: value for key, value in vars(self).items() if not _is_method_of_module(value)}


def has_hook(owner: object, name: str) -> bool:
    """Whether a callback or a module has a hook of its own, and not just the empty one of Lightning."""
    hook = getattr(owner, name, None)
    empty = [getattr(base, name, None) for base in (*CALLBACKS, LightningModule, _OtherLightningModule)]
    return callable(hook) and getattr(hook, "__func__", hook) not in empty


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside Lightning's wrapper; any other object as it is."""
    wrapped = isinstance(optimizer, _LightningOptimizer | _OtherLightningOptimizer)
    return optimizer.optimizer if wrapped else optimizer


def restore_loader_position(fit_loop: Any) -> None:
    """Have a stateful loader continue at the position that the checkpoint holds.

    Lightning loads the position only when it sets up the loader. If ``configure_optimizers`` reads
    ``trainer.estimated_stepping_batches``, the loader is set up before the checkpoint is restored, and the position is
    never loaded (Lightning issue #20550).
    """
    # no public way leads to the saved states; getattr, because another version may call them differently
    states, loader = (getattr(fit_loop, name, None) for name in ("_combined_loader_states_to_load", "_combined_loader"))
    if states and loader is not None:
        loader._load_state_dicts(states)
        fit_loop._combined_loader_states_to_load = []  # else Lightning would load them again at its next setup


def _is_method_of_module(value: object) -> bool:
    return isinstance(getattr(value, "__self__", None), Module)
