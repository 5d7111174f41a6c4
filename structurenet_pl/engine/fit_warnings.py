"""Infos and warnings of a fit: components found, settings that overlap, settings without effect."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from torch.optim import Optimizer

from structurenet_pl.distributed.sharding import register_shards
from structurenet_pl.engine.idle_factors import Idleness, why_idle
from structurenet_pl.engine.package_callbacks import arguments_of, patterns_of
from structurenet_pl.engine.pattern_warnings import (
    components_of_growth,
    names_and_roles,
    warn_acting_on_nothing,
    warn_looking_for_nothing,
    warn_unmatched,
)
from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.lightning import Trainer, rank_zero_info, rank_zero_warn
from structurenet_pl.structure.events import Component, as_list
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.listed_names import listed
from structurenet_pl.structure.module_structure import all_patterns, structure_of
from structurenet_pl.structure.partition import Structure


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
        f"{first} and {second} both depend on the {basis[first]}: their product acts on {listed(common)}"
        for first, second in combinations(basis, 2)
        if basis[first] is not None
        and basis[first] == basis[second]
        and (common := _common_names(acting[first], acting[second]))
    ]


def _common_names(some: Iterable[Component], others: Iterable[Component]) -> list[str]:
    """The names of the components that both have, in the order of the first."""
    names = {component.name for component in others}  # a set of strings: factors may act on a thousand components
    return [component.name for component in some if component.name in names]


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

    def at_first_lrs(self, trainer: Trainer, factors: Factors, now: Moment) -> None:
        """In a module that cannot grow, warn of factors that depend on growth events alone, and so stay 1."""
        if isinstance(trainer.lightning_module, Growable):
            return
        for label in factors.without_effect:
            factor = factors[label]
            is_constant = factor.unit == "generation" and not factor.needs_gradients  # nothing grows in this fit
            if not is_constant or label in self._already_warned:
                continue
            if why_idle(factor, now, factors.optimizer_of) is Idleness.NOTHING_TO_ACT_ON:
                self._already_warned.append(label)
                given = ", ".join(f"{name}={value!r}" for name, value in arguments_of(factor).items())
                rank_zero_warn(
                    f"{type(factor).__name__}({given}) changes no learning rate in this run: its factor is 1 for each "
                    f"of the components {names_and_roles(now.components)}. Correct its roles, patterns or values, or "
                    "remove it."
                )

    def at_fit_end(self, trainer: Trainer, factors: Factors, end: Moment) -> None:
        """Report factors that were always 1, parameters that were added and, in a growable module, patterns."""
        module = trainer.lightning_module
        register_shards(module)  # the last validation may have left whole parameters, which no optimizer holds
        structure = structure_of(module, patterns_of(trainer))
        if isinstance(module, Growable):
            self._warn_patterns(trainer, structure, factors)
        _warn_added_without_growth(_names_in_no_optimizer(structure, trainer.optimizers), self._untrained)
        if not trainer.fast_dev_run:  # which is too short for most durations
            idle = [label for label in factors.without_effect if label not in self._already_warned]
            _report_idle({label: why_idle(factors[label], end, factors.optimizer_of) for label in idle})

    def _warn_patterns(self, trainer: Trainer, structure: Structure, factors: Factors) -> None:
        module = trainer.lightning_module
        warn_unmatched(module, all_patterns(module) if isinstance(module, Growable) else patterns_of(trainer))
        gone = components_of_growth(module) if isinstance(module, Growable) else []
        self._already_warned = warn_acting_on_nothing(factors.where, structure, gone)
        looks_for = {label: as_list(factor.looks_for) for label, factor in factors.items()}
        self._already_warned += warn_looking_for_nothing(looks_for, structure, gone)


def _log_components(structure: Structure) -> None:
    names = list(structure.components)
    rank_zero_info(f"structurenet_pl: {len(names)} components, in order of depth: {listed(names)}")


def _warn_tied(structure: Structure) -> None:
    """Warn of parameters that several components share, because only one of these gives the lr."""
    owners = dict.fromkeys(structure.tied.values())
    tied = {owner: [name for name, its_owner in structure.tied.items() if its_owner == owner] for owner in owners}
    if tied:
        shared = "; ".join(f"component {owner!r} shares tensors with {names}" for owner, names in tied.items())
        rank_zero_warn(f"{shared}: it owns them, because it is defined first, and its lr is used for them")


def _warn_frozen_twice(acting: Mapping[str, Iterable[Component]]) -> None:
    """Warn of two factors that freeze the same components.

    Args:
        acting: The components on which each freezing factor acts.
    """
    for first, second in combinations(acting, 2):
        if common := _common_names(acting[first], acting[second]):
            rank_zero_warn(
                f"{first} and {second} both freeze {listed(common)}: a component stays frozen while either callback "
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
            "them in a method of a GrowableModule that is marked with @growth()"
        )


def _report_idle(reasons: Mapping[str, Idleness]) -> None:
    """Report factors that were 1 for all components at all steps: one message for each reason.

    That nothing has grown is no mistake, so it is no warning.
    """
    for reason in dict.fromkeys(reasons.values()):
        labels = [label for label, its_reason in reasons.items() if its_reason is reason]
        subject = labels[0] if len(labels) == 1 else f"each of {', '.join(labels)}"
        report = rank_zero_info if reason is Idleness.NOTHING_GREW else rank_zero_warn
        report(f"{subject} has changed no learning rate in this run: {reason.value}.")


def _warn_one_depth(factors: Factors) -> list[str]:
    """Warn of factors that go by depth, and return them, if all components that they act on have one depth."""
    idle = []
    for label, acting in factors.acting.items():
        groups = factors.by_optimizer(acting).values()  # depths are ranked among the components of one optimizer
        has_one_depth = all(len({component.depth for component in group}) == 1 for group in groups)
        if factors.basis[label] == "depth" and acting and has_one_depth:
            idle.append(label)
            where = " in one optimizer" if len(groups) > 1 else ""
            names = listed([component.name for component in acting])
            rank_zero_warn(
                f"{label} depends on depth, but all components that it acts on{where} have the same: {names}. Split "
                "them with Components({'pattern': 'role'}), or remove the callback."
            )
    return idle
