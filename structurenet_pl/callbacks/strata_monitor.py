"""Logs and draws the learning rate of every component."""

from copy import copy, deepcopy
from typing import Any, cast

from torch.optim import Optimizer

from structurenet_pl.engine.attach import NeedsDriver
from structurenet_pl.engine.driver import Driver
from structurenet_pl.lightning import LightningModule, Trainer
from structurenet_pl.monitoring.lr_history import LRHistory
from structurenet_pl.monitoring.lr_row import LRRow
from structurenet_pl.monitoring.metric_history import MetricHistory
from structurenet_pl.monitoring.metric_record import MetricRecord
from structurenet_pl.monitoring.newborns import Newborns
from structurenet_pl.monitoring.output_checks import check_outputs
from structurenet_pl.monitoring.report import explain
from structurenet_pl.monitoring.row_writer import NormWriter, RowWriter
from structurenet_pl.monitoring.run_display import RunDisplay
from structurenet_pl.monitoring.run_record import RunRecord
from structurenet_pl.monitoring.strata_file import StrataFile
from structurenet_pl.monitoring.table_recorder import TableRecorder
from structurenet_pl.structure.arguments import check_at_least
from structurenet_pl.structure.events import GrowthEvent
from structurenet_pl.structure.module_structure import growth_log


class StrataMonitor(NeedsDriver):
    """Log the learning rate of every component, and the factors that it is made of, to all loggers of the Trainer.

    Each row holds the values that the optimizer used at that step, under ``trainer.global_step``:

    | tag                              | value |
    |---|---|
    | ``lr/<component>``               | effective lr |
    | ``strata/factor/<label>/<comp.>`` | factor of one callback, by class name |
    | ``strata/stratum/<component>``   | stratum by number, 0 the first, with a ``SedimentaryDecay`` |
    | ``strata/lr_range/min``, mean, max | of the effective lrs of all components |
    | ``strata/frozen/<component>``    | 1 if it is frozen, else 0; this and the next two if any callback freezes |
    | ``strata/frozen_share/parameters`` | share of the parameters that is frozen |
    | ``strata/frozen_share/work``     | share of the work of a step that this saves, where it is known |
    | ``strata.details/base_lr/<comp.>`` | lr that optimizer and scheduler alone would give |
    | ``strata.details/age/<component>`` | age in epochs |
    | ``norms/grad/<component>``       | norm of the gradient; this and the following with ``norms=True`` |
    | ``norms/update_ratio/<component>`` | norm of the update over norm of the weights before it |
    | ``newborn/grad/<newborn>``       | gradient per weight over that of its neighbours, see below |
    | ``newborn/update/<newborn>``     | the same of the update |

    If a component has several groups (decay / no decay), the first with tensors of several dimensions is logged;
    ``explain`` shows all. A component with the name of a removed one is written as ``patches.0 (2)``. Entries that
    widening added to a component have a row of their own from the step on at which their lr differs from that of the
    old entries: ``lr/body.0@3`` is the lr of the entries that growth event 3 added. Norms, and ``frozen``, are those of
    the whole component.

    With more than ``max_components`` components, tags of parts of the network stand in for theirs: ``lr/<part>/min``,
    ``mean`` and ``max`` and so on, and ``strata/components/<part>``, the number of components. The part is the
    component's stratum, without ``SedimentaryDecay`` its role, without a role ``others``.

    A row is written every ``log_every_n_steps`` steps of the Trainer, at the first step, and after each growth, freeze
    and thaw. TensorBoard gets no points inside level stretches of a curve, which change no line. Apart from the rows,
    the monitor saves the lr of every component at every step, and the metrics of each validation, as ``strata.pt``
    beside the logs, for ``plot_strata`` and ``plot_growth``. In TensorBoard there are pictures and tables, too: see the
    guide ``structurenet_pl.monitoring``, also for what ``norms=True`` says of newborns.

    Args:
        norms: Whether to log norms of gradients and updates, and judge newborns. They cost a copy of the weights on
            logged steps, and are averaged over the processes if these differ; ``LARSScaler(mode="grad")`` scales them.
        max_components: Number of components above which parts of the network are logged in their place.
        table: Whether to print the table of ``explain`` at the start of the fit, if it has no more than
            ``max_components`` components, and after each growth event what it has changed.
        progress_bar: Whether to show the mean lr of each part of the network in the progress bar. Lightning's
            ``RichProgressBar`` needs ``RichProgressBarTheme(metrics_format=".1e")`` to show small numbers.

    Raises:
        ValueError: If ``max_components`` is not a whole number >= 0.
        MisconfigurationException: At the start of the fit, with ``norms=True`` under a strategy that splits
            tensors over processes.

    Example:
        >>> from structurenet_pl import StrataMonitor, Warmup
        >>> callbacks = [Warmup(), StrataMonitor()]
    """

    def __init__(
        self, norms: bool = False, max_components: int = 100, table: bool = True, progress_bar: bool = False
    ) -> None:
        check_at_least(0, {"max_components": max_components})
        self.norms, self.max_components = norms, max_components
        self.table, self.progress_bar = table, progress_bar
        self._begin_run()

    def _begin_run(self) -> None:
        """Start with an empty record."""
        self._record = RunRecord()
        self._recorder = TableRecorder(self._record)
        self._metrics = MetricRecord()
        self._file = StrataFile(self._record, self._metrics)
        self._display = RunDisplay(self._record)
        self._rows = RowWriter()
        self._newborns = Newborns()
        self._norm_rows = NormWriter(self._rows, self._newborns)
        self._mean_lrs: dict[str, float] = {}  # of the last row, for the progress bar
        self._had_steps = False  # whether a step was recorded before this batch

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the Trainer and the optimizers of a fit."""
        # projects copy callbacks in the middle of a fit, also by copy.copy, which copies no attribute on its own
        rows, newborns = copy(self._rows), deepcopy(self._newborns)
        copies = {"_recorder": copy(self._recorder), "_rows": rows, "_newborns": newborns}
        return {**super().__getstate__(), **copies, "_norm_rows": NormWriter(rows, newborns)}

    @property
    def strata(self) -> LRHistory:
        """The learning rates of the run so far, at all steps at which any has changed."""
        return self._record.to_history()

    @property
    def validations(self) -> MetricHistory:
        """The metrics of the validations so far, with step and number of parameters."""
        return self._metrics.to_history(self._record.log)

    @property
    def shown_by_cohort(self) -> set[str]:
        """Titles of the components whose cohorts have had different learning rates in the run so far."""
        return self._record.shown_by_cohort

    def state_dict(self) -> dict[str, Any]:
        """The records of the run, the optimizers whose next step is logged in any case, and what newborns have got."""
        return {
            "history": self._record.state_dict(),
            "validations": self._metrics.state_dict(),
            "news": sorted(self._rows.requested),
            "newborns": self._newborns.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the records of a checkpoint."""
        self._record.load_state_dict(state_dict["history"])
        self._metrics.load_state_dict(state_dict["validations"])
        self._rows.requested = set(state_dict["news"])
        self._newborns.load_state_dict(state_dict["newborns"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a new run, unless the Trainer continues its last fit."""
        if stage == "fit" and trainer.global_step == 0:
            self._begin_run()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of output that cannot be written, and refuse norms of tensors that are split over processes."""
        check_outputs(trainer, self.norms)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to record and to write; only now everything has been restored from a checkpoint."""
        driver = cast(Driver, Driver.of(trainer))
        self._had_steps = self._record.end_step > 0
        self._rows.begin_fit()
        self._recorder.begin_fit()
        self._display.begin_fit(trainer)
        if not self._had_steps:
            self._rows.request_rows(trainer)
        if self.norms:
            self._norm_rows.register_hooks(driver.tables)
        self._update_structure(trainer, driver)
        if self.table and len(driver.structure.components) <= self.max_components:  # hundreds of rows help nobody
            explain(trainer)

    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Record the lrs of the step that an optimizer is about to take, and write a row if one is due."""
        self._norm_rows.discard()
        driver = cast(Driver, Driver.of(trainer))
        number = trainer.optimizers.index(optimizer)
        step: int = trainer.global_step
        if self._had_steps and step == 0:
            # steps that bypass Lightning in manual optimization do not move global_step: count batches instead, for
            # which Lightning has no public attribute
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
        # before is_due: a freeze or thaw makes a row due
        if self._recorder.record_frozen(step, driver.frozen.components):
            self._rows.request_rows(trainer)
        due = self._rows.is_due(trainer, number)
        self._recorder.record_lrs(driver, step, logged=optimizer if due else None)
        if due:
            self._rows.requested.discard(number)
            row = LRRow.of(trainer, driver, self._recorder.rows, optimizer, self.max_components)
            self._rows.write(trainer, row.scalars(), step)
            if self.progress_bar:
                self._mean_lrs = row.mean_lrs()
            if self.norms:
                self._norm_rows.begin(trainer, step, row.tensors(), driver.structure)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the mean lrs of the last row in the progress bar."""
        self._had_steps = self._record.end_step > 0
        if self.progress_bar:
            for part, lr in self._mean_lrs.items():
                pl_module.log(f"lr_{part}", lr, prog_bar=True, logger=False, on_step=True, on_epoch=False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to record the metrics of a validation."""
        self._metrics.begin_validation(trainer, pl_module, self._record.end_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the metrics of the validation."""
        self._metrics.end_validation(trainer)

    def on_growth(self, trainer: Trainer, pl_module: LightningModule, event: GrowthEvent) -> None:
        """Show the new structure, and draw the run so far."""
        driver = cast(Driver, Driver.of(trainer))
        if driver.tables:  # growth before the start of the fit has no lrs yet
            self._rows.request_rows(trainer)
            before = self._record.components
            self._update_structure(trainer, driver)
            if self.table:
                self._display.print_growth(trainer, driver, event, before)
            if self.norms and len(driver.structure.components) <= self.max_components:
                self._newborns.follow(event, self._record.titles_of_newborns(event))
            self._display.draw_after_growth(trainer, event)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Bring the curves in TensorBoard up to date, so that a resumed run continues them from here."""
        self._rows.end_curves(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the curves in TensorBoard up to date, and save the record from time to time: a run may be killed."""
        self._rows.end_curves(trainer)
        self._file.save_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and save the whole run, and judge the last newborns."""
        self._newborns.judge_early(trainer)
        self._display.draw(trainer)
        self._rows.end_curves(trainer)
        self._file.save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks from the optimizers."""
        self._norm_rows.remove_hooks()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the run and tear down: Lightning calls no teardown after an exception."""
        self._rows.end_curves(trainer)
        self._file.save(trainer)
        self.teardown(trainer, pl_module, "fit")

    def _update_structure(self, trainer: Trainer, driver: Driver) -> None:
        """Continue the record with the structure of the network as it is now, and show it."""
        self._record.set_structure(driver.structure.by_depth, growth_log(trainer.lightning_module), trainer.global_step)
        self._display.show_structure(trainer, driver, self.max_components)
