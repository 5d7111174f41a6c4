"""Infos and warnings of a fit: components found, settings that overlap, settings without effect."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations

from torch import nn
from torch.optim import Optimizer

from structurenet_pl.engine.package_callbacks import patterns_of
from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.lightning import Trainer, rank_zero_info, rank_zero_warn
from structurenet_pl.structure.events import Component
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.module_structure import all_patterns, structure_of
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.role_patterns import Patterns, unmatched_patterns

MAX_NAMES_IN_MESSAGE = 12


def report_fit(structure: Structure, factors: Factors) -> None:
    """Log the components, and warn of settings that overlap.

    Args:
        structure: The components at the start of the fit.
        factors: The factors of the Trainer.
    """
    _log_components(structure)
    _warn_tied(structure)
    for sentence in shared_basis(factors.basis, factors.acting):
        rank_zero_info(f"structurenet_pl: {sentence}")
    _warn_frozen_twice({label: acting for label, acting in factors.acting.items() if factors[label].freezes})


def shared_basis(basis: Mapping[str, str | None], acting: Mapping[str, Iterable[Component]]) -> list[str]:
    """A sentence for each pair of factors that depend on the same quantity and act on a common component.

    Args:
        basis: The quantity on which each factor depends, such as the age.
        acting: The components on which each factor acts.
    """
    return [
        f"{first} and {second} both depend on the {basis[first]}: their product acts on {', '.join(common)}"
        for first, second in combinations(basis, 2)
        if basis[first] is not None
        and basis[first] == basis[second]
        and (common := [component.name for component in acting[first] if component in acting[second]])
    ]


class NoEffectWarnings:
    """Warns of parameters, patterns and factors without effect.

    Warnings come at the start of a fit if they are certain there, else at its end.
    """

    def __init__(self) -> None:
        self._untrained: list[str] = []
        self._already_warned: list[str] = []

    def at_fit_start(self, trainer: Trainer, structure: Structure, factors: Factors) -> None:
        """Warn of patterns, and log the parameters that are in no optimizer."""
        if not isinstance(trainer.lightning_module, Growable):  # else a pattern may match a component born later
            self._warn_patterns(trainer, structure, factors)
            self._already_warned += _warn_one_depth(factors)
        self._untrained = _names_in_no_optimizer(structure, trainer.optimizers)
        if self._untrained:
            rank_zero_info(f"structurenet_pl: in no optimizer, and so never trained: {self._untrained}")

    def at_fit_end(self, trainer: Trainer, factors: Factors) -> None:
        """Warn of factors that were always 1 and, in a growable module, of patterns and of untrained parameters."""
        module = trainer.lightning_module
        if isinstance(module, Growable):
            structure = structure_of(module)
            self._warn_patterns(trainer, structure, factors)
            _warn_added_without_growth(_names_in_no_optimizer(structure, trainer.optimizers), self._untrained)
        if not trainer.fast_dev_run:  # which is too short for most durations
            _warn_always_one(label for label in factors.without_effect if label not in self._already_warned)

    def _warn_patterns(self, trainer: Trainer, structure: Structure, factors: Factors) -> None:
        module = trainer.lightning_module
        _warn_unmatched(module, all_patterns(module) if isinstance(module, Growable) else patterns_of(trainer))
        self._already_warned = _warn_acting_on_nothing(factors.where, structure)


def _log_components(structure: Structure) -> None:
    names = list(structure.components)
    shown = names if len(names) <= MAX_NAMES_IN_MESSAGE else [*names[: MAX_NAMES_IN_MESSAGE - 2], "...", names[-1]]
    rank_zero_info(f"structurenet_pl: {len(names)} components, in order of depth: {', '.join(shown)}")


def _warn_tied(structure: Structure) -> None:
    """Warn of parameters that several components share, because only one of these gives the lr."""
    for owner in dict.fromkeys(structure.tied.values()):
        names = [name for name, its_owner in structure.tied.items() if its_owner == owner]
        rank_zero_warn(
            f"component {owner!r} shares tensors with {names}: it owns them, because it is defined first, and its lr "
            "is used for them"
        )


def _warn_frozen_twice(acting: Mapping[str, Iterable[Component]]) -> None:
    """Warn of two factors that freeze the same components.

    Args:
        acting: The components on which each freezing factor acts.
    """
    for first, second in combinations(acting, 2):
        if common := [component.name for component in acting[first] if component in acting[second]]:
            rank_zero_warn(
                f"{first} and {second} both freeze {', '.join(common)}: a component stays frozen while either callback "
                "freezes it. Put all phases into one callback, or give each other components with where=..."
            )


def _names_in_no_optimizer(structure: Structure, optimizers: Iterable[Optimizer]) -> list[str]:
    """Names of the parameters that require a gradient but are in no optimizer."""
    held = {tensor for optimizer in optimizers for group in optimizer.param_groups for tensor in group["params"]}
    return sorted(
        name for tensor, name in structure.parameter_names.items() if tensor.requires_grad and tensor not in held
    )


def _warn_added_without_growth(at_end: Sequence[str], at_start: Sequence[str]) -> None:
    """Warn of parameters that user code has added outside growth methods."""
    if added := [name for name in at_end if name not in at_start]:
        rank_zero_warn(
            f"parameters {added} were added during the fit and stand in no optimizer, so they were not trained: add "
            "them in a method marked with @growth()"
        )


def _warn_unmatched(module: nn.Module, patterns: Patterns) -> None:
    """Warn of component patterns that match nothing."""
    if idle := unmatched_patterns(module, patterns):
        names = [name for name, _ in module.named_children()]
        rank_zero_warn(
            f"component patterns {idle} match no module or parameter; the outermost names are {names}. Patterns are "
            "matched against whole dotted names, as in 'encoder.*'."
        )


def _warn_always_one(labels: Iterable[str]) -> None:
    """Warn of factors that were 1 for all components at all steps."""
    for label in labels:
        rank_zero_warn(
            f"{label} has changed no learning rate in this run: its factor was 1 for every component at every step. "
            "Check its roles and durations, or remove it."
        )


def _warn_acting_on_nothing(where: Mapping[str, Sequence[str]], structure: Structure) -> list[str]:
    """Warn of patterns in ``where`` that match no component.

    Args:
        where: The roles and name patterns to which each factor is limited.
        structure: The components.

    Returns:
        The factors that act on no component.
    """
    without_component = []
    parts = [*structure.by_depth, *chain.from_iterable(structure.cohorts.values())]  # a cohort may have another role
    for label, patterns in where.items():
        idle = [pattern for pattern in patterns if not any(part.matches(pattern) for part in parts)]
        for pattern in idle:
            rank_zero_warn(
                f"{label}(where={pattern!r}) acts on nothing: it is neither the role nor a name pattern of any of the "
                f"components {[(component.name, component.role) for component in structure.by_depth]}. Correct it, or "
                "remove it."
            )
        if idle and len(idle) == len(patterns):
            without_component.append(label)
    return without_component


def _warn_one_depth(factors: Factors) -> list[str]:
    """Warn of factors that go by depth, and return them, if all components that they act on have one depth."""
    idle = [
        label
        for label, acting in factors.acting.items()
        if factors.basis[label] == "depth" and len({component.depth for component in acting}) == 1
    ]
    for label in idle:
        names = [component.name for component in factors.acting[label]]
        rank_zero_warn(
            f"{label} goes by depth, but all components that it acts on have the same one: {names}. Split the network "
            "with Components({'pattern': 'role'}), or remove the callback."
        )
    return idle
