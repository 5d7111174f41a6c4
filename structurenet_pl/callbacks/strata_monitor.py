"""What learned how fast, in every logger."""

from collections.abc import Mapping
from importlib.util import find_spec
from time import monotonic
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from structurenet_pl.distributed.ddp import holds_whole_module
from structurenet_pl.engine.attach import NeedsDriver
from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.norms import StepNorms
from structurenet_pl.lightning import (
    LightningModule,
    MisconfigurationException,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from structurenet_pl.monitoring.figures import heat_map
from structurenet_pl.monitoring.log_reader import save
from structurenet_pl.monitoring.lr_history import LRHistory
from structurenet_pl.monitoring.recorder import Recorder
from structurenet_pl.monitoring.report import explain, group_lrs
from structurenet_pl.monitoring.run_record import RunRecord
from structurenet_pl.monitoring.scalars import mean_lrs, part_of, scalars
from structurenet_pl.monitoring.tensorboard import add_layout, show_structure, tensorboards
from structurenet_pl.optim.wrappers import hookable_optimizers
from structurenet_pl.structure.events import Component, GrowthEvent, check_count, titles
from structurenet_pl.structure.module_structure import growth_log
from structurenet_pl.structure.partition import parameter_count

SAVE_EVERY = 30.0  # seconds, at ends of epochs


class StrataMonitor(NeedsDriver):
    """Log the learning rate of every component, and what it is made of, to all loggers of the Trainer.

    Each row holds what the optimizer used at that step, under ``trainer.global_step``:

    =============================== ====================================================================
    ``lr/<component>``              effective lr
    ``base_lr/<component>``         what optimizer and scheduler alone would give
    ``factor/<label>/<component>``  factor of one callback, by class name
    ``age/<component>``             age in epochs
    ``stratum/<component>``         stratum by number, 0 the first, with a :class:`SedimentaryDecay`
    ``lr_range/min``, mean, max     of the effective lrs of all components
    ``frozen/<component>``          1 if it is frozen, else 0; this and the next two if any callback freezes
    ``frozen_share/parameters``     share of the parameters that is frozen
    ``frozen_share/work``           share of the work of a step that this saves, where it is known
    ``grad_norm/<component>``       norm of the gradient, with ``norms=True``
    ``update_ratio/<component>``    norm of the update over norm of the weights before it, with ``norms=True``
    =============================== ====================================================================

    Of a component with several groups (decay / no decay, tensors of one dimension under LARS) the leading one is
    logged, the first with tensors of several dimensions; ``explain`` shows them all. Nothing is written of a component
    before its birth; one that takes the name of another that was removed is written as ``patches.0 (2)``. With more
    than ``max_components`` components each tag of one component gives way to three of a part of the network,
    ``lr/<part>/min``, ``mean`` and ``max`` and so on, and one that says how many components are in it,
    ``components/<part>``. The part is the component's stratum, without :class:`SedimentaryDecay` its role, without that
    ``others``.

    A row is written every ``log_every_n_steps`` steps of the Trainer, of the first step, and after each growth, freeze
    and thaw. The history of the run is kept beside that: base lr and product of factors of every component, at every
    step. Pictures are made of it, and it is saved as ``strata.pt`` beside the logs, for
    :func:`~structurenet_pl.plot_strata`. It is exact at every step; where it gets longer than 32 MB (1 MB in
    checkpoints), its older steps are thinned, and pictures say so. Factors that go by gradients change all the time:
    there it holds what was logged last.

    TensorBoard also gets tables of components and of growth events, a picture (step × component, the lr a colour; it
    needs the extra ``structurenet-pl[plots]``) at the end of the fit and at the growth events 1, 2, … 9, 10, 20, … 90,
    100, 200 and so on, and a layout for its page of custom scalars, unless the run has one. A run has one layout, the
    last: if you lay out charts of your own after the start of the fit, add those of
    ``structurenet_pl.monitoring.tensorboard.layout(prefix)``. The page of hyperparameters is left to you: TensorBoard
    keeps the first that a run logs, so ours would hide yours.

    Args:
        norms: Whether to log norms of gradients and updates. They cost a copy of the weights on logged steps, and are
            a mean over the processes if these differ. ``LARSScaler(mode="grad")`` has scaled the gradients if it stands
            before this callback.
        max_components: Number of components above which parts of the network are logged in their place.
        table: Whether to print the table of :func:`explain` at the start of the fit and after each growth event.
        progress_bar: Whether to show the mean lr of each part of the network in the progress bar, as ``lr_active`` and
            so on. Lightning's ``RichProgressBar`` needs ``RichProgressBarTheme(metrics_format=".1e")`` to show small
            numbers.

    Raises:
        ValueError: If ``max_components`` is not a whole number.
        MisconfigurationException: At the start of the fit, if norms are wanted of tensors that are split over
            processes.

    Example:
        >>> from structurenet_pl import StrataMonitor, Warmup
        >>> callbacks = [Warmup(), StrataMonitor()]
    """

    def __init__(
        self, norms: bool = False, max_components: int = 100, table: bool = True, progress_bar: bool = False
    ) -> None:
        check_count("max_components", max_components, least=0)
        self.norms = norms
        self.max_components = max_components
        self.table = table
        self.progress_bar = progress_bar
        self._start()

    def _start(self) -> None:
        """Remember nothing."""
        self._history = RunRecord()
        self._network: tuple[Component, ...] = ()
        self._log: tuple[GrowthEvent, ...] = ()
        self._titled: dict[str, str] = {}
        self._in_bar: dict[str, float] = {}
        self._written: dict[str, int] = {}
        self._recorder = Recorder(self._history)
        self._frozen: frozenset[str] = frozenset()
        self._news: set[int] = set()  # optimizers whose next step is written in any case
        self._saved_at = 0.0
        self._stepped = self._told = False
        self._measuring: tuple[Trainer, int, StepNorms] | None = None
        self._handles: list[RemovableHandle] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to the optimizers of a fit."""
        return {**super().__getstate__(), "_measuring": None, "_handles": [], "_recorder": Recorder(self._history)}

    @property
    def strata(self) -> LRHistory:
        """The learning rates of the run so far, at all steps at which any has moved."""
        return self._history.strata(self._network, self._log)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs in order to go on."""
        return {"history": self._history.state_dict(), "news": sorted(self._news)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self._history.load_state_dict(state_dict["history"])
        self._news = set(state_dict["news"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start anew unless the Trainer goes on."""
        if stage == "fit" and trainer.global_step == 0:
            self._start()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what cannot be shown."""
        if not trainer.loggers:
            rank_zero_warn("StrataMonitor has no logger to write to: give the Trainer one, or leave the callback out")
        if self.norms and not holds_whole_module(trainer):
            raise MisconfigurationException(
                f"StrataMonitor(norms=True) is not supported under {type(trainer.strategy).__name__}, which splits "
                "tensors over processes: leave norms out."
            )
        if tensorboards(trainer) and find_spec("matplotlib") is None:
            rank_zero_info("StrataMonitor draws no heat map: for that, pip install 'structurenet-pl[plots]'")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything has been restored by now."""
        driver = cast(Driver, Driver.of(trainer))
        self._stepped = self._history.end > 0
        self._written, self._recorder = {}, Recorder(self._history)
        if not self._stepped:
            self._news = set(range(len(trainer.optimizers)))
        if self.norms:
            hooked = [hookable_optimizers(optimizer)[0] for optimizer in driver.tables]
            self._handles = [one.register_step_post_hook(self._after_step) for one in hooked]
        for logger in tensorboards(trainer):
            add_layout(logger)
        self._show_structure(trainer, driver)

    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The lrs of this step stand in the optimizer."""
        self._measuring = None  # if still there, a gradient scaler has skipped that step
        driver = cast(Driver, Driver.of(trainer))
        number = trainer.optimizers.index(optimizer)
        batches = trainer.fit_loop.epoch_loop._batches_that_stepped  # what Lightning's own logging goes by
        # steps past Lightning do not move its global_step
        step = batches if self._stepped and trainer.global_step == 0 else trainer.global_step
        if driver.frozen.components != self._frozen:
            self._frozen = driver.frozen.components
            if self._history.freeze(step, [self._titled.get(name, name) for name in self._frozen]):
                self._news = set(range(len(trainer.optimizers)))
        every = trainer.log_every_n_steps
        logged = bool(every) and ((batches + 1) % every == 0 or number in self._news)
        self._recorder.record(driver, self._titled, step, optimizer if logged else None)
        if logged:
            self._news.discard(number)
            self._log_row(trainer, driver, optimizer, step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show in the progress bar what the last row said."""
        self._stepped = self._history.end > 0
        if self.progress_bar:
            for part, lr in self._in_bar.items():
                pl_module.log(f"lr_{part}", lr, prog_bar=True, logger=False, on_step=True, on_epoch=False)

    def on_growth(self, trainer: Trainer, pl_module: LightningModule, event: GrowthEvent) -> None:
        """Show the new structure."""
        driver = cast(Driver, Driver.of(trainer))
        if driver.tables:  # else the fit has yet to begin
            self._news = set(range(len(trainer.optimizers)))
            self._show_structure(trainer, driver)
            if len(str(event.clock.generation).rstrip("0")) == 1:
                self._draw(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the history now and then: a run may be killed."""
        if monotonic() - self._saved_at > SAVE_EVERY:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the whole run."""
        self._draw(trainer)
        self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the optimizers alone."""
        while self._handles:
            self._handles.pop().remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning calls no teardown after an exception."""
        self._save(trainer)
        self.teardown(trainer, pl_module, "fit")

    def _log_row(self, trainer: Trainer, driver: Driver, optimizer: Optimizer, step: int) -> None:
        """Write what stands in an optimizer, and prepare to measure norms."""
        entries = {other: group_lrs(trainer, driver, other) for other in driver.tables}
        every = [entry for some in entries.values() for entry in some]
        freezes = any(factor.freezes for factor in driver.factors.values())
        summed_up = len(driver.structure.components) > self.max_components
        row = scalars(entries[optimizer], every, summed_up, driver.frozen if freezes else None)
        self._write(trainer, row, step)
        if self.progress_bar:
            self._in_bar = mean_lrs(every)
        if self.norms:
            parts: dict[str, list[Tensor]] = {}
            for entry in entries[optimizer]:
                tensors = driver.tables[optimizer].groups.tensors_of(entry.group)
                parts.setdefault(part_of(entry) if summed_up else entry.title, []).extend(tensors)
            self._measuring = trainer, step, StepNorms(parts)

    def _write(self, trainer: Trainer, row: Mapping[str, float], step: int) -> None:
        """Write what is new: with several optimizers one may have told of all at this step."""
        news = {tag: value for tag, value in row.items() if step > self._written.get(tag, -1)}
        self._written.update(dict.fromkeys(news, step))
        if news and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(dict(news), step=step)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """The update has been made."""
        if self._measuring is None or torch.compiler.is_compiling():
            return
        (trainer, step, norms), self._measuring = self._measuring, None
        self._write(trainer, norms.scalars(), step)

    def _show_structure(self, trainer: Trainer, driver: Driver) -> None:
        """What the network is made of now, printed and in TensorBoard."""
        structure = driver.structure
        self._network, self._log = structure.by_depth, growth_log(trainer.lightning_module)
        self._titled = dict(zip(structure.components, titles(self._network, self._log), strict=True))
        self._history.keep(self._titled.values(), trainer.global_step)
        many = len(self._network) > self.max_components
        if many and not self._told:
            self._told = True
            rank_zero_info(
                f"StrataMonitor logs parts of the network, for it has {len(self._network)} components: for curves of "
                "them all give it a higher max_components; explain(trainer) prints them all."
            )
        if self.table and not many:
            if trainer.is_global_zero:
                print()  # a progress bar may stand in the line
            explain(trainer)
        parameters = {name: parameter_count(tensors.values()) for name, tensors in structure.parameters.items()}
        for logger in tensorboards(trainer):
            show_structure(logger, structure.components, parameters, self._log, trainer.global_step)

    def _draw(self, trainer: Trainer) -> None:
        """Give TensorBoard the picture of the run so far."""
        loggers = tensorboards(trainer)
        if not loggers or not self._history.end or find_spec("matplotlib") is None:
            return
        picture = heat_map(self.strata)
        for logger in loggers:
            logger.experiment.add_figure("strata/heat_map", picture, trainer.global_step)

    def _save(self, trainer: Trainer) -> None:
        """Write the history beside the logs, for pictures of the run."""
        self._saved_at = monotonic()
        if trainer.is_global_zero and self._history.end:
            save(trainer.loggers, self._history, self._network, self._log)
