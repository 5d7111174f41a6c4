"""Learning rates as a table that fits the width of a console: what says least is left out first."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from structurenet_pl.monitoring.group_lrs import GroupLR

UNLIMITED_WIDTH = 10_000  # characters, more than any table needs
INDENT = 4  # characters, of the second line of a learning rate in words


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        name: Its name.
        cells: Its text in each row.
        justify: ``"left"`` for words, ``"right"`` for numbers.
        turn: Columns are left out of a narrow table by their turn, the lowest first; None: never.
    """

    name: str
    cells: Sequence[str]
    justify: Literal["left", "right"] = "left"
    turn: int | None = None

    @property
    def uniform(self) -> bool:
        """Whether all rows have the same text."""
        return len(set(self.cells)) == 1

    def unless_needed(self, turn: int) -> "Column":
        """The same column, to be left out by its turn if all rows have the same text."""
        return replace(self, turn=turn) if self.uniform else self


def rates_table(entries: Sequence[GroupLR], console: Console) -> list[RenderableType]:
    """The learning rates as a table no wider than the console, followed by a line on what had no room in it.

    A narrow table leaves out the numbers of parameters, the depths, factors and base lrs that are the same for all,
    strata and ages, in this order, until it fits. If it does not fit even then, each learning rate is written in words,
    on as many lines as it needs.

    Args:
        entries: The learning rates.
        console: The console that they are printed to.
    """
    rows = one_row_for_equal_groups(entries)
    columns = [column for column in _columns(rows) if any(column.cells)]
    turns = sorted({column.turn for column in columns if column.turn is not None})
    unlimited = console.options.update(max_width=UNLIMITED_WIDTH)
    for last in (0, *turns):
        left_out = [column for column in columns if column.turn is not None and column.turn <= last]
        shown = [column for column in columns if column not in left_out]
        # a row of the widest cells is as wide as the table, and is measured in no time
        widest = _table([replace(column, cells=[max(column.cells, key=cell_len)]) for column in shown])
        if console.measure(widest, options=unlimited).maximum <= console.width:
            return [_table(shown), *_notes_on(left_out)]
    return [line for row in rows for line in _in_words(row)]


def one_row_for_equal_groups(entries: Sequence[GroupLR]) -> list[GroupLR]:
    """One entry in place of the groups of a component, such as decay and no decay, that differ in name and size only.

    Args:
        entries: An entry for each group or cohort.

    Returns:
        Entries with the name of their row in place of the name of their group.
    """
    alike: dict[tuple[object, ...], list[GroupLR]] = {}
    for entry in entries:
        factors = tuple(entry.factors.items())
        key = entry.component, entry.cohort, entry.base_lr, factors, entry.lr, entry.stratum, entry.frozen
        alike.setdefault(key, []).append(entry)
    owners = [key[:2] for key in alike]  # component and cohort of each row
    rows = []
    for owner, groups in zip(owners, alike.values(), strict=True):
        first, name = groups[0], groups[0].component.name
        if owners.count(owner) > 1:
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
    if entry.frozen:
        return "frozen"
    acting = [f" × {factor:.3g} {label}" for label, factor in entry.factors.items() if factor != 1]  # noqa: RUF001
    return f"lr {entry.lr:.3g} = {entry.base_lr:.3g}{''.join(acting)}" if acting else f"lr {entry.lr:.3g} = base lr"


def _columns(rows: Sequence[GroupLR]) -> list[Column]:
    """All columns, in the order in which a wide console shows them."""
    labels = list(dict.fromkeys(label for row in rows for label in row.factors))
    factors = [
        Column(label, [f"{row.factors[label]:.3g}" if label in row.factors else "" for row in rows], "right")
        for label in labels
    ]
    return [
        Column("component", [row.group for row in rows]),
        Column("role", [row.component.role or "" for row in rows]),
        Column("stratum", [row.stratum or "" for row in rows], turn=5),
        Column("depth", [str(row.component.depth) for row in rows], "right", turn=2),
        Column("age (epochs)", [str(row.age.epoch) for row in rows], "right", turn=6),
        Column("params", [f"{row.parameters:,}" for row in rows], "right", turn=1),
        Column("base lr", [f"{row.base_lr:.3g}" for row in rows], "right").unless_needed(turn=4),
        *(factor.unless_needed(turn=3) for factor in factors),
        Column("effective lr", ["frozen" if row.frozen else f"{row.lr:.3g}" for row in rows], "right"),
    ]


def _table(columns: Sequence[Column]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        heading = re.sub(r" |(?<=[a-z])(?=[A-Z])", "\n", column.name)  # SedimentaryDecay in two lines
        table.add_column(Text(heading), justify=column.justify, no_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, cells))  # as texts, because rich would read brackets in a string as a style
    return table


def _notes_on(left_out: Sequence[Column]) -> list[RenderableType]:
    """What columns without room would say: one line for those with the same text in all rows, and one for the rest."""
    uniform = [f"{column.name} {column.cells[0]}" for column in left_out if column.uniform]
    others = [column.name for column in left_out if not column.uniform]
    notes = [("all components: ", uniform), ("in a wider terminal: ", others)]
    return [Text(f"{words}{', '.join(names)}") for words, names in notes if names]


def _in_words(row: GroupLR) -> list[RenderableType]:
    """A learning rate on two lines, or on more if the console is narrower than these."""
    facts = [row.component.role, row.stratum, f"age {row.age.epoch}"]
    known = dict.fromkeys(fact for fact in facts if fact)  # a role with a factor of its own is its stratum
    return [Text(f"{row.group} ({', '.join(known)})"), Padding(Text(equation(row)), (0, 0, 0, INDENT))]
