"""The learning rates in a fit: structure, factors and tables, kept up to date together."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch.optim import Optimizer

from structurenet_pl.distributed.sharding import register_shards
from structurenet_pl.engine.averaged_copies import averaged_copies
from structurenet_pl.engine.package_callbacks import patterns_of
from structurenet_pl.freezing.component_freezer import ComponentFreezer, Frozen
from structurenet_pl.learning_rates.connection_density import Densities
from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.learning_rates.lr_tables import LRTables
from structurenet_pl.learning_rates.moment import Moment, no_density
from structurenet_pl.learning_rates.norms import GradientNorms
from structurenet_pl.lightning import LightningModule, Trainer
from structurenet_pl.structure.events import Clock, Component, GrowthEvent
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.module_structure import growth_log, set_outer_patterns, structure_of
from structurenet_pl.structure.partition import Structure


class RatesInFit:
    """Base class of the driver: structure, factors, tables and freezing of a fit.

    Attributes:
        structure: The components and their parameters, as of the last ``update_structure``.
        factors: The factors of the Trainer.
        tables: A table for each optimizer, empty until the fit starts.
        freezing: Freezes the components that a factor with ``freezes = True`` gives 0.
        in_batch: Whether gradients may be under way, so that nothing may be frozen and nothing may grow: from the start
            of a batch to the update, over several batches where gradients are accumulated.
    """

    def __init__(self) -> None:
        self.structure = Structure({}, {}, {}, {})
        self.factors = Factors()
        self.tables = LRTables(None)
        self.freezing = ComponentFreezer(None)
        self.in_batch = False
        self._log: tuple[GrowthEvent, ...] = ()
        self._density: Callable[[Component], float | None] = no_density

    @property
    def frozen(self) -> Frozen:
        """The components that are frozen."""
        return self.freezing.frozen

    def moment(self, trainer: Trainer) -> Moment:
        """Everything that a factor may know now."""
        return self._moment_at(self._clock(trainer))

    def update_structure(self, trainer: Trainer, module: LightningModule) -> None:
        """Find the components anew: the module has grown, or a callback has changed its patterns."""
        register_shards(module)
        patterns = patterns_of(trainer)
        if isinstance(module, Growable):
            # averaged copies are saved and loaded without the Trainer, and must then have the same components
            for copy in [module, *averaged_copies(trainer.callbacks)]:
                set_outer_patterns(copy, patterns)
        self.structure = structure_of(module, patterns)
        self._log = growth_log(module)
        self.factors.set_components(
            self.structure.by_depth,
            self._log,
            self.structure.cohorts,
            _optimizer_of_components(self.structure, trainer.optimizers),
        )
        self._density = Densities(module, self.structure)

    def refresh(self, trainer: Trainer, with_gradients: Optimizer | None = None) -> None:
        """Write the lr of this moment into every param group.

        Args:
            trainer: The Trainer.
            with_gradients: The optimizer about to step: its gradients are known, so that factors may read them.
        """
        # _moment_at is called only if a factor has to be evaluated
        self.factors.evaluate_at(self._clock(trainer), self._moment_at)
        if list(self.tables) != trainer.optimizers:  # a user may replace optimizers in mid-fit
            self.tables.split_groups(self.structure, self.factors)
        for optimizer, table in self.tables.items():
            if with_gradients is None:
                table.refresh_lrs()
                continue
            table.refresh()  # settings, too, because norms contain the weight decay
            if optimizer is with_gradients and self.factors.need_gradients:
                norms = GradientNorms(optimizer, self.structure.owner)
                table.apply_gradient_factors(
                    self.factors.evaluate_with_gradients(replace(self.moment(trainer), norms=norms))
                )

    def refresh_and_freeze(self, trainer: Trainer) -> None:
        """Write the lr of this moment into every param group; outside a batch, freeze and thaw components, too."""
        self.refresh(trainer)
        if not self.in_batch:
            self.freezing.update(self.structure, self.factors.frozen)

    def follow_time(self, trainer: Trainer) -> None:
        """Write lrs if a factor has changed; outside a batch, freeze and thaw.

        Lrs that other code has written are collected at the next refresh, before the optimizer reads them.
        """
        if self.factors.evaluate_at(self._clock(trainer), self._moment_at):
            self.refresh(trainer)
        if not self.in_batch:
            self.freezing.update(self.structure, self.factors.frozen)

    def _clock(self, trainer: Trainer) -> Clock:
        return Clock(trainer.global_step, trainer.current_epoch, len(self._log))

    def _moment_at(self, clock: Clock) -> Moment:
        return Moment(clock, self._log, self.structure.by_depth, density=self._density)


def _optimizer_of_components(structure: Structure, optimizers: Sequence[Optimizer]) -> dict[str, int]:
    """The number of the first optimizer that holds a tensor of a component, by name; empty for a single optimizer.

    With a single optimizer, components that it does not hold count in the ranks of depth, too: they lie in between.
    """
    if len(optimizers) < 2:
        return {}
    numbers: dict[str, int] = {}
    for number, optimizer in enumerate(optimizers):
        for tensor in (tensor for group in optimizer.param_groups for tensor in group["params"]):
            if tensor in structure.owner:
                numbers.setdefault(structure.owner[tensor], number)
    return numbers
