"""All imports from Lightning, which is installed as ``lightning``, as ``pytorch_lightning``, or as both.

The two packages hold the same code in different classes. Modules, Trainers and exceptions come from ``lightning`` where
it is installed. Our callbacks derive from the callback class of every imported package, so that the Trainer and the
command line of each accept them.
"""

import re
import sys
from abc import ABCMeta
from contextlib import suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
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
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
except ModuleNotFoundError:
    from pytorch_lightning import Callback as _Callback
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

__all__ = [
    "TENSORBOARD_LOGGERS",
    "AnyCallback",
    "AnyLRMonitor",
    "AnyTrainer",
    "Callback",
    "LightningModule",
    "MisconfigurationException",
    "Trainer",
    "rank_zero_info",
    "rank_zero_warn",
    "restore_loader_position",
    "unwrapped",
]


# for isinstance and issubclass: the class of this name in every package that is imported, now or later
AnyCallback, AnyTrainer, AnyLRMonitor, _AnyLightningOptimizer = (
    ABCMeta(name, (), {}) for name in ("Callback", "Trainer", "LearningRateMonitor", "LightningOptimizer")
)
TENSORBOARD_LOGGERS: list[type] = []  # the same, as a list, because a subclass may write in another way


class Callback(*[_Callback]):  # type: ignore[misc]  # so that type checkers accept it in either Trainer
    """A callback for the Trainer of every Lightning that is imported."""

    def __getstate__(self) -> dict[str, Any]:
        """The attributes for copies, without ``log`` and ``log_dict``.

        Lightning sets these methods of the module on each callback: a copy of the callback would copy the module.
        """
        return {key: value for key, value in vars(self).items() if not _is_method_of_module(value)}


def _serve(package: str) -> None:
    """Have the classes of an imported package recognised, and our callbacks by that package."""
    lightning, core = import_module(package), import_module(f"{package}.core.optimizer")
    AnyTrainer.register(lightning.Trainer)
    AnyCallback.register(lightning.Callback)
    AnyLRMonitor.register(import_module(f"{package}.callbacks").LearningRateMonitor)
    TENSORBOARD_LOGGERS.append(import_module(f"{package}.loggers").TensorBoardLogger)
    _AnyLightningOptimizer.register(core.LightningOptimizer)
    Callback.__bases__ = tuple(dict.fromkeys([*Callback.__bases__, lightning.Callback]))


class _LateImport(MetaPathFinder):
    """Serves ``pytorch_lightning`` when somebody imports it: to import it here would take as long as all of ours."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find the package as the finders behind this one do, and serve it once it is executed."""
        if name != "pytorch_lightning":
            return None
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_serve(module: ModuleType) -> None:
                execute(module)
                _serve(name)

            spec.loader.exec_module = execute_and_serve  # type: ignore[method-assign]
        return spec


_serve(_Callback.__module__.partition(".callbacks")[0])
if sys.modules.get("pytorch_lightning"):
    _serve("pytorch_lightning")
else:
    sys.meta_path.insert(0, _LateImport())


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside Lightning's wrapper; any other object as it is."""
    return optimizer.optimizer if isinstance(optimizer, _AnyLightningOptimizer) else optimizer


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
