"""The factors of a Trainer, evaluated together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from structurenet_pl.events import Clock, Component, Moment, Unit, check_unit, listed
from structurenet_pl.surgery.freezing import Freezer
from structurenet_pl.surgery.param_groups import Slot


@runtime_checkable
class Factor(Freezer, Protocol):
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


class Factors(dict[str, Factor]):
    """Factors by label: the class name, numbered where there are several of one class.

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
        for index, (name, factor) in enumerate(zip(names, factors, strict=True)):
            number = "" if names.count(name) == 1 else f"_{names[: index + 1].count(name)}"
            self[name + number] = factor
        self._acting: dict[str, tuple[Component, ...]] = {}
        self._times: dict[str, Clock] = {}
        self._values: dict[str, dict[str, float]] = {}
        self._inert = set(self)
        self.frozen: dict[str, list[Factor]] = {}

    @property
    def split_1d(self) -> bool:
        """Whether one-dimensional tensors must have groups of their own."""
        return any(factor.skip_1d for factor in self.values())

    @property
    def need_gradients(self) -> bool:
        """Whether one of them can only be known after backward."""
        return any(factor.needs_gradients for factor in self.values())

    @property
    def basis(self) -> dict[str, str | None]:
        """What each goes by."""
        return {label: factor.basis for label, factor in self.items()}

    @property
    def where(self) -> dict[str, list[str]]:
        """What each is limited to."""
        return {label: listed(factor.where) for label, factor in self.items()}

    @property
    def acting(self) -> dict[str, tuple[Component, ...]]:
        """The components that each acts on."""
        return self._acting

    def acting_of(self, factor: Factor) -> tuple[Component, ...]:
        """The components that one of them acts on."""
        return next(self._acting[label] for label, known in self.items() if known is factor)

    @property
    def without_effect(self) -> list[str]:
        """Those that go by something and yet were 1 whenever they were evaluated."""
        return [label for label, factor in self.items() if factor.basis is not None and label in self._inert]

    def look_at(self, spine: Sequence[Component]) -> None:
        """Note which components each acts on, and evaluate all anew."""
        self._acting = {label: tuple(filter(factor.acts_on, spine)) for label, factor in self.items()}
        self._times.clear()
        self._values.clear()

    def advance(self, now: Moment) -> bool:
        """Evaluate the factors that need no gradients, each when its unit of time moves; tell if any changed."""
        changed = False
        for label, factor in self.items():
            time = now.clock.truncated_to(factor.unit)
            if not factor.needs_gradients and self._times.get(label) != time:
                values = self._evaluate(label, now)
                changed |= self._values.get(label) != values
                self._times[label], self._values[label] = time, values
        if changed:
            self.frozen = self._find_frozen()
        return changed

    def known(self, slots: Iterable[Slot]) -> dict[str, dict[str, float]]:
        """The factors of each group by label, as they were last evaluated."""
        return self._spread(self._values, slots)

    def measured(self, slots: Iterable[Slot], now: Moment) -> dict[str, dict[str, float]]:
        """The factors of each group that need gradients, by label."""
        labels = [label for label, factor in self.items() if factor.needs_gradients]
        return self._spread({label: self._evaluate(label, now) for label in labels}, slots)

    def _find_frozen(self) -> dict[str, list[Factor]]:
        """The components that are to be frozen, and the factors that say so."""
        found: dict[str, list[Factor]] = {}
        for label, values in self._values.items():
            for component, value in values.items():
                if value == 0 and self[label].freezes:
                    found.setdefault(component, []).append(self[label])
        return found

    def _evaluate(self, label: str, now: Moment) -> dict[str, float]:
        view = replace(now, spine=self._acting[label])
        values = {component.name: self[label].checked(component, view) for component in view.spine}
        if label in self._inert and any(value != 1.0 for value in values.values()):
            self._inert.remove(label)
        return values

    def _spread(self, values: Mapping[str, Mapping[str, float]], slots: Iterable[Slot]) -> dict[str, dict[str, float]]:
        return {
            slot.name: {
                label: 1.0 if slot.is_1d and self[label].skip_1d else found.get(slot.component, 1.0)
                for label, found in values.items()
            }
            for slot in slots
        }


def product(factors: Mapping[str, float]) -> float:
    """All factors of a group multiplied; sorted, because the last bit of a product of floats depends on the order."""
    return math.prod(sorted(factors.values()))
