"""Learning rates as a table that fits the width of a console: what says least is dropped first."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

from structurenet_pl.monitoring.group_lrs import GroupLR

GAP = 2  # characters between two columns
INDENT = 4  # characters, of the second line of a learning rate in words


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        name: Its name.
        cells: Its text in each row.
        numbers: Whether the texts are numbers, which stand at the right.
        drop_order: Columns with a lower number are dropped first from a table that is too wide; None: never.
    """

    name: str
    cells: Sequence[str]
    numbers: bool = False
    drop_order: int | None = None

    @cached_property
    def heading(self) -> list[str]:
        """Its name on several lines: each word on its own, and SedimentaryDecay on two."""
        return re.sub(r" |(?<=[a-z])(?=[A-Z])", "\n", self.name).split("\n")

    @cached_property
    def width(self) -> int:
        """Characters of its widest text."""
        return max(map(cell_len, (*self.heading, *self.cells)))

    def padded(self, texts: Sequence[str]) -> list[str]:
        """Texts that are all as wide as the column."""
        pads = [" " * (self.width - cell_len(text)) for text in texts]
        return [pad + text if self.numbers else text + pad for pad, text in zip(pads, texts, strict=True)]

    @property
    def uniform(self) -> bool:
        """Whether all rows have the same text."""
        return len(set(self.cells)) == 1

    def droppable_if_uniform(self, drop_order: int) -> "Column":
        """The same column; it may be dropped if all rows have the same text."""
        return replace(self, drop_order=drop_order) if self.uniform else self


@dataclass(frozen=True)
class FixedTable:
    """A table whose columns are as wide as their widest text.

    A ``rich.table.Table`` measures and renders each cell several times, a second for a thousand rows.

    Args:
        columns: Its columns.
    """

    columns: Sequence[Column]

    @property
    def width(self) -> int:
        """Characters of a line."""
        return sum(column.width for column in self.columns) + GAP * (len(self.columns) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The headings, a rule, and a line for each row."""
        height = max((len(column.heading) for column in self.columns), default=0)  # no columns: no group has an lr
        above = self._lines([[""] * (height - len(column.heading)) + column.heading for column in self.columns])
        yield Segment(above, console.get_style("bold"))
        yield Segment(("-" if options.ascii_only else "─") * self.width + "\n")
        yield Segment(self._lines([column.cells for column in self.columns]))

    def _lines(self, texts: Sequence[Sequence[str]]) -> str:
        """The texts of all columns side by side."""
        padded = (column.padded(of_column) for column, of_column in zip(self.columns, texts, strict=True))
        return "".join(f"{(' ' * GAP).join(line)}\n" for line in zip(*padded, strict=True))


def rates_table(entries: Sequence[GroupLR], console: Console) -> list[RenderableType]:
    """The learning rates as a table no wider than the console, followed by a line on what had no room in it.

    A narrow table drops the numbers of parameters, the depths, factors and base lrs that are the same for all,
    strata and ages, in this order, until it fits. If it does not fit even then, each learning rate is written in words,
    on as many lines as it needs.

    Args:
        entries: The learning rates.
        console: The console that they are printed to.
    """
    rows = one_row_for_equal_groups(entries)
    columns = [column for column in _columns(rows) if any(column.cells)]
    orders = sorted({column.drop_order for column in columns if column.drop_order is not None})
    for last in (0, *orders):
        dropped = [column for column in columns if column.drop_order is not None and column.drop_order <= last]
        shown = [column for column in columns if column not in dropped]
        table = FixedTable(shown)
        if table.width <= console.width:
            return [table, *_notes_on(dropped)]
    return [line for row in rows for line in _in_words(row)]


def one_row_for_equal_groups(entries: Sequence[GroupLR]) -> list[GroupLR]:
    """One entry in place of the groups of a component, such as decay and no decay, that differ in name and size only.

    Args:
        entries: An entry for each group or cohort.

    Returns:
        Entries with the name of their row in place of the name of their group.
    """
    alike: dict[tuple[Any, ...], list[GroupLR]] = {}
    for entry in entries:
        factors = tuple(entry.factors.items())
        effect = entry.lr, entry.stratum, entry.frozen, entry.trained
        key = entry.component.name, entry.cohort, entry.base_lr, factors, effect
        alike.setdefault(key, []).append(entry)
    rows_of = Counter((component, cohort) for component, cohort, *_ in alike)
    rows = []
    for (component, cohort, *_), groups in alike.items():
        first, name = groups[0], component
        if rows_of[component, cohort] > 1:
            name += ", ".join(group.group.removeprefix(name) for group in groups)
        if first.cohort is not None:
            name += f"@{first.title.rpartition('@')[2]}"
        rows.append(replace(first, group=name, parameters=sum(group.parameters for group in groups)))
    return rows


def equation(entry: GroupLR) -> str:
    """A learning rate in words: base lr times the factors that are not 1.

    Args:
        entry: The learning rate.
    """
    if (reason := _reason_without_effect(entry)) is not None:
        return reason
    acting = [f" × {factor:.3g} {label}" for label, factor in entry.factors.items() if factor != 1]  # noqa: RUF001
    return f"lr {entry.lr:.3g} = {entry.base_lr:.3g}{''.join(acting)}" if acting else f"lr {entry.lr:.3g} = base lr"


def _columns(rows: Sequence[GroupLR]) -> list[Column]:
    """All columns, in the order in which a wide console shows them."""
    labels = list(dict.fromkeys(label for row in rows for label in row.factors))
    factors = [
        Column(label, [f"{row.factors[label]:.3g}" if label in row.factors else "" for row in rows], numbers=True)
        for label in labels
    ]
    return [
        Column("component", [row.group for row in rows]),
        Column("role", [row.component.role or "" for row in rows]),
        Column("stratum", [row.stratum or "" for row in rows], drop_order=5),
        Column("depth", [str(row.component.depth) for row in rows], numbers=True, drop_order=2),
        Column("age (epochs)", [str(row.age.epoch) for row in rows], numbers=True, drop_order=6),
        Column("params", [f"{row.parameters:,}" for row in rows], numbers=True, drop_order=1),
        Column("base lr", [f"{row.base_lr:.3g}" for row in rows], numbers=True).droppable_if_uniform(drop_order=4),
        *(factor.droppable_if_uniform(drop_order=3) for factor in factors),
        Column("effective lr", [_reason_without_effect(row) or f"{row.lr:.3g}" for row in rows], numbers=True),
    ]


def _reason_without_effect(entry: GroupLR) -> str | None:
    """Why an lr has no effect, None if it has."""
    if entry.frozen:
        return "frozen"
    return None if entry.trained else "not trained"


def _notes_on(dropped: Sequence[Column]) -> list[RenderableType]:
    """What dropped columns would say: one line for those with the same text in all rows, and one for the rest."""
    uniform = [f"{column.name} {column.cells[0]}" for column in dropped if column.uniform]
    others = [column.name for column in dropped if not column.uniform]
    notes = [("all components: ", uniform), ("in a wider terminal: ", others)]
    return [Text(f"{words}{', '.join(names)}") for words, names in notes if names]


def _in_words(row: GroupLR) -> list[RenderableType]:
    """A learning rate on two lines, or on more if the console is narrower than these."""
    facts = [row.component.role, row.stratum, f"age {row.age.epoch}"]
    known = dict.fromkeys(fact for fact in facts if fact)  # a role with a factor of its own is its stratum
    return [Text(f"{row.group} ({', '.join(known)})"), Padding(Text(equation(row)), (0, 0, 0, INDENT))]
