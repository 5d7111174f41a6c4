"""Clocks, components and growth events as frozen data, and the growth log as JSON. Standard library only."""

import dataclasses
import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Unit = Literal["step", "epoch", "generation"]


def check_unit(unit: str) -> None:
    """Check a unit of time.

    Raises:
        ValueError: If it is none.
    """
    if unit not in get_args(Unit):
        raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, got {unit!r}")


@dataclass(frozen=True)
class Clock:
    """A point in training time, or the difference of two; as text ``"epoch 8, step 136"``, for all that people read.

    Args:
        step: Optimizer steps, ``trainer.global_step``.
        epoch: Epochs, ``trainer.current_epoch``; for a growth after the last batch of an epoch, the next epoch.
        generation: Growth events so far.
    """

    step: int = 0
    epoch: int = 0
    generation: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch}, step {self.step}"

    def count(self, unit: Unit) -> int:
        """The time in one unit."""
        return {"step": self.step, "epoch": self.epoch, "generation": self.generation}[unit]

    def truncated_to(self, unit: Unit) -> "Clock":
        """The clock with 0 in all units finer than the given one.

        Example:
            >>> Clock(step=70, epoch=7, generation=1).truncated_to("epoch")
            Clock(step=0, epoch=7, generation=1)
        """
        epoch = self.epoch if unit in ("step", "epoch") else 0
        return Clock(self.step if unit == "step" else 0, epoch, self.generation)

    def since(self, start: "Clock") -> "Clock":
        """The time since ``start`` in every unit; 0 where ``start`` is in the future."""
        return Clock(
            max(0, self.step - start.step),
            max(0, self.epoch - start.epoch),
            max(0, self.generation - start.generation),
        )


@dataclass(frozen=True)
class Component:
    """A named part of the network with its own effective learning rate: the unit of growth.

    Args:
        name: Unique name, for life: the path of the module when it was born.
        role: Its purpose, such as ``"scaffold"`` or ``"patch"``; None if nobody gave one.
        depth: Position in the network, 0 at the input.
        born: First clock at which it can train. Founding components have generation 0.
        shapes: Shapes of its parameters, in order of definition; ``()`` for a lazy one, which has no shape yet.
    """

    name: str
    role: str | None = None
    depth: int = 0
    born: Clock = field(default_factory=Clock)
    shapes: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def founding(self) -> bool:
        """Whether the component existed before the first growth event."""
        return self.born.generation == 0

    def matches(self, pattern: str) -> bool:
        """Whether ``pattern`` is its role, or matches its name or the name of a module around it."""
        return pattern == self.role or any(fnmatch.fnmatchcase(path, pattern) for path in lineage(self.name))


def lineage(path: str) -> list[str]:
    """The path of a module and of all modules around it, outermost first.

    Example:
        >>> lineage("encoder.0.weight")
        ['encoder', 'encoder.0', 'encoder.0.weight']
    """
    parts = path.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def as_list(where: str | Sequence[str] | None) -> list[str]:
    """One or many names as a list."""
    return [where] if isinstance(where, str) else list(where or ())


def format_call(method: str, arguments: Mapping[str, Any]) -> str:
    """A call of a growth method as Python code.

    Example:
        >>> format_call("add_patch", {"at": 2})
        'add_patch(at=2)'
    """
    return f"{method}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


@dataclass(frozen=True, slots=True)  # with slots, because snapshots search dataclasses that have a __dict__
class GrowthEvent:
    """One change of structure: the call, its time and its outcome.

    Args:
        method: Name of the growth method.
        arguments: Its arguments by name, plain values, enough to call it again.
        clock: The time; its generation is the number of the event, from 1.
        born: Names of the new components.
        adjacent: Names of the components next to the new or widened ones at the time of the event: those that the call
            named, else those whose depth differed by at most 1.
        role: Role of the new components, None if the growth method did not declare one.
        depth: Explicit depth of the new components, None if it follows from the order of definition.
        beside: Name of the component that was at this depth; the new ones share its depth, also when it changes.
        moved: Module paths of the components whose path is not their name, as ``{name: path}``.
        widened: Names of the components that gained entries in a tensor.
        shrunk: Names of the components that lost tensors, or entries of a tensor.
        removed: Names of the components that were removed.
        asked_by: The origin of the call: the class name of a trigger, or ``"user"`` for a direct call of the method.
        parameters: Number of parameters of the module before and after.
        births: For each tensor that was replaced, reshaped or reordered, and each of its dimensions, runs
            ``[generation, length]`` of entries born in the same event. Which entries stay may depend on data, so they
            do not follow from the call.

    Events with the same outcome at the same time are equal; ``asked_by``, ``parameters`` and ``births`` are not
    compared. Logs from before they were added have None, ``()`` and ``{}``.
    """

    method: str
    arguments: Mapping[str, Any]
    clock: Clock
    born: tuple[str, ...] = ()
    adjacent: tuple[str, ...] = ()
    role: str | None = None
    depth: int | None = None
    beside: str | None = None
    moved: Mapping[str, str] = field(default_factory=dict)
    widened: tuple[str, ...] = ()
    shrunk: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    asked_by: str | None = field(default=None, compare=False)
    parameters: tuple[int, ...] = field(default=(), compare=False)
    births: Mapping[str, Sequence[Sequence[Sequence[int]]]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def called(self) -> str:
        """The call of the growth method."""
        return format_call(self.method, self.arguments)

    @property
    def outcome(self) -> dict[str, tuple[str, ...]]:
        """The names of new, widened, shrunk and removed components, by kind; kinds without a component are left out."""
        kinds = {"born": self.born, "widened": self.widened, "shrunk": self.shrunk, "removed": self.removed}
        return {kind: names for kind, names in kinds.items() if names}


def titles(components: Iterable[Component], log: Iterable[GrowthEvent]) -> list[str]:
    """The names of components, with a number if components of the same name were removed before.

    Example:
        >>> log = [GrowthEvent("add", {}, Clock(), born=("a",)), GrowthEvent("drop", {}, Clock(), removed=("a",))]
        >>> titles([Component("a", born=Clock(generation=number)) for number in (1, 3)], log)
        ['a', 'a (2)']
    """
    removals: dict[str, list[int]] = {}
    for number, event in enumerate(log, 1):
        for name in event.removed:
            removals.setdefault(name, []).append(number)
    result = []
    for component in components:
        paths = [path for path in lineage(component.name) if path in removals] if removals else []
        before = sum(number <= component.born.generation for path in paths for number in removals[path])
        result.append(f"{component.name} ({1 + before})" if before else component.name)
    return result


def cohort_number(component: Component, generation: int) -> int | None:
    """The number of the growth event that added a cohort, None for the entries that were born with the component."""
    return None if generation == component.born.generation else generation


def cohort_title(title: str, cohort: int | None, log: Iterable[GrowthEvent]) -> str:
    """The title of a component, with the number of the growth event that added the entries of a cohort.

    An event that inserts a component in front of another names it in the same way, so a ``+`` is added if the same
    event has widened the other.

    Args:
        title: Title of the component.
        cohort: Number of the event, None for the component itself and its first entries.
        log: The growth log.

    Example:
        >>> cohort_title("body.0", None, []), cohort_title("body.0", 3, [])
        ('body.0', 'body.0@3')
        >>> cohort_title("body.0", 1, [GrowthEvent("insert", {}, Clock(), born=("body.0@1",), widened=("body.0",))])
        'body.0@1+'
    """
    if cohort is None:
        return title
    name = f"{title}@{cohort}"
    return f"{name}+" if any(name in event.born for event in log) else name


_TUPLE_FIELDS = ("born", "widened", "shrunk", "removed", "adjacent", "parameters")  # JSON gives them back as lists


def dump_log(log: Iterable[GrowthEvent]) -> str:
    """The growth log as JSON."""
    return json.dumps([dataclasses.asdict(event) for event in log])


def load_log(text: str) -> tuple[GrowthEvent, ...]:
    """The growth log that ``dump_log`` wrote.

    Example:
        >>> log = (GrowthEvent("add_patch", {"at": 2}, Clock(10, 1, 1), born=("patches.0",), role="patch"),)
        >>> load_log(dump_log(log)) == log
        True
    """
    return tuple(
        GrowthEvent(
            **{
                **entry,
                "clock": Clock(**entry["clock"]),
                **{key: tuple(value) for key, value in entry.items() if key in _TUPLE_FIELDS},
            }
        )
        for entry in json.loads(text)
    )
