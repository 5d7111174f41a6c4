"""What has no effect in a fit: parameters, patterns, factors."""

from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from structurenet_pl.engine.hooks import patterns_of
from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.lightning import Trainer, rank_zero_info, rank_zero_warn
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.module_structure import all_patterns, structure_of
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.role_patterns import unmatched_patterns


class Unused:
    """Says what has no effect, at the start of a fit where that is certain, else at its end."""

    def __init__(self) -> None:
        self._left_out: list[str] = []
        self._acting_on_nothing: list[str] = []

    def start(self, trainer: Trainer, structure: Structure, factors: Factors) -> None:
        """In a module that grows, what a pattern means may be yet unborn."""
        if not isinstance(trainer.lightning_module, Growable):
            self._look(trainer, structure, factors)
        self._left_out = _left_out(structure, trainer.optimizers)
        if self._left_out:
            rank_zero_info(f"structurenet_pl: in no optimizer, and so never trained: {self._left_out}")

    def end(self, trainer: Trainer, factors: Factors) -> None:
        """A factor may have been 1 all along, and parameters may have come past all growth methods."""
        module = trainer.lightning_module
        if isinstance(module, Growable):
            structure = structure_of(module)
            self._look(trainer, structure, factors)
            _warn_left_out(_left_out(structure, trainer.optimizers), self._left_out)
        if not trainer.fast_dev_run:
            _warn_without_effect(label for label in factors.without_effect if label not in self._acting_on_nothing)

    def _look(self, trainer: Trainer, structure: Structure, factors: Factors) -> None:
        module = trainer.lightning_module
        _warn_unmatched(module, all_patterns(module) if isinstance(module, Growable) else patterns_of(trainer))
        self._acting_on_nothing = _warn_acts_on_nothing(factors.where, structure)


def _left_out(structure: Structure, optimizers: Iterable[Optimizer]) -> list[str]:
    """Names of the parameters that could be trained but stand in no optimizer."""
    held = {tensor for optimizer in optimizers for group in optimizer.param_groups for tensor in group["params"]}
    return sorted(
        name for tensor, name in structure.parameter_names.items() if tensor.requires_grad and tensor not in held
    )


def _warn_left_out(now: Sequence[str], before: Sequence[str]) -> None:
    """Warn of parameters that came into the module past all growth methods."""
    if added := [name for name in now if name not in before]:
        rank_zero_warn(
            f"parameters {added} were added during the fit and stand in no optimizer, so they were not trained: add "
            "them in a method marked with @growth()"
        )


def _warn_unmatched(module: nn.Module, patterns: Mapping[str, str]) -> None:
    """Warn of component patterns that match nothing."""
    if idle := unmatched_patterns(module, patterns):
        names = [name for name, _ in module.named_children()]
        rank_zero_warn(
            f"component patterns {idle} match no module or parameter; the outermost names are {names}. Patterns are "
            "matched against whole dotted names, as in 'encoder.*'."
        )


def _warn_without_effect(labels: Iterable[str]) -> None:
    """Warn of factors that were 1 all along."""
    for label in labels:
        rank_zero_warn(
            f"{label} has changed no learning rate in this run: its factor was 1 for every component at every step. "
            "Check its roles and durations, or leave it out."
        )


def _warn_acts_on_nothing(where: Mapping[str, Sequence[str]], structure: Structure) -> list[str]:
    """Warn of patterns in ``where`` that fit no component.

    Args:
        where: What each factor is limited to.
        structure: The components.

    Returns:
        The factors that act on nothing at all.
    """
    nowhere = []
    for label, patterns in where.items():
        idle = [pattern for pattern in patterns if not any(part.matches(pattern) for part in structure.by_depth)]
        for pattern in idle:
            rank_zero_warn(
                f"{label}(where={pattern!r}) acts on nothing: it is neither role nor name pattern of any of the "
                f"components {[(component.name, component.role) for component in structure.by_depth]}"
            )
        if idle and len(idle) == len(patterns):
            nowhere.append(label)
    return nowhere
