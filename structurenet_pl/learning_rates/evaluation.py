"""A factor is evaluated once for all components that are alike in what it reads of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.learning_rates.moment import Memory, Moment, Nearness
from structurenet_pl.structure.events import Component, GrowthEvent

FIELDS = tuple(one.name for one in fields(Component))
NEARNESS = "nearness"


class Evaluated(Protocol):
    """What is evaluated."""

    def checked(self, component: Component, now: Moment) -> float:
        """The factor of a component."""


class NotingComponent(Component):
    """A component that notes what is read of it.

    It equals the component that it stands for, which counts as reading all of it.
    """

    noted: set[str]
    plain: Component

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A plain component: ``dataclasses.replace`` makes something new of what it has read."""
        return Component(*args, **kwargs)

    @classmethod
    def of(cls, component: Component) -> "NotingComponent":
        """One that stands for a component."""
        made = object.__new__(cls)
        object.__getattribute__(made, "__dict__").update(vars(component), noted=set(), plain=component)
        return made

    def __getattribute__(self, name: str) -> Any:
        if name in FIELDS:
            object.__getattribute__(self, "noted").add(name)
        elif name == "__dict__":
            object.__getattribute__(self, "noted").update(FIELDS)
        return object.__getattribute__(self, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Component) and all(getattr(self, name) == getattr(other, name) for name in FIELDS)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in FIELDS))

    def __reduce__(self) -> tuple[type[Component], tuple[Any, ...]]:
        """Copies are plain components."""
        return Component, tuple(getattr(self, name) for name in FIELDS)


class NotingMoment(Moment):
    """A moment that notes what is read of components by way of itself."""

    @classmethod
    def of(cls, now: Moment, memory: Memory, components: tuple[NotingComponent, ...]) -> "NotingMoment":
        """A moment with other components, of which something is remembered."""
        made = object.__new__(cls)
        vars(made).update(vars(now), components=components, _memory=memory, _computed={})
        return made

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name == "components":  # who looks at all components may find out which of them is asked for, and so its name
            for component in value:
                component.noted.add("name")
        return value

    def nearness(self, component: Component) -> tuple[Nearness, ...]:
        """How near the component was to what grew: that is read of it, and not its name."""
        if isinstance(component, NotingComponent):
            component.noted.add(NEARNESS)
            component = component.plain
        return super().nearness(component)


class Evaluation:
    """The values of a factor for the components that it acts on, as long as structure and growth log stand.

    The factor is evaluated for one component of each class of those that are alike in all that it has ever read of one.
    Being a pure function it reads the same of the others, and comes to the same value. One that reads names, or
    compares components, is evaluated for each.

    Args:
        factor: The factor.
        components: Those that it acts on, in order of depth.
        log: The growth log.
    """

    def __init__(self, factor: Evaluated, components: Sequence[Component], log: tuple[GrowthEvent, ...]) -> None:
        self._factor = factor
        self._components = tuple(components)
        self._memory = Memory(log, self._components)
        self._noting = tuple(map(NotingComponent.of, components))
        self._read: set[str] = set()
        self._first, self._classes = self._classify(0)

    def values(self, now: Moment) -> NDArray[np.float64]:
        """The factor of each component."""
        while len(self._first) < len(self._components):
            view = NotingMoment.of(now, self._memory, self._noting)
            found = [self._factor.checked(self._noting[index], view) for index in self._first]
            new = {name for index in self._first for name in self._noting[index].noted} - self._read
            if not new:
                return np.array(found, dtype=np.float64)[self._classes]
            self._read |= new
            self._first, self._classes = self._classify(now.clock.generation)
        plain = replace(now, components=self._components)
        vars(plain).update(_memory=self._memory)
        return np.array([self._factor.checked(component, plain) for component in self._components], dtype=np.float64)

    def _classify(self, generation: int) -> tuple[list[int], NDArray[np.intp]]:
        """The first component of each class, and the number of the class of each component."""
        keys: Mapping[str, Callable[[Component], Any]] = {
            **{name: attrgetter(name) for name in FIELDS},
            NEARNESS: lambda component: self._memory.nearness(component, generation),
        }
        read = [keys[name] for name in sorted(self._read)]
        first: dict[tuple[Any, ...], int] = {}
        classes = []
        for index, component in enumerate(self._components):
            key = tuple([get(component) for get in read])
            classes.append(first.setdefault(key, index))
        numbers = {index: number for number, index in enumerate(first.values())}
        return list(first.values()), np.array([numbers[index] for index in classes], dtype=np.intp)
