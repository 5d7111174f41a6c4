"""The moment that a factor sees: time, growth log, components and measurements. Standard library only."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar, cast

from structurenet_pl.structure.events import Clock, Component, GrowthEvent, lineage


class Norms(NamedTuple):
    """Euclidean norms over the tensors of one component that have a gradient.

    Args:
        weight: Norm of the parameters.
        grad: Norm of their gradients.
        decay: Norm of the coupled weight decay term, ``weight_decay * weight``.
    """

    weight: float
    grad: float
    decay: float


def no_norms(component: Component, skip_1d: bool) -> Norms:
    """Takes the place of the norms at a moment without gradients, and raises."""
    raise RuntimeError(
        f"the norms of {component.name!r} were read, but they are known between backward and update only: set "
        "`needs_gradients = True` on the factor, which is then evaluated there"
    )


def no_density(component: Component) -> float | None:
    """Takes the place of the density where there are no tensors, and raises."""
    raise RuntimeError(
        f"the density of {component.name!r} was read, but it is known in a fit only: give Moment(density=...)"
    )


Nearness = Literal["grown", "adjacent", "distant"]


class GrowthCache:
    """Facts that follow from a growth log and components, computed once for all moments that have these.

    Args:
        log: The growth log.
        components: The components in order of depth.
    """

    def __init__(self, log: tuple[GrowthEvent, ...], components: tuple[Component, ...]) -> None:
        self._log = log
        self._components = components
        self._lifetimes: dict[tuple[int, int], tuple[GrowthEvent, ...]] = {}
        self._nearness: dict[tuple[str, int, int], tuple[Nearness, ...]] = {}

        self.computed: dict[object, Any] = {}  # see Moment.once_per_growth

    @cached_property
    def _indices(self) -> dict[int, int]:
        depths = sorted({component.depth for component in self._components})
        return {depth: index for index, depth in enumerate(depths)}

    def rank(self, depth: int) -> tuple[int, int]:
        """Index of a depth among the distinct depths of the components, and how many there are, this one included."""
        if depth in self._indices:
            return self._indices[depth], len(self._indices)
        return sum(other < depth for other in self._indices), len(self._indices) + 1

    def lifetime(self, birth: int, now: int) -> tuple[GrowthEvent, ...]:
        """The growth events from one generation to another, both included."""
        if (birth, now) not in self._lifetimes:
            first = max(1, birth)
            events = tuple(event for event in self._log if first <= event.clock.generation <= now)
            self._lifetimes[birth, now] = events
        return self._lifetimes[birth, now]

    def nearness(self, component: Component, now: int) -> tuple[Nearness, ...]:
        """How near a component was to the growth, in each event of its lifetime."""
        key = component.name, component.born.generation, now  # a name may have belonged to a removed component before
        if key not in self._nearness:
            name, paths = component.name, set(lineage(component.name))
            self._nearness[key] = tuple(
                # the entries that a widening added are a cohort, born in that event; the old entries are next to them
                "grown"
                if event.clock.generation == component.born.generation or not paths.isdisjoint(event.born)
                else "adjacent"
                if name in event.widened or name in event.adjacent
                else "distant"
                for event in self.lifetime(component.born.generation, now)
            )
        return self._nearness[key]


T = TypeVar("T")


@dataclass(frozen=True)
class Moment:
    """All facts that a factor may use: the time, the growth so far, the components and their measurements.

    Args:
        clock: The time.
        log: The growth log.
        components: The components in order of depth; for a factor in a fit, those of the component's optimizer that
            the factor acts on.
        norms: ``norms(component, skip_1d)`` gives its norms; known between backward and update, and only to
            factors with ``needs_gradients``.
        density: ``density(component)`` gives the share of its connections that exist, None if it has none.
    """

    clock: Clock = field(default_factory=Clock)
    log: tuple[GrowthEvent, ...] = ()
    components: tuple[Component, ...] = ()
    norms: Callable[[Component, bool], Norms] = no_norms
    density: Callable[[Component], float | None] = no_density

    @cached_property
    def _cache(self) -> GrowthCache:
        return GrowthCache(self.log, self.components)

    @cached_property
    def _computed(self) -> dict[object, Any]:
        return {}

    def age(self, component: Component) -> Clock:
        """How long the component has been able to train, in every unit.

        Example:
            >>> Moment(Clock(step=70, epoch=7)).age(Component("patches.0", born=Clock(step=50, epoch=5)))
            Clock(step=20, epoch=2, generation=0)
        """
        return self.clock.since(component.born)

    def events_since_birth(self, component: Component) -> tuple[GrowthEvent, ...]:
        """The growth events of the component's lifetime up to now, its own included."""
        return self._cache.lifetime(component.born.generation, self.clock.generation)

    def nearness(self, component: Component) -> tuple[Nearness, ...]:
        """How near the component was to the growth, in each of these events.

        Example:
            >>> event = GrowthEvent("add", {}, Clock(generation=1), born=("patch",), adjacent=("stem",))
            >>> now = Moment(Clock(generation=1), (event,))
            >>> [now.nearness(Component(name)) for name in ("patch", "stem", "head")]
            [('grown',), ('adjacent',), ('distant',)]
        """
        return self._cache.nearness(component, self.clock.generation)

    def rank(self, component: Component) -> tuple[int, int]:
        """Index of the component's depth among the distinct depths of the components, and how many there are.

        In a fit, these are the components of one optimizer that the factor acts on.

        Example:
            >>> stem, patch, head = Component("stem"), Component("patches.0", depth=3), Component("head", depth=9)
            >>> Moment(components=(stem, patch, head)).rank(patch)
            (1, 3)
        """
        return self._cache.rank(component.depth)

    def once(self, key: object, compute: Callable[["Moment"], T]) -> T:
        """The result of a function of this moment that is the same for all components, computed once.

        Args:
            key: Identifies the result, such as the factor itself.
            compute: A pure function of the moment.

        Example:
            >>> now = Moment(Clock(step=70))
            >>> [now.once("tenths", lambda now: now.clock.step / 10) for _ in range(2)]
            [7.0, 7.0]
        """
        if key not in self._computed:
            self._computed[key] = compute(self)
        return cast(T, self._computed[key])

    def once_per_growth(self, key: object, compute: Callable[[], T]) -> T:
        """The result of a function of the growth so far, computed once until the network grows again.

        Args:
            key: Identifies the result: the factor itself and all that the function depends on, beside the growth.
            compute: A function that depends on neither the time nor the component, except through the key.

        Example:
            >>> event = GrowthEvent("add", {}, Clock(step=10, generation=1))
            >>> now = Moment(Clock(step=12, generation=1), log=(event,))
            >>> [now.once_per_growth("steps", lambda: [event.clock.step for event in now.log]) for _ in range(2)]
            [[10], [10]]
        """
        computed, key = self._cache.computed, (key, self.clock.generation)
        if key not in computed:
            computed[key] = compute()
        return cast(T, computed[key])
