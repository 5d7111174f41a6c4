"""Evaluates the factors of a Trainer, each only when its unit of time has moved."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.freezing.component_freezer import FreezeOptions
from structurenet_pl.learning_rates.evaluation import Evaluation
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Clock, Component, GrowthEvent, Unit, as_list, check_unit

Vector = NDArray[np.float64]


@runtime_checkable
class Factor(FreezeOptions, Protocol):
    """A callback that gives each component a factor; ``LRFactor`` implements it."""

    needs_gradients: bool
    skip_1d: bool
    basis: str | None
    unit: Unit
    freezes: bool
    where: str | Sequence[str] | None
    looks_for: str | Sequence[str]

    def acts_on(self, component: Component) -> bool:
        """Whether the factor may differ from 1 for the component."""

    def checked(self, component: Component, now: Moment) -> float:
        """The factor of a component.

        Raises:
            ValueError: If the factor is negative or not finite.
        """


@runtime_checkable
class NamesStrata(Factor, Protocol):
    """A factor that names the stratum of a component, as ``SedimentaryDecay`` does."""

    def stratum(self, component: Component, now: Moment) -> str:
        """Name of the stratum, or the role of a component that has a factor by role."""

    def stratum_number(self, component: Component, now: Moment) -> int | None:
        """Number of the stratum, 0 for the first; None for a component that has a factor by role."""


class Factors(dict[str, Factor]):
    """Factors by label, and their values for all components.

    A label is the name of the class, with a number if there are several factors of one class. The values of a factor
    are a vector with an entry for each component, in order of depth, then one for each cohort that was born after its
    component. The last entry is 1: the factor of tensors that belong to no component.

    Args:
        factors: The factors in the order of the callbacks.

    Raises:
        ValueError: If a factor has an unknown unit, or has both ``freezes`` and ``needs_gradients``.
    """

    def __init__(self, factors: Sequence[Factor] = ()) -> None:
        for factor in factors:
            check_unit(factor.unit)
            if factor.freezes and factor.needs_gradients:
                raise ValueError(
                    f"{type(factor).__name__} has both `freezes` and `needs_gradients`, but a frozen component has no "
                    "gradients that could thaw it: let the factor depend on time, structure or density, or "
                    "set `freezes = False`."
                )
        names = [type(factor).__name__ for factor in factors]
        for name, factor in zip(names, factors, strict=True):
            numbered = (f"{name}_{number}" for number in count(1))
            unused = (label for label in numbered if label not in (*self, *names))  # a class may be called A_1
            self[name if names.count(name) == 1 else next(unused)] = factor
        self.need_gradients = any(factor.needs_gradients for factor in factors)
        self.order = {label: column for column, label in enumerate(self)}
        self.rows: dict[str, int] = {}  # by name of the component: its entry in the vectors
        self.cohort_rows: dict[str, dict[int, int]] = {}  # by name and generation: the entries of the cohorts
        self.optimizer_of: Mapping[str, int] = {}  # the number of its optimizer, by name of the component
        self.acting: dict[str, tuple[Component, ...]] = {}  # by label: the components that the factor acts on
        self.vectors: dict[str, Vector] = {}  # by label; a changed value makes a new vector
        self.version = 0  # increases whenever a vector has changed
        self.frozen: dict[str, list[Factor]] = {}  # by name of the component: the factors that freeze it now
        self._evaluations: dict[str, list[tuple[Evaluation, NDArray[np.intp]]]] = {}  # of each optimizer
        self._units = [(label, factor.unit) for label, factor in self.items() if not factor.needs_gradients]
        self._clock: Clock | None = None  # of the last evaluation
        self._times: dict[str, tuple[int, ...]] = {}  # by label: the time of its last evaluation, in its own unit
        self._size = 1  # of the vectors
        self._inert = set(self)  # the labels of factors that have been 1 in all evaluations

    @property
    def split_1d(self) -> bool:
        """Whether one-dimensional tensors need groups of their own, because a factor leaves them alone."""
        return any(factor.skip_1d for factor in self.values())

    @property
    def basis(self) -> dict[str, str | None]:
        """The quantity that each factor depends on, such as the age; None if the factor does not declare one."""
        return {label: factor.basis for label, factor in self.items()}

    @property
    def where(self) -> dict[str, list[str]]:
        """The roles and name patterns that each factor is limited to."""
        return {label: as_list(factor.where) for label, factor in self.items()}

    def acting_of(self, factor: Factor) -> tuple[Component, ...]:
        """The components that a factor acts on."""
        return next(self.acting[label] for label, known in self.items() if known is factor)

    @property
    def without_effect(self) -> list[str]:
        """The labels of the factors that declare a basis, and yet were 1 for all components in each evaluation."""
        return [label for label, factor in self.items() if factor.basis is not None and label in self._inert]

    def set_components(
        self,
        components: Sequence[Component],
        log: tuple[GrowthEvent, ...],
        cohorts: Mapping[str, Sequence[Component]] = {},
        optimizer_of: Mapping[str, int] = {},
    ) -> None:
        """Set the components of now. The next ``evaluate_at`` evaluates all factors.

        A factor sees the components of one optimizer at a time, so that depths are ranked among these: the networks of
        a GAN lie side by side, not one behind the other.

        Args:
            components: The components in order of depth.
            log: The growth log.
            cohorts: The cohorts of components with entries of several generations.
            optimizer_of: The number of its optimizer, by name of the component; components without one count together.
        """
        self.rows = {component.name: row for row, component in enumerate(components)}
        self.optimizer_of = optimizer_of
        self.acting = {label: tuple(filter(factor.acts_on, components)) for label, factor in self.items()}
        added: list[Component] = []  # cohorts that were born after their component
        self.cohort_rows = {name: {} for name in cohorts}
        for name, of_component in cohorts.items():
            for cohort in of_component:
                born_with_it = cohort.born.generation == components[self.rows[name]].born.generation
                row = self.rows[name] if born_with_it else len(components) + len(added)
                self.cohort_rows[name][cohort.born.generation] = row
                if not born_with_it:
                    added.append(cohort)
        for label, factor in self.items():
            self._evaluations[label] = []
            groups = self.by_optimizer(self.acting[label])
            cohort_groups = self.by_optimizer(filter(factor.acts_on, added))
            for number in groups | cohort_groups:
                acting, acting_cohorts = groups.get(number, ()), cohort_groups.get(number, ())
                rows = [self.rows[component.name] for component in acting]
                rows += [self.cohort_rows[cohort.name][cohort.born.generation] for cohort in acting_cohorts]
                evaluation = Evaluation(factor, acting, log, acting_cohorts)
                self._evaluations[label].append((evaluation, np.array(rows, dtype=np.intp)))
        self._size = len(components) + len(added) + 1
        self.vectors = {label: np.ones(self._size) for label in self}
        self._times.clear()
        self._clock = None
        self.version += 1

    def by_optimizer(self, components: Iterable[Component]) -> dict[int | None, tuple[Component, ...]]:
        """Components, or cohorts, by the number of their optimizer; under None those without one."""
        groups: dict[int | None, list[Component]] = {}
        for component in components:
            groups.setdefault(self.optimizer_of.get(component.name), []).append(component)
        return {number: tuple(group) for number, group in groups.items()}

    def evaluate_at(self, clock: Clock, at: Callable[[Clock], Moment]) -> bool:
        """Evaluate the factors that need no gradients and whose unit of time has moved; whether a value has changed.

        Args:
            clock: The time.
            at: Makes the moment from the clock. It is called only if a factor is due, which it is not in most steps.
        """
        if clock == self._clock:
            return False
        self._clock = clock
        generation, epoch, step = (clock.generation,), (clock.generation, clock.epoch), (clock.generation, clock.step)
        # a finer unit includes the coarser ones: a factor that depends on steps may depend on epochs, too
        times = {"generation": generation, "epoch": epoch, "step": (*step, clock.epoch)}
        due = [label for label, unit in self._units if self._times.get(label) != times[unit]]
        if not due:
            return False
        moment, before = at(clock), self.version
        for label in due:
            self._times[label] = times[self[label].unit]
            vector = self._evaluate(label, moment)
            if (vector != self.vectors[label]).any():
                self.vectors[label] = vector
                self.version += 1
        if any(self[label].freezes for label in due):
            self.frozen = self._find_frozen()
        return self.version != before

    def evaluate_with_gradients(self, now: Moment) -> dict[str, Vector]:
        """The values of the factors that need gradients, by label.

        Args:
            now: A moment with norms.
        """
        return {label: self._evaluate(label, now) for label, factor in self.items() if factor.needs_gradients}

    def _find_frozen(self) -> dict[str, list[Factor]]:
        """The components with a factor of 0 that freezes, for all of their cohorts, and these factors."""
        frozen: dict[str, list[Factor]] = {}
        for label, factor in self.items():
            if factor.freezes:
                vector = self.vectors[label].tolist()
                for name, row in self.rows.items():
                    if all(vector[row] == 0 for row in self.cohort_rows.get(name, {0: row}).values()):
                        frozen.setdefault(name, []).append(factor)
        return frozen

    def _evaluate(self, label: str, now: Moment) -> Vector:
        vector = np.ones(self._size)
        for evaluation, rows in self._evaluations[label]:
            vector[rows] = evaluation.values(now)
        if label in self._inert and (vector != 1).any():
            self._inert.remove(label)
        return vector


def product(factors: NDArray[np.float64]) -> Vector:
    """The product of each row of factors.

    Factors are sorted first: the last bit of a product of floats depends on the order, and lrs must not depend on the
    order of the callbacks.

    Args:
        factors: A matrix of factors.

    Example:
        >>> product(np.array([[0.5, 1.0, 0.1], [0.1, 0.5, 1.0]])).tolist()
        [0.05, 0.05]
    """
    acting = factors[:, (factors != 1).any(axis=0)]  # a factor of 1 changes no bit
    if acting.shape[1] > 2:  # the order of two makes no difference
        acting.sort(axis=1)
    result = np.ones(len(factors))
    for column in acting.T:
        result *= column
    return result
