"""The driver: the callback whose Lightning hooks keep learning rates up to date and give growth its safe moments.

A fit, with the work of the driver in each hook::

    setup                        order the callbacks, find the components, handle the growth of the module
    on_load_checkpoint           keep what the checkpoint holds for this package
    on_fit_start                 check the fit, split param groups by component; then Lightning loads optimizer states
    LateRestore                  under ModelParallelStrategy: grow, load, call on_load_checkpoint, on_fit_start again
    on_train_start               refresh lrs, because Lightning has restored its clock
    for each epoch:
        on_train_epoch_start     redirect new schedulers, find the components anew, carry out growth that all ranks
                                 wait for; refresh lrs, freeze and thaw
        for each batch:          one training step, see below
        on_validation_end        carry out growth that all ranks wait for (LastHook)
        on_train_epoch_end       carry out waiting growth, refresh lrs, freeze and thaw
        on_save_checkpoint       save layout of param groups, random numbers, waiting growth
    on_train_end                 refresh lrs; warn of factors and patterns without effect
    teardown, on_exception       undo what belongs to the fit alone

One training step, and the way of an lr from the scheduler to the weights::

    on_train_batch_start         redirect new schedulers; evaluate factors whose unit of time has moved; each table
                                 writes base lr x product into group["lr"]; freeze and thaw; in_batch = True
    training_step, backward
    on_before_optimizer_step     evaluate the factors that read gradients; the table writes lrs again (*)
      other callbacks            on_before_optimizer_step may write an lr, which the table takes as the new base lr
    before_step (LastHook)       the table writes lrs again (*); call before_step of the package's own callbacks
    on_before_optimizer_step     of the module; then Lightning clips gradients
    optimizer.step               the table's own hook takes lrs and settings written since; the optimizer reads them
    scheduler.step               writes a new base lr into the user's param group; the table writes lrs again
    on_train_batch_end           after an update or the last batch: in_batch = False, growth; factors, freeze and thaw

(*) Only if a callback or the module has such a hook. The first one also if a factor reads gradients. In manual
optimization, ``ManualSteps`` does the work of on_before_optimizer_step and before_step in torch's hook.

One growth, from the call of a growth method to the next step::

    GrowthQueue.grow             wait for a safe moment, if this is none
    GrowthQueue._carry_out       at the safe moment:
        prepare_growth           (of ComponentFreezer) give all parameters the flags that the user has set
        all_ranks_or_none        compare the ranks before the growth                                   | if any of these
        one_growth               call the method, agree on arguments, shard new tensors, log the event | raises, module,
        LRTables.carry_growth    adapt optimizer states and param groups                               | optimizers, log
        compare_and_rewrap       compare what the ranks did, wrap DDP anew                             | are as before,
        AveragedCopies.apply     replace averaged copies                                               | on every rank
        update_structure         evaluate the factors for the new components
        refresh_and_freeze       write lrs, freeze and thaw
        on_growth                of each callback, then of the module
"""

from typing import Any

from torch.optim import Optimizer

from structurenet_pl.engine.averaged_copies import AveragedCopies
from structurenet_pl.engine.callback_order import LastHook, in_order, lrs_matter_before_step
from structurenet_pl.engine.empty_hooks import hide_empty_hooks, show_empty_hooks
from structurenet_pl.engine.fit_checkpoint import ResumedFit, check_epoch_was_complete, save_fit
from structurenet_pl.engine.fit_checks import check_fit
from structurenet_pl.engine.fit_warnings import NoEffectWarnings, report_fit
from structurenet_pl.engine.growth_queue import GrowthQueue
from structurenet_pl.engine.late_restore import LateRestore
from structurenet_pl.engine.manual_steps import ManualSteps
from structurenet_pl.engine.package_callbacks import BeforeStep, check_same_callbacks_on_all_ranks, package_callbacks
from structurenet_pl.engine.rates_in_fit import RatesInFit
from structurenet_pl.freezing.component_freezer import ComponentFreezer, thaw_leftovers
from structurenet_pl.learning_rates.factors import Factor, Factors
from structurenet_pl.learning_rates.lr_tables import LRTables
from structurenet_pl.lightning import Callback, LightningModule, Trainer, restore_loader_position
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.module_structure import clear_dates


class Driver(RatesInFit, Callback):
    """Keeps the learning rates of a fit up to date, and has growth carried out at safe moments.

    The package's own callbacks and growable modules put one driver into each Trainer, before all other callbacks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trainer: Trainer = None  # in a fit only
        self._growth = GrowthQueue(self)
        self._last_hook = LastHook(self.before_step, self._growth.grow_when_all_ranks_wait)
        self._manual_steps = ManualSteps(self._before_manual_step)
        self._no_effect_warnings = NoEffectWarnings()
        self._before_step: list[BeforeStep] = []
        self._resumed, self._late_restore = ResumedFit(), LateRestore(self)
        self._step_before_batch, self._lrs_matter_before_step = 0, True

    def __reduce__(self) -> tuple[type["Driver"], tuple[()]]:
        """A copy is a new driver without a fit: projects copy and pickle their callbacks in mid-fit."""
        return Driver, ()

    @staticmethod
    def of(trainer: Trainer) -> "Driver | None":
        """The driver of a Trainer, None if no callback and no module needed one."""
        return next((callback for callback in trainer.callbacks if isinstance(callback, Driver)), None)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Order the callbacks, find the components, and handle the growth of the module."""
        if stage != "fit":
            return
        self._trainer, self._resumed = trainer, ResumedFit()
        self.tables, self.freezing, self.in_batch = LRTables(trainer), ComponentFreezer(trainer), False
        trainer.callbacks = in_order(trainer, self, self._last_hook, self.tables.schedulers)
        hide_empty_hooks(trainer.callbacks)
        thaw_leftovers(pl_module)
        self.update_structure(trainer, pl_module)
        self._growth.start_fit(trainer, pl_module)
        self._late_restore.start(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what the checkpoint holds for us until there are optimizers."""
        check_epoch_was_complete(checkpoint, pl_module)
        resumed = ResumedFit(checkpoint)
        if self.tables:  # Lightning's tuner restores a checkpoint in mid-fit
            self.tables.expect_piece_settings(resumed.piece_settings)
        else:
            self._resumed = resumed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the fit and split the param groups by component, before Lightning loads the optimizer states."""
        resumed = self._resumed
        if isinstance(pl_module, Growable):
            if not resumed.from_checkpoint and trainer.global_step == 0:
                clear_dates(pl_module)
            copies = AveragedCopies(trainer.callbacks, pl_module)
            if any(copy.growth_log != pl_module.growth_log for copy in copies):
                copies.apply(pl_module)  # the copies were made before dates were forgotten, or before the module grew
        self._before_step = [
            before_step for callback in package_callbacks(trainer) if (before_step := callback.before_step) is not None
        ]
        self._lrs_matter_before_step = bool(self._before_step) or lrs_matter_before_step(trainer, self)
        self.factors = Factors([callback for callback in trainer.callbacks if isinstance(callback, Factor)])
        self.update_structure(trainer, pl_module)
        self.tables.release_previous_fit()
        self._check_fit(trainer)
        if resumed.layouts is not None:
            self.tables.restore_group_order(self.structure, resumed.layouts)
        self.tables.split_groups(self.structure, self.factors)
        self.tables.expect_piece_settings(resumed.piece_settings)
        if not pl_module.automatic_optimization:
            self._manual_steps.register_hooks(trainer.optimizers)
        self._growth.waiting = resumed.waiting_growth(pl_module, trainer.global_rank)
        resumed.restore_rng(trainer.global_rank)
        self.refresh(trainer)
        self._no_effect_warnings.at_first_lrs(trainer, self.factors, self.moment(trainer))

    def _check_fit(self, trainer: Trainer) -> None:
        """Raise all errors before an optimizer is changed, so that a refused fit leaves it as the user made it."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # only some precision plugins have a scaler
        check_fit(trainer.callbacks, trainer.optimizers, self.structure, self.factors, scaler)
        check_same_callbacks_on_all_ranks(trainer)
        report_fit(self.structure, self.factors)
        self._no_effect_warnings.at_fit_start(trainer, self.structure, self.factors)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refresh lrs: Lightning has restored its clock since on_fit_start."""
        restore_loader_position(trainer.fit_loop)
        if trainer.fit_loop.restarted_mid_epoch:
            # again, because Lightning has drawn the order of the data since; the saved run drew it before it saved
            self._resumed.restore_rng(trainer.global_rank)
        self._resumed = ResumedFit()
        self.refresh_and_freeze(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find schedulers and components anew, carry out growth that all ranks wait for, and refresh lrs."""
        self._growth.epoch_over = False
        self.tables.schedulers.redirect_new(everywhere=False)
        self.update_structure(trainer, pl_module)
        self._growth.grow_when_all_ranks_wait(pl_module)
        self.refresh_and_freeze(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Refresh lrs for the batch; structure and frozen components stay as they are until it is over."""
        self._manual_steps.hook_was_called = False
        self._step_before_batch = trainer.global_step
        self.tables.schedulers.redirect_new(everywhere=batch_idx == 0)
        self.refresh_and_freeze(trainer)
        self.in_batch = True

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Refresh lrs with gradients, before other callbacks and the optimizer read the lrs."""
        self._manual_steps.hook_was_called = True
        if self._lrs_matter_before_step or self.factors.need_gradients:
            self.refresh(trainer, with_gradients=optimizer)

    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Refresh lrs again and call the package's callbacks, after the same hook of all other callbacks."""
        if self._lrs_matter_before_step:
            self.refresh(trainer)
        self.tables.step_check.begin(optimizer)
        for before_step in self._before_step:
            before_step(trainer, pl_module, optimizer)

    def _before_manual_step(self, optimizer: Optimizer) -> None:
        """In manual optimization: both hooks before a step."""
        self.refresh(self._trainer, with_gradients=optimizer)
        self.before_step(self._trainer, self._trainer.lightning_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Carry out waiting growth after an update or the last batch of the epoch; factors follow time."""
        self._growth.epoch_over = trainer.is_last_batch
        if trainer.is_last_batch or trainer.global_step != self._step_before_batch:
            self.in_batch = False
            self.tables.step_check.end()
            self._growth.grow_if_single_process(pl_module)
        self.freezing.end_batch(self.structure)
        self.follow_time(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Carry out waiting growth: components born from here on have age 0 in the next epoch, also after a resume."""
        self.in_batch, self._growth.epoch_over = False, True
        # a growable module carries out growth after its own on_train_epoch_end, which may ask for growth
        if not isinstance(pl_module, Growable):
            self._growth.grow_when_all_ranks_wait(pl_module)
        self._growth.grow_if_single_process(pl_module)
        self.refresh_and_freeze(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the group layout and, for growable modules, random numbers and waiting growth."""
        if self.tables:
            save_fit(checkpoint, pl_module, self.tables, self.structure, self._growth.waiting)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refresh lrs: Lightning's clock shows the epoch that would follow. Warn of settings without effect."""
        self.in_batch = self._growth.epoch_over = False
        self.refresh_and_freeze(trainer)
        self._no_effect_warnings.at_fit_end(trainer, self.factors, self.moment(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo what belongs to the fit alone; lrs stay, and checkpoints can still be saved."""
        if stage == "fit":
            self._growth.warn_if_waiting()
        self.freezing.end_fit(pl_module)
        self.tables.end_fit()
        self._manual_steps.remove_hooks()
        self._late_restore.stop()
        self._growth.end_fit(pl_module)
        show_empty_hooks(trainer.callbacks)
        self._trainer = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Undo the same: Lightning calls no teardown after an exception, but may save a checkpoint."""
        self.teardown(trainer, pl_module, "exception")
