"""What drives the factors: it evaluates them, has the tables write lrs, and finds safe moments for growth."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from torch.optim import Optimizer

from structurenet_pl.distributed.communication import all_ranks_wait
from structurenet_pl.distributed.ddp import is_ddp
from structurenet_pl.distributed.growth_agreement import all_ranks_or_none
from structurenet_pl.engine.averaged_copies import AveragedCopies, averaged_copies
from structurenet_pl.engine.checks import check_can_follow, check_fit, check_moment, warn_of_trial, warn_too_late
from structurenet_pl.engine.hooks import BeforeStep, LastHook, check_alike, in_order, package_callbacks, patterns_of
from structurenet_pl.engine.manual_steps import ManualSteps
from structurenet_pl.engine.saved_by_rank import own_of_all_processes, waiting_from
from structurenet_pl.engine.unused import Unused
from structurenet_pl.freezing.component_freezer import ComponentFreezer, Frozen, thaw_leftovers
from structurenet_pl.learning_rates.connection_density import Densities
from structurenet_pl.learning_rates.factors import Factor, Factors
from structurenet_pl.learning_rates.lr_tables import CHECKPOINT_KEY, LRTables
from structurenet_pl.learning_rates.moment import Moment, no_density
from structurenet_pl.learning_rates.norms import GradientNorms
from structurenet_pl.lightning import Callback, LightningModule, Trainer, resume_data
from structurenet_pl.structure.events import Clock, Component, GrowthEvent
from structurenet_pl.structure.grow import one_growth
from structurenet_pl.structure.growable import Growable, grow_now
from structurenet_pl.structure.growth_handler import set_growth_handlers
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.module_structure import clear_dates, growth_log, set_outer_patterns, structure_of
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.random_states import restore_rng


class Driver(Callback):
    """Evaluates the factors, has the tables write lrs, and carries growth out at safe moments.

    The package's own callbacks and growable modules put one into each Trainer, in front of all other callbacks.
    """

    def __init__(self) -> None:
        self._last_hook = LastHook(self.before_step, self.grow_when_all_ranks_wait)
        self._manual_steps = ManualSteps(self._before_manual_step)
        self._before_step: list[BeforeStep] = []
        self.factors = Factors()
        self.tables = LRTables(None)
        self.structure = Structure({}, {}, {}, {})
        self._log: tuple[GrowthEvent, ...] = ()
        self._trainer: Trainer = None  # in a fit only
        self._resumed: dict[str, Any] | None = None
        self._waiting: list[GrowthRequest] = []
        self._in_batch = self._epoch_over = False
        self._rng: dict[str, Any] | None = None
        self._growing_at = Clock()
        self._step_before = 0
        self._unused = Unused()
        self._density: Callable[[Component], float | None] = no_density
        self._freezing = ComponentFreezer(None)

    def __reduce__(self) -> tuple[type["Driver"], tuple[()]]:
        """Copies know nothing of the Trainer: projects copy and pickle lists of callbacks in the middle of a fit."""
        return Driver, ()

    @staticmethod
    def of(trainer: Trainer) -> "Driver | None":
        """The driver of a Trainer, None if nothing needed one."""
        return next((callback for callback in trainer.callbacks if isinstance(callback, Driver)), None)

    @property
    def frozen(self) -> Frozen:
        """What is frozen."""
        return self._freezing.frozen

    def moment(self, trainer: Trainer) -> Moment:
        """Now."""
        return self._at(Clock(trainer.global_step, trainer.current_epoch, len(self._log)))

    def _at(self, clock: Clock) -> Moment:
        return Moment(clock, self._log, self.structure.by_depth, density=self._density)

    def grow(self, module: Growable, request: GrowthRequest) -> Any:
        """Carry a growth out, now if that is safe, else at the next safe moment."""
        if getattr(self._trainer.lightning_module, "_is_growing", False):
            return grow_now(module, request, self._growing_at)
        if self not in self._trainer.callbacks:
            warn_of_trial(request)
            return None
        check_can_follow(self._trainer, module)
        if self._in_batch or (is_ddp(self._trainer) and not request.by_clock):
            self._waiting.append(request)
            return None
        return self._carry_out(module, request)

    def grow_when_all_ranks_wait(self, module: LightningModule) -> None:
        """All processes are here, between two batches: carry out what they wait for, if that is the same."""
        if is_ddp(self._trainer) and not self._in_batch:
            self._refresh(self._trainer)
            while all_ranks_wait(self._trainer, self._waiting, self.tables.lrs()):
                self._carry_out_waiting(module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go to the front, and follow the growth of the module."""
        if stage != "fit":
            return
        self._trainer = trainer
        self.tables, self._resumed, self._waiting = LRTables(trainer), None, []
        trainer.callbacks = in_order(
            trainer,
            self,
            self._last_hook,
            self.tables.schedulers.show_optimizers,
            self.tables.schedulers.show_user_groups,
        )
        self._in_batch = self._epoch_over = False
        self._freezing = ComponentFreezer(trainer)
        thaw_leftovers(pl_module)
        self._update_structure(trainer, pl_module)
        set_growth_handlers(pl_module, self)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the checkpoint until there are optimizers; the tuner restores one in the middle of a fit."""
        check_moment(checkpoint, pl_module)
        if self.tables:
            self.tables.expect_piece_settings(checkpoint.get(CHECKPOINT_KEY, {}).get("settings", []))
        else:
            self._resumed = checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Split the param groups by component, before Lightning restores the state of the optimizers."""
        resumed, self._resumed = self._resumed, None
        if isinstance(pl_module, Growable):
            if resumed is None and trainer.global_step == 0:
                clear_dates(pl_module)
            copies = AveragedCopies(trainer.callbacks, pl_module)
            if any(copy.growth_log != pl_module.growth_log for copy in copies):
                copies.apply(pl_module)  # they are from before the log was dated anew, or before anybody followed
        self._before_step = [
            act for callback in package_callbacks(trainer) if (act := callback.before_step) is not None
        ]
        self.factors = Factors([callback for callback in trainer.callbacks if isinstance(callback, Factor)])
        self._update_structure(trainer, pl_module)
        self.tables.release_previous_fit()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        check_fit(trainer.callbacks, trainer.optimizers, self.structure, self.factors, scaler)

        saved = (resumed or {}).get(CHECKPOINT_KEY, {})
        if "groups" in saved:
            self.tables.restore_group_order(self.structure, saved["groups"])
        self._unused.start(trainer, self.structure, self.factors)
        check_alike(trainer)
        self.tables.split_groups(self.structure, self.factors)
        self.tables.expect_piece_settings(saved.get("settings", []))
        if not pl_module.automatic_optimization:
            self._manual_steps.register_hooks(trainer.optimizers)
        self._rng = dict(enumerate(saved.get("rng", []))).get(trainer.global_rank)  # there may be more processes now
        self._waiting = waiting_from(saved.get("waiting", [[]]), pl_module, trainer.global_rank)
        if self._rng is not None:
            restore_rng(self._rng)
        self._refresh(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock has been restored by now."""
        resume_data(trainer.fit_loop)
        if self._rng is not None and trainer.fit_loop.restarted_mid_epoch:
            restore_rng(self._rng)  # the rest of that epoch has taken an order of the data, as it had before
        self._rng = None
        self._refresh_and_freeze(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock shows a new epoch."""
        self._epoch_over = False
        self.tables.schedulers.redirect_new(everywhere=False)
        self._update_structure(trainer, pl_module)
        self.grow_when_all_ranks_wait(pl_module)
        self._refresh_and_freeze(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Structure stands still from here to the end of the batch."""
        self._manual_steps.done = False
        self._step_before = trainer.global_step
        self.tables.schedulers.redirect_new(everywhere=batch_idx == 0)
        self._refresh_and_freeze(trainer)
        self._in_batch = True

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are known, and the lr has not been read yet."""
        self._manual_steps.done = True
        self._refresh(trainer, with_gradients=optimizer)

    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Nobody has a say in gradients and lrs after this."""
        self._refresh(trainer)
        self.tables.step_check.begin(optimizer)
        for act in self._before_step:
            act(trainer, pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch that ended with an update, or ended the epoch, leaves nothing that growth could disturb."""
        self._epoch_over = trainer.is_last_batch
        if self._epoch_over or trainer.global_step != self._step_before:
            self._in_batch = False
            self.tables.step_check.end()
            if not is_ddp(self._trainer):
                self._carry_out_waiting(pl_module)
        self._freezing.end_batch(self.structure)
        self._refresh_and_freeze(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is born from here on trains in the next epoch, also where the run was resumed in between."""
        self._in_batch, self._epoch_over = False, True
        if not is_ddp(self._trainer):
            self._carry_out_waiting(pl_module)
        elif not isinstance(pl_module, Growable):  # else it has a later hook
            self.grow_when_all_ranks_wait(pl_module)
        self._refresh_and_freeze(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock has gone on to the epoch that would follow."""
        self._in_batch = self._epoch_over = False
        self._refresh_and_freeze(trainer)
        self._unused.end(trainer, self.factors)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """From here on growth concerns the module alone."""
        if stage == "fit":
            warn_too_late(self._waiting)
        self._freezing.end_fit(pl_module)
        self.tables.end_fit()
        self._trainer = None
        self._manual_steps.remove_hooks()
        set_growth_handlers(pl_module, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning calls no teardown after an exception; who saves a checkpoint then comes later."""
        self.teardown(trainer, pl_module, "exception")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save which tensor stands in which group and, for growable modules, generators and growth that waits."""
        if not self.tables:
            return
        checkpoint[CHECKPOINT_KEY] = self.tables.checkpoint_state(self.structure)
        if isinstance(pl_module, Growable):
            checkpoint[CHECKPOINT_KEY] |= own_of_all_processes(self._waiting)

    def _before_manual_step(self, optimizer: Optimizer) -> None:
        trainer = self._trainer
        self._refresh(trainer, with_gradients=optimizer)
        self.before_step(trainer, trainer.lightning_module, optimizer)

    def _update_structure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        patterns = patterns_of(trainer)
        if isinstance(pl_module, Growable):
            for module in [pl_module, *averaged_copies(trainer.callbacks)]:
                set_outer_patterns(module, patterns)
        self.structure = structure_of(pl_module, patterns)
        self._log = growth_log(pl_module)
        self.factors.set_components(self.structure.by_depth, self._log)
        self._density = Densities(pl_module, self.structure)

    def _refresh(self, trainer: Trainer, with_gradients: Optimizer | None = None) -> None:
        """Bring every lr to what it should be now."""
        clock = Clock(trainer.global_step, trainer.current_epoch, len(self._log))
        self.factors.evaluate_at(clock, self._at)
        if list(self.tables) != trainer.optimizers:
            self.tables.split_groups(self.structure, self.factors)
        for optimizer, table in self.tables.items():
            if optimizer is with_gradients and self.factors.need_gradients:
                norms = GradientNorms(optimizer, self.structure.owner)
                table.apply_gradient_factors(
                    self.factors.evaluate_with_gradients(replace(self.moment(trainer), norms=norms))
                )
            else:
                table.refresh()

    def _refresh_and_freeze(self, trainer: Trainer) -> None:
        """Bring every lr to what it should be now and, unless gradients are under way, freeze and thaw."""
        self._refresh(trainer)
        if not self._in_batch:
            self._freezing.update(self.structure, self.factors.frozen)

    def _carry_out_waiting(self, module: LightningModule) -> None:
        """Carry out what has been waiting, in the order it was asked for."""
        for _ in range(len(self._waiting)):
            self._carry_out(cast(Growable, module), self._waiting.pop(0))

    def _carry_out(self, module: Growable, request: GrowthRequest) -> Any:
        trainer = self._trainer
        self._growing_at = Clock(trainer.global_step, trainer.current_epoch + self._epoch_over)
        old, copies = set(module.modules()), AveragedCopies(trainer.callbacks, module)
        self._freezing.thaw()  # until it is settled anew: a growth method sees the flags that the user has set
        with (
            all_ranks_or_none(trainer, request) as agreement,
            one_growth(module, request, self._growing_at, agreement.arguments_of_rank_0) as (change, result),
            self.tables.carry_growth(change, self.factors.split_1d),
        ):
            agreement.compare_and_rewrap(change)
            copies.apply(module, change)  # what is new starts with the values that all processes have by now
        self._update_structure(trainer, module)
        if not module.training:  # in a validation, after which Lightning puts back the modes of those that it knew
            for part in set(module.modules()) - old:
                part.training = True
        if module.training and self._freezing.begun:
            self._refresh_and_freeze(trainer)
        else:
            self._refresh(trainer)
        for callback in trainer.callbacks:
            if (react := getattr(callback, "on_growth", None)) is not None:
                react(trainer, module, change.event)
        module.on_growth(change.event)
        agreement.confirm_reactions()
        return result
