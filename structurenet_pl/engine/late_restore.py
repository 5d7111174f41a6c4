"""Checkpoints under strategies that load them when module and optimizers are set up, as ``ModelParallelStrategy`` does.

Lightning loads such a checkpoint before it calls any hook with it. By then the module must have grown as the checkpoint
says, and the optimizers must hold the user's own groups: torch finds the state of a parameter by name there.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load

from structurenet_pl.distributed.ddp import is_sharded_module, units_of
from structurenet_pl.distributed.sharding import implicit_replication
from structurenet_pl.engine.rates_in_fit import RatesInFit
from structurenet_pl.learning_rates.lr_tables import CHECKPOINT_KEY
from structurenet_pl.lightning import Trainer
from structurenet_pl.structure.grow import Settle
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.replay_log import LOG_KEY, log_from_tensor, replay

Checkpoint = dict[str, Any]


class LateRestore:
    """Prepares module and optimizers for a checkpoint in the moment in which the strategy loads it.

    Args:
        rates: The learning rates of the fit.
        begin_fit: Begins the fit with a checkpoint, when module and optimizers have been loaded.

    Attributes:
        has_loaded: Whether a checkpoint was loaded in this way, with all that it holds for this package.
    """

    def __init__(self, rates: RatesInFit, begin_fit: Callable[[Checkpoint], None]) -> None:
        self._rates, self._begin_fit = rates, begin_fit
        self._trainer: Trainer = None  # in a fit only
        self.has_loaded = False

    def start(self, trainer: Trainer) -> None:
        """Be there when the strategy loads a checkpoint: Lightning calls no hook before that."""
        self._trainer, self.has_loaded = trainer, False
        if trainer.strategy.restore_checkpoint_after_setup:
            trainer.strategy.load_checkpoint = self._prepare_and_load

    def stop(self) -> None:
        """Let the strategy load checkpoints by itself."""
        if self._trainer is not None:
            vars(self._trainer.strategy).pop("load_checkpoint", None)
        self._trainer = None

    def _prepare_and_load(self, checkpoint_path: Any, weights_only: bool | None = None) -> Checkpoint:
        trainer, rates, module = self._trainer, self._rates, self._trainer.lightning_module
        load_by_strategy = type(trainer.strategy).load_checkpoint
        if not is_sharded_module(trainer):
            return cast(Checkpoint, load_by_strategy(trainer.strategy, checkpoint_path, weights_only=weights_only))
        path = Path(trainer.strategy.broadcast(checkpoint_path))
        file = path / "meta.pt" if path.is_dir() else path  # the name that Lightning gives it
        checkpoint: Checkpoint = torch.load(file, mmap=True, map_location="cpu", weights_only=weights_only)
        state_dict = checkpoint.pop("state_dict", None)  # None in a folder
        log = _log_in_folder(path) if state_dict is None else state_dict.pop(LOG_KEY, None)
        rates.tables.release_previous_fit()
        rates.tables.clear()
        if isinstance(module, Growable):
            with implicit_replication():
                replay(module, () if log is None else log_from_tensor(log), lambda: settle_replayed(trainer))
        trainer.strategy.setup_optimizers(trainer)  # for the grown module, and in groups of the user's own
        rates.update_structure(trainer, module)
        layouts = checkpoint.get(CHECKPOINT_KEY, {}).get("groups")
        if layouts is not None:
            rates.tables.restore_group_order(rates.structure, layouts)
        if state_dict is None or layouts is None:
            checkpoint = load_by_strategy(trainer.strategy, path, weights_only=weights_only)
        else:
            self._load_whole(state_dict, checkpoint.pop("optimizer_states"), layouts)
        self._begin_fit(checkpoint)
        if any(checkpoint.get(CHECKPOINT_KEY, {}).get("settings", ())):
            for optimizer in trainer.optimizers:  # settings of single pieces are taken over when a state is loaded
                optimizer.load_state_dict(optimizer.state_dict())
        self.has_loaded = True
        return checkpoint

    def _load_whole(self, state_dict: Mapping[str, Any], states: list[Any], layouts: list[Any]) -> None:
        """Load whole tensors. Lightning would take the numbers of an optimizer's parameters for those in the module."""
        module = self._trainer.lightning_module
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(module, dict(state_dict), options=options)
        for optimizer, state, layout in zip(self._trainer.optimizers, states, layouts, strict=True):
            groups = [{**group, "params": names} for group, names in zip(state["param_groups"], layout, strict=True)]
            name_of = {
                number: name
                for group, names in zip(state["param_groups"], layout, strict=True)
                for number, name in zip(group["params"], names, strict=True)
            }
            named = {name_of.get(number, number): entry for number, entry in state["state"].items()}
            set_optimizer_state_dict(module, optimizer, {"state": named, "param_groups": groups}, options=options)


def settle_replayed(trainer: Trainer) -> Settle:
    """What settles one event that all ranks repeat: new parameters are divided, and get their values later."""
    units = units_of(trainer)
    return lambda arguments: units.follow()


def _log_in_folder(path: Path) -> Tensor | None:
    """The growth log in a sharded checkpoint, as a tensor."""
    saved = FileSystemReader(path).read_metadata().state_dict_metadata.get(f"state_dict.{LOG_KEY}")
    if not isinstance(saved, TensorStorageMetadata):
        return None
    log = torch.empty(saved.size, dtype=torch.uint8)
    load({"state_dict": {LOG_KEY: log}}, checkpoint_id=path)
    return log
