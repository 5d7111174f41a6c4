"""The factors of a Trainer, evaluated together."""

from collections.abc import Callable, Sequence
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
    """What is asked of a factor; :class:`~structurenet_pl.LRFactor` answers it."""

    needs_gradients: bool
    skip_1d: bool
    basis: str | None
    unit: Unit
    freezes: bool
    where: str | Sequence[str] | None

    def acts_on(self, component: Component) -> bool:
        """Whether it has a say in the lr of the component."""

    def checked(self, component: Component, now: Moment) -> float:
        """The factor."""


@runtime_checkable
class NamesStrata(Factor, Protocol):
    """A factor that says which stratum a component has reached, as :class:`~structurenet_pl.SedimentaryDecay` does."""

    def stratum(self, component: Component, now: Moment) -> str:
        """Name of the stratum, or the role of a component that has a factor by role."""

    def stratum_number(self, component: Component, now: Moment) -> int | None:
        """Number of the stratum, 0 for the first; None for a component that has a factor by role."""


class Factors(dict[str, Factor]):
    """Factors by label: the class name, numbered where there are several of one class.

    Their values are vectors with an entry for each component, in order of depth, and a 1 for what is no component.

    Args:
        factors: In the order of the callbacks.
    """

    def __init__(self, factors: Sequence[Factor] = ()) -> None:
        for factor in factors:
            check_unit(factor.unit)
            if factor.freezes and factor.needs_gradients:
                raise ValueError(
                    f"{type(factor).__name__} has both `freezes` and `needs_gradients`, but what is frozen has no "
                    "gradients that could thaw it: freeze by what else is known."
                )
        names = [type(factor).__name__ for factor in factors]
        for name, factor in zip(names, factors, strict=True):
            numbered = (f"{name}_{number}" for number in count(1))
            label = name if names.count(name) == 1 else next(one for one in numbered if one not in (*self, *names))
            self[label] = factor
        self.need_gradients = any(factor.needs_gradients for factor in factors)  # known after backward only
        self.order = {label: column for column, label in enumerate(self)}
        self.rows: dict[str, int] = {}
        self.acting: dict[str, tuple[Component, ...]] = {}
        self.vectors: dict[str, Vector] = {}
        self.version = 0
        self.frozen: dict[str, list[Factor]] = {}
        self._evaluations: dict[str, tuple[Evaluation, NDArray[np.intp]]] = {}
        self._units = [(label, factor.unit) for label, factor in self.items() if not factor.needs_gradients]
        self._clock: Clock | None = None
        self._times: dict[str, tuple[int, ...]] = {}
        self._inert = set(self)

    @property
    def split_1d(self) -> bool:
        """Whether one-dimensional tensors must have groups of their own."""
        return any(factor.skip_1d for factor in self.values())

    @property
    def basis(self) -> dict[str, str | None]:
        """What each goes by."""
        return {label: factor.basis for label, factor in self.items()}

    @property
    def where(self) -> dict[str, list[str]]:
        """What each is limited to."""
        return {label: as_list(factor.where) for label, factor in self.items()}

    def acting_of(self, factor: Factor) -> tuple[Component, ...]:
        """The components that one of them acts on."""
        return next(self.acting[label] for label, known in self.items() if known is factor)

    @property
    def without_effect(self) -> list[str]:
        """Those that go by something and yet were 1 whenever they were evaluated."""
        return [label for label, factor in self.items() if factor.basis is not None and label in self._inert]

    def set_components(self, components: Sequence[Component], log: tuple[GrowthEvent, ...]) -> None:
        """Note what there is now, and evaluate all anew.

        Args:
            components: The components in order of depth.
            log: The growth log.
        """
        self.rows = {component.name: row for row, component in enumerate(components)}
        self.acting = {label: tuple(filter(factor.acts_on, components)) for label, factor in self.items()}
        for label, factor in self.items():
            acting = self.acting[label]
            rows = np.array([self.rows[component.name] for component in acting], dtype=np.intp)
            self._evaluations[label] = Evaluation(factor, acting, log), rows
        self.vectors = {label: np.ones(len(components) + 1) for label in self}
        self._times.clear()
        self._clock = None
        self.version += 1

    def evaluate_at(self, clock: Clock, at: Callable[[Clock], Moment]) -> None:
        """Evaluate the factors that need no gradients, each when its unit of time moves.

        Args:
            clock: The time.
            at: Gives the moment, which is work that most steps are spared.
        """
        if clock == self._clock:
            return
        self._clock = clock
        generation, epoch, step = (clock.generation,), (clock.generation, clock.epoch), (clock.generation, clock.step)
        times = {"generation": generation, "epoch": epoch, "step": (*step, clock.epoch)}
        due = [label for label, unit in self._units if self._times.get(label) != times[unit]]
        if not due:
            return
        moment = at(clock)
        for label in due:
            self._times[label] = times[self[label].unit]
            vector = self._evaluate(label, moment)
            if (vector != self.vectors[label]).any():
                self.vectors[label] = vector
                self.version += 1
        if any(self[label].freezes for label in due):
            self.frozen = self._find_frozen()

    def evaluate_with_gradients(self, now: Moment) -> dict[str, Vector]:
        """The factors that need gradients."""
        return {label: self._evaluate(label, now) for label, factor in self.items() if factor.needs_gradients}

    def _find_frozen(self) -> dict[str, list[Factor]]:
        """The components that are to be frozen, and the factors that say so."""
        found: dict[str, list[Factor]] = {}
        for label, factor in self.items():
            if factor.freezes:
                for component in self.acting[label]:
                    if self.vectors[label][self.rows[component.name]] == 0:
                        found.setdefault(component.name, []).append(factor)
        return found

    def _evaluate(self, label: str, now: Moment) -> Vector:
        evaluation, rows = self._evaluations[label]
        vector = np.ones(len(self.rows) + 1)
        vector[rows] = evaluation.values(now)
        if label in self._inert and (vector != 1).any():
            self._inert.remove(label)
        return vector


def product(factors: NDArray[np.float64]) -> Vector:
    """The products of rows of factors; sorted, because the last bit of a product of floats depends on the order.

    Args:
        factors: A row for each product.

    Example:
        >>> product(np.array([[0.5, 1.0, 0.1], [0.1, 0.5, 1.0]])).tolist()
        [0.05, 0.05]
    """
    ordered = np.sort(factors, axis=1)
    result = np.ones(len(ordered))
    for column in ordered.T:
        result *= column
    return result
