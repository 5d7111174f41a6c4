"""Which steps of a run its log may not miss: corners of the curves."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from structurenet_pl.looking.rates import Reading
from structurenet_pl.looking.rows import Row

Factors = Mapping[str, Mapping[str, float]]  # by param group and label
STILL = 1e-6  # relative change within a step; what fades away exponentially comes to rest there, once and for all


@dataclass
class _Step:
    """A step of an optimizer, with which the next one is compared."""

    generation: int
    frozen: frozenset[str]
    factors: Factors
    moving: frozenset[tuple[str, str]]
    unwritten: Callable[[], Row] | None  # makes its row, which is work that most steps are spared


class Corners:
    """Decides at each step of each optimizer which rows are to be written.

    Straight lines between the rows are to show what the factors did: where one starts to change, the step before is a
    corner, and a jump or the start of a ramp is seen at once; where it comes to rest, the step before is one, too.
    """

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}

    @property
    def begun(self) -> bool:
        """Whether any step has been taken."""
        return bool(self._steps)

    def unwritten(self) -> list[Row]:
        """The row of the last step of each optimizer, unless it was to be written."""
        return [step.unwritten() for step in self._steps.values() if step.unwritten is not None]

    def turn(
        self, optimizer: int, reading: Reading, make: Callable[[], Row], due: bool, ignored: Collection[str]
    ) -> list[tuple[Row, bool]]:
        """The rows to be written now, of the step before or of this one, and whether they are corners.

        Args:
            optimizer: Number of the optimizer that takes the step.
            reading: What stands in it.
            make: Makes the row of this step.
            due: Whether it is to be written in any case.
            ignored: Labels of factors that change all the time.
        """
        before = self._steps.get(optimizer)
        factors, frozen, generation = reading.rates.factors, reading.frozen.components, reading.now.clock.generation
        moves: frozenset[tuple[str, str]] = frozenset()
        rows: list[tuple[Row, bool]] = []
        news = True
        if before is not None:
            moves = _moving(before.factors, factors, ignored)
            changed = (generation, frozen) != (before.generation, before.frozen)
            news = changed or not moves <= before.moving
            if before.unwritten is not None and (news or moves != before.moving):
                rows.append((before.unwritten(), True))
        if written := due or news:
            rows.append((make(), news))
        self._steps[optimizer] = _Step(generation, frozen, factors, moves, None if written else make)
        return rows

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs in order to go on, plain values."""
        return {
            str(optimizer): {
                "generation": step.generation,
                "frozen": sorted(step.frozen),
                "factors": {
                    group: {label: float(value) for label, value in factors.items()}
                    for group, factors in step.factors.items()
                },
                "moving": [list(pair) for pair in sorted(step.moving)],
                "unwritten": None if step.unwritten is None else _plain(step.unwritten()),
            }
            for optimizer, step in self._steps.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self._steps = {
            int(optimizer): _Step(
                step["generation"],
                frozenset(step["frozen"]),
                step["factors"],
                frozenset((group, label) for group, label in step["moving"]),
                None if step["unwritten"] is None else partial(_row, step["unwritten"]),
            )
            for optimizer, step in state.items()
        }


def _moving(before: Factors, after: Factors, ignored: Collection[str]) -> frozenset[tuple[str, str]]:
    """Group and label of the factors that have changed from one step to the next, but for ignored labels."""
    if before == after:  # mostly the very same objects, which costs next to nothing
        return frozenset()
    return frozenset(
        (group, label)
        for group, factors in after.items()
        if (known := before.get(group, factors)) is not factors
        for label, value in factors.items()
        if label not in ignored and abs(value - known.get(label, value)) > STILL * value
    )


def _plain(row: Row) -> dict[str, Any]:
    return {**asdict(row), "frozen": sorted(row.frozen)}


def _row(saved: Mapping[str, Any]) -> Row:
    return Row(saved["step"], saved["scalars"], saved["lrs"], frozenset(saved["frozen"]))
