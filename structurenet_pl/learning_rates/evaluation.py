"""Evaluates a factor once for all components that are alike to it.

A network may have a thousand components, but most factors read only one or two fields of a component, such as its depth
or its birth. A factor is a pure function, so components that agree in all fields that it reads have the same factor:
they form a class, and one evaluation counts for the whole class.

The fields are found by watching: the factor is given a ``RecordingComponent``, which records the fields that are
read. At first all components form one class. Whenever an evaluation reads a field that has not been read before, the
classes are split by this field and evaluated anew. A factor that reads names, or the list of all components, ends up
with one class for each component, and costs what a loop over the components would cost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.learning_rates.moment import GrowthCache, Moment, Nearness
from structurenet_pl.structure.events import Component, GrowthEvent

FIELDS = tuple(field.name for field in fields(Component))
NEARNESS = "nearness"  # is recorded like a field: components with equal nearness are alike, whatever their names


class Evaluated(Protocol):
    """A factor, as far as it is evaluated here."""

    def checked(self, component: Component, now: Moment) -> float:
        """The factor of a component."""


class RecordingComponent(Component):
    """A component that records which of its fields are read.

    It equals the component that it stands for. A comparison, a hash or a copy reads all fields.
    """

    fields_read: set[str]
    component: Component

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A plain component: ``dataclasses.replace`` calls the class, and has read all fields by then."""
        return Component(*args, **kwargs)

    @classmethod
    def of(cls, component: Component) -> "RecordingComponent":
        """A recording component that stands for a plain one."""
        # past __new__, which makes plain components, and past the __setattr__ of a frozen dataclass
        made = object.__new__(cls)
        object.__getattribute__(made, "__dict__").update(vars(component), fields_read=set(), component=component)
        return made

    def __getattribute__(self, name: str) -> Any:
        if name in FIELDS:
            object.__getattribute__(self, "fields_read").add(name)
        elif name == "__dict__":  # vars(), copy and pickle see all fields at once
            object.__getattribute__(self, "fields_read").update(FIELDS)
        return object.__getattribute__(self, name)

    def __eq__(self, other: object) -> bool:
        # the __eq__ of a dataclass refuses another class
        return isinstance(other, Component) and all(getattr(self, name) == getattr(other, name) for name in FIELDS)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in FIELDS))

    def __reduce__(self) -> tuple[type[Component], tuple[Any, ...]]:
        """Copies and pickles are plain components."""
        return Component, tuple(getattr(self, name) for name in FIELDS)


class RecordingMoment(Moment):
    """A moment that records the reads of components that go through the moment."""

    @classmethod
    def of(cls, now: Moment, cache: GrowthCache, components: tuple[RecordingComponent, ...]) -> "RecordingMoment":
        """A recording moment that stands for a plain one, with other components and a cache from earlier moments."""
        made = object.__new__(cls)
        vars(made).update(vars(now), components=components, _cache=cache, _computed={})
        return made

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name == "components":  # compared with this list by identity, a component shows which one it is: its name
            for component in value:
                component.fields_read.add("name")
        return value

    def nearness(self, component: Component) -> tuple[Nearness, ...]:
        """How near the component was to what grew: this is recorded as read, but not the name, which it follows from.

        Names would put each component into a class of its own.
        """
        if isinstance(component, RecordingComponent):
            component.fields_read.add(NEARNESS)
            component = component.component
        return super().nearness(component)


class Evaluation:
    """The values of a factor for the components that it acts on, while structure and growth log stay the same.

    Args:
        factor: The factor.
        components: The components that it acts on, in order of depth.
        log: The growth log.
        cohorts: The cohorts that it acts on. The factor is asked for a cohort as for a component, but a moment lists
            components only.
    """

    def __init__(
        self,
        factor: Evaluated,
        components: Sequence[Component],
        log: tuple[GrowthEvent, ...],
        cohorts: Sequence[Component] = (),
    ) -> None:
        self._factor = factor
        self._listed = tuple(components)
        self._components = (*components, *cohorts)
        self._cache = GrowthCache(log, self._listed)
        self._recording = tuple(map(RecordingComponent.of, self._components))
        self._fields_read: set[str] = set()  # in all evaluations so far: it only grows
        self._representatives, self._classes = self._classify(0)

    def values(self, now: Moment) -> NDArray[np.float64]:
        """The factor of each component, then of each cohort."""
        while len(self._representatives) < len(self._components):
            moment = RecordingMoment.of(now, self._cache, self._recording[: len(self._listed)])
            values = [self._factor.checked(self._recording[index], moment) for index in self._representatives]
            read = {name for index in self._representatives for name in self._recording[index].fields_read}
            if read <= self._fields_read:
                return np.array(values, dtype=np.float64)[self._classes]
            self._fields_read |= read
            self._representatives, self._classes = self._classify(now.clock.generation)
        # each component is a class of its own: nothing is left to record
        plain = replace(now, components=self._listed)
        vars(plain).update(_cache=self._cache)  # in place of the cached property, which would make a new one each time
        return np.array([self._factor.checked(component, plain) for component in self._components], dtype=np.float64)

    def _classify(self, generation: int) -> tuple[list[int], NDArray[np.intp]]:
        """The index of the first component of each class, and the number of the class of each component."""
        keys: Mapping[str, Callable[[Component], Any]] = {
            **{name: attrgetter(name) for name in FIELDS},
            NEARNESS: lambda component: self._cache.nearness(component, generation),
        }
        read = [keys[name] for name in sorted(self._fields_read)]
        representatives: dict[tuple[Any, ...], int] = {}
        classes = []
        for index, component in enumerate(self._components):
            key = tuple([get(component) for get in read])
            classes.append(representatives.setdefault(key, index))
        numbers = {index: number for number, index in enumerate(representatives.values())}
        return list(representatives.values()), np.array([numbers[index] for index in classes], dtype=np.intp)
