"""Checkpoints under strategies that load them when module and optimizers are set up, as ``ModelParallelStrategy`` does.

Lightning loads such a checkpoint before it calls any hook with it. By then the module must have grown as the checkpoint
says, and the optimizers must hold the user's own groups: torch finds the state of a parameter by name there.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from structurenet_pl.distributed.sharded_checkpoints import ShardedCheckpoint
from structurenet_pl.distributed.sharding import tensors_may_mix
from structurenet_pl.distributed.supported_strategies import is_sharded_module, sharded_units_of
from structurenet_pl.learning_rates.lr_tables import CHECKPOINT_KEY
from structurenet_pl.lightning import Trainer
from structurenet_pl.structure.grow import AfterMethod
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.log_tensors import LOG_KEY, log_from_tensor
from structurenet_pl.structure.replay_log import replay

if TYPE_CHECKING:  # the driver makes this object
    from structurenet_pl.engine.driver import Driver

Checkpoint = dict[str, Any]


class LateRestore:
    """Prepares module and optimizers for a checkpoint in the moment in which the strategy loads it.

    Args:
        driver: The driver of the fit.
    """

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self._trainer: Trainer = None  # in a fit only

    def start(self, trainer: Trainer) -> None:
        """Be there when the strategy loads a checkpoint: Lightning calls no hook before that."""
        self._trainer = trainer
        if trainer.strategy.restore_checkpoint_after_setup:
            trainer.strategy.load_checkpoint = self._prepare_and_load

    def stop(self) -> None:
        """Let the strategy load checkpoints by itself."""
        if self._trainer is not None:
            vars(self._trainer.strategy).pop("load_checkpoint", None)
        self._trainer = None

    def _prepare_and_load(self, checkpoint_path: Any, weights_only: bool | None = None) -> Checkpoint:
        trainer, driver, module = self._trainer, self._driver, self._trainer.lightning_module
        strategy = trainer.strategy
        if not is_sharded_module(trainer):
            load = type(strategy).load_checkpoint
            return cast(Checkpoint, load(strategy, checkpoint_path, weights_only=weights_only))
        saved = ShardedCheckpoint(Path(strategy.broadcast(checkpoint_path)), weights_only)
        driver.tables.release_previous_fit()
        driver.tables.clear()
        if isinstance(module, Growable):
            log = saved.tensor(LOG_KEY)
            with tensors_may_mix():
                replay(module, () if log is None else log_from_tensor(log), lambda: _follow_with_units(trainer))
        strategy.setup_optimizers(trainer)  # for the module as it has grown, with the groups of the user
        driver.update_structure(trainer, module)
        ours = saved.rest.get(CHECKPOINT_KEY, {})
        layouts = ours.get("groups")
        if layouts is not None:
            driver.tables.restore_group_order(driver.structure, layouts)
        saved.load_module(module, module.strict_loading)
        for number, optimizer in enumerate(trainer.optimizers):
            saved.load_optimizer(number, optimizer, module, layouts and layouts[number])
        driver.on_load_checkpoint(trainer, module, saved.rest)
        driver.on_fit_start(trainer, module)  # again, with new optimizers, and now with all that was saved
        if any(ours.get("settings", ())):
            for optimizer in trainer.optimizers:  # settings of single pieces are taken over when a state is loaded
                optimizer.load_state_dict(optimizer.state_dict())
        saved.rest.pop(CHECKPOINT_KEY, None)  # Lightning will call on_load_checkpoint, too
        return saved.rest


def _follow_with_units(trainer: Trainer) -> AfterMethod:
    """For one event that all ranks repeat: divides its new parameters among them. Values are loaded later."""
    units = sharded_units_of(trainer)
    return lambda arguments: units.follow()
