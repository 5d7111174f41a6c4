"""What one growth has changed, in a few lines: the event, what is new, and which learning rates moved."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from structurenet_pl.engine.driver import Driver
from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.group_lrs import GroupLR, group_lrs
from structurenet_pl.monitoring.rates_table import equation
from structurenet_pl.structure.events import Component, GrowthEvent
from structurenet_pl.structure.listed_names import listed


def growth_report(
    trainer: Trainer, driver: Driver, event: GrowthEvent, before: Sequence[Component]
) -> list[RenderableType]:
    """A line on the event, and a row for each thing that it has changed.

    What is new is shown with its learning rate. The learning rate of what is old is compared with the one that it would
    have at this moment without the event: neighbours are named, all others are counted.

    Args:
        trainer: The Trainer, in a fit.
        driver: Its driver.
        event: The last growth event.
        before: The components before the event, in order of depth.
    """
    entries = [entry for optimizer in driver.tables for entry in group_lrs(trainer, driver, optimizer) if entry.leads]
    number = event.clock.generation
    new = {entry.component.name: entry for entry in entries if entry.component.born.generation == number}
    rows = []
    for kind, names in event.outcome.items():
        rows += [(kind, line) for line in _by_text((name, _about_new(new.get(name))) for name in names)]
    old = [entry for entry in entries if entry.component.born.generation < number]
    changes = _changes(trainer, driver, before, old)
    neighbours = {*event.adjacent, *event.widened}
    for word in ("slower", "faster"):
        moved = [change for change in changes if change.word == word]
        near = [change for change in moved if change.entry.component.name in neighbours]
        rows += [(word, line) for line in _by_text((change.entry.title, f": {change}") for change in near)]
        if far := [change for change in moved if change not in near]:
            reasons = {change.moved for change in far}
            rows.append((word, f"{len(far)} further away{f': {reasons.pop()}' if len(reasons) == 1 else ''}"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for kind, line in rows:
        table.add_row(Text(f"  {kind}"), Text(line))
    asked_by = {None: "", "user": ", by user code"}.get(event.asked_by, f", by {event.asked_by}")
    return [Text(f"Growth {number}, from {event.clock} on: {event.called}{asked_by}", style="bold"), table]


@dataclass(frozen=True)
class _Change:
    """An old component, or cohort, whose learning rate has moved.

    Args:
        entry: Its learning rate now.
        before: Its factors without the growth event, of those that need no gradients.
    """

    entry: GroupLR
    before: dict[str, float]

    @property
    def word(self) -> str:
        """Whether it is slower or faster now; empty if its factors have the same product."""
        was, now = prod(self.before.values()), prod(self.entry.factors[label] for label in self.before)
        return "slower" if now < was else "faster" if now > was else ""

    @property
    def moved(self) -> str:
        """The factors that have changed."""
        now = self.entry.factors
        return ", ".join(
            f"{label} {was:.3g} → {now[label]:.3g}" for label, was in self.before.items() if was != now[label]
        )

    def __str__(self) -> str:
        lr = "frozen" if self.entry.frozen else f"lr {self.entry.lr:.3g}"
        return f"{lr}, {self.moved}"


def _changes(
    trainer: Trainer, driver: Driver, before: Sequence[Component], entries: Iterable[GroupLR]
) -> list[_Change]:
    """The entries with the factors that they would have at this moment without the last growth event.

    Factors are pure functions, so they can be asked about a moment that never was.
    """
    now = driver.moment(trainer)
    clock = replace(now.clock, generation=now.clock.generation - 1)
    then = replace(now, clock=clock, log=now.log[:-1], components=())
    known = {component.name: component for component in before}
    changes = [_Change(entry, {}) for entry in entries if entry.component.name in known]
    optimizer_of = driver.factors.optimizer_of
    for label, factor in driver.factors.items():
        if not factor.needs_gradients:  # else it has no value between two steps
            acting = driver.factors.by_optimizer(filter(factor.acts_on, before))  # as in a fit
            moments = {number: replace(then, components=some) for number, some in acting.items()}
            for change in changes:
                component, was = change.entry.component, known[change.entry.component.name]
                # a cohort is asked about as itself, at the depth and with the shapes that its component had
                asked = replace(component, depth=was.depth, shapes=was.shapes)
                moment = moments.get(optimizer_of.get(asked.name), then)
                change.before[label] = factor.checked(asked, moment) if factor.acts_on(asked) else 1.0
    return changes


def _about_new(entry: GroupLR | None) -> str:
    """Role and learning rate of a new component or of new entries; empty if there is nothing that differs."""
    if entry is None:
        return ""
    role = f" ({entry.component.role})" if entry.component.role else ""
    return f"{role}: {'new entries have ' * (entry.cohort is not None)}{equation(entry)}"


def _by_text(named: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each text, in front of it all names that it is about."""
    texts: dict[str, list[str]] = {}
    for name, text in named:
        texts.setdefault(text, []).append(name)
    return [f"{listed(names)}{text}" for text, names in texts.items()]
