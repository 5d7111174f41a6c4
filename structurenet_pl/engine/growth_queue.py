"""Growth in a fit: requests wait for a safe moment, then module, optimizers, averaged copies and DDP follow."""

from typing import Any, cast

from structurenet_pl.distributed.communication import all_ranks_wait
from structurenet_pl.distributed.growth_agreement import all_ranks_or_none
from structurenet_pl.distributed.sharding import register_shards
from structurenet_pl.distributed.supported_strategies import check_strategy, ranks_train_together
from structurenet_pl.engine.averaged_copies import AveragedCopies
from structurenet_pl.engine.rates_in_fit import RatesInFit
from structurenet_pl.learning_rates.lr_tables import LRTables
from structurenet_pl.lightning import LightningModule, MisconfigurationException, Trainer, rank_zero_warn
from structurenet_pl.structure.events import Clock
from structurenet_pl.structure.grow import one_growth
from structurenet_pl.structure.growable import Growable, grow_now
from structurenet_pl.structure.growth_handler import set_growth_handlers
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.module_structure import HasGrowthLog


class GrowthQueue:
    """Carries growth out at safe moments of a fit; growth that is asked for at other moments waits.

    On one process, every moment outside a batch is safe. On several processes, growth is safe where all ranks are at
    the same point: at the end of an epoch or of a validation. Growth that depends on the clock alone needs no such
    point, because all ranks ask for it at the same step.

    Args:
        driver: The driver of the fit.

    Attributes:
        waiting: Growth that waits for a safe moment, in the order in which it was asked for.
        epoch_over: Whether the last batch of the current epoch is over, so that newborn components train from the next
            epoch on.
    """

    def __init__(self, driver: RatesInFit) -> None:
        self.waiting: list[GrowthRequest] = []
        self.epoch_over = False
        self._driver = driver
        self._trainer: Trainer = None  # in a fit only
        self._clock_of_growth = Clock()

    def __reduce__(self) -> tuple[type["GrowthQueue"], tuple[RatesInFit]]:
        """A copy is an empty queue, because a copy of the driver has no fit."""
        return GrowthQueue, (self._driver,)

    @property
    def tables(self) -> LRTables:
        """The tables of the optimizers, empty before there are optimizers."""
        return self._driver.tables  # structure asks the queue, because it must not know the driver

    def start_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """Handle the growth of the module from here on."""
        self.waiting = []
        self.epoch_over = False
        self._trainer = trainer
        set_growth_handlers(module, self)

    def end_fit(self, module: LightningModule) -> None:
        """Stop handling growth: from here on the module grows at once."""
        self._trainer = None
        set_growth_handlers(module, None)

    def warn_if_waiting(self) -> None:
        """Warn of growth that still waits when the fit is over."""
        if self.waiting:
            rank_zero_warn(
                f"growth asked for after the last epoch was not carried out: {', '.join(map(str, self.waiting))}. Ask "
                "for it earlier, or call the growth method after the fit."
            )

    def grow(self, module: HasGrowthLog, request: GrowthRequest) -> Any:
        """Carry a growth out, now if that is safe, else at the next safe moment.

        Raises:
            MisconfigurationException: If the module is a part of the module in training, or the strategy cannot grow.
        """
        trainer, growable = self._trainer, cast(Growable, module)
        if getattr(trainer.lightning_module, "_is_growing", False):
            # the growth method of the outermost module calls that of a part: both are one growth
            return grow_now(growable, request, self._clock_of_growth)
        if self._driver not in trainer.callbacks:  # the tuner has replaced them for its trial
            rank_zero_warn(
                f"{request} was not carried out: the tuner runs its trial with its own callbacks, without those that "
                "adapt the optimizer to growth. The trial uses the module as it is now."
            )
            return None
        if trainer.lightning_module is not module:
            raise MisconfigurationException(
                f"{type(module).__name__} is a part of the module in training, whose optimizers do not follow the "
                "growth of a part: let a growth method of the outermost module call it."
            )
        if trainer.optimizers:
            check_strategy(trainer)
        if self._driver.in_batch or (ranks_train_together(trainer) and not request.by_clock):
            self.waiting.append(request)
            return None
        return self._carry_out(growable, request)

    def grow_when_all_ranks_wait(self, module: LightningModule) -> None:
        """On several processes: carry out growth if all ranks wait for the same growth. All ranks must call this."""
        trainer, driver = self._trainer, self._driver
        if ranks_train_together(trainer) and not driver.in_batch:
            driver.refresh(trainer)  # ranks also compare their lrs, which must be those of this moment
            while all_ranks_wait(trainer, self.waiting, driver.tables.lr_report()):
                self._carry_out_waiting(module)  # callbacks may ask for more growth while this runs

    def grow_if_single_process(self, module: LightningModule) -> None:
        """On one process: carry out waiting growth."""
        if self.waiting and not ranks_train_together(self._trainer):
            self._carry_out_waiting(module)

    def _carry_out_waiting(self, module: LightningModule) -> None:
        """Carry out all growth that waits now, in the order in which it was asked for."""
        for _ in range(len(self.waiting)):
            self._carry_out(module, self.waiting.pop(0))

    def _carry_out(self, module: Growable, request: GrowthRequest) -> Any:
        """Grow the module and adapt everything that depends on its structure.

        An error in the method, in the optimizers, in the comparison of ranks or in averaged copies undoes the growth. A
        later error, in a factor or in ``on_growth``, leaves the module grown.
        """
        trainer, driver = self._trainer, self._driver
        self._clock_of_growth = Clock(trainer.global_step, trainer.current_epoch + self.epoch_over)
        copies = AveragedCopies(trainer.callbacks, module)
        in_validation = not module.training
        old_modules = set(module.modules()) if in_validation else set()
        register_shards(module)  # which a validation has replaced by whole parameters
        driver.freezing.prepare_growth()  # a growth method must see the flags that the user has set; frozen anew below
        with (
            all_ranks_or_none(trainer, request) as agreement,
            one_growth(module, request, self._clock_of_growth, agreement.after_method) as (change, result),
            driver.tables.carry_growth(change, driver.factors.split_1d),
        ):
            agreement.compare_and_rewrap(change)
            # after compare_and_rewrap, which gives newborn parameters the same values on all ranks
            copies.apply(module, change)
        driver.update_structure(trainer, module)
        if in_validation:
            # Lightning restores the modes after a validation, but only of modules that it saw before
            for part in set(module.modules()) - old_modules:
                part.training = True
        if module.training and driver.freezing.begun:
            driver.refresh_and_freeze(trainer)
        else:
            driver.refresh(trainer)
        for callback in trainer.callbacks:
            if (on_growth := getattr(callback, "on_growth", None)) is not None:
                on_growth(trainer, module, change.event)
        module.on_growth(change.event)
        agreement.confirm_reactions()
        return result
