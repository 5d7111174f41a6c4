"""Curves in TensorBoard without the points inside level stretches, and all points of a row in one event."""

import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from structurenet_pl.lightning import TENSORBOARD_LOGGERS
from structurenet_pl.monitoring.tensorboard import tag_prefix

Points = Mapping[int, Mapping[str, float]]  # value by tag, by step


REPEATS = 4  # points after a move: TensorBoard's line, smoothed by 0.6 at first, needs these to reach the new level


class SparseCurves:
    """Holds back a point until its curve moves, and gives it then, as the end of a level stretch.

    The lines between the points that are given are the lines between all points. Most numbers of most rows are level:
    base lrs, ages, and factors between two changes.

    Args:
        together: Tags whose curves have the same points.

    Example:
        >>> curves = SparseCurves()
        >>> [curves.add({"lr": lr}, step) for step, lr in enumerate([0.1, 0.1, 0.1, 0.2])]
        [{0: {'lr': 0.1}}, {}, {}, {2: {'lr': 0.1}, 3: {'lr': 0.2}}]
    """

    def __init__(self, together: Collection[str] = ()) -> None:
        self._together = together
        self._values: dict[str, float] = {}  # of the last point of each tag
        self._held: dict[str, int] = {}  # steps of the last points that are held back
        self._repeats: dict[str, int] = {}  # how many more points are given of tags that have moved

    def add(self, row: Mapping[str, float], step: int) -> Points:
        """Add a point to each curve, and return those to write.

        Args:
            row: Value by tag.
            step: Their step.
        """
        known = self._values.get
        given = {tag: value for tag, value in row.items() if known(tag) != value}
        if not given.keys().isdisjoint(self._together):
            given |= {tag: row[tag] for tag in self._together}
        repeated = [tag for tag in self._repeats if tag in row and tag not in given]
        self._repeats |= dict.fromkeys(given.keys() & self._values.keys(), REPEATS)
        points: dict[int, dict[str, float]] = defaultdict(dict)
        for tag in self._held.keys() & given.keys():
            points[self._held.pop(tag)][tag] = self._values[tag]
        for tag in repeated:
            given[tag] = row[tag]
            self._repeats[tag] -= 1
            if not self._repeats[tag]:
                del self._repeats[tag]
        if given:
            points[step] = given
        self._held |= dict.fromkeys(row.keys() - given.keys(), step)
        self._values |= given
        return dict(points)

    def end(self) -> Points:
        """Return the points that are held back, and begin all curves anew."""
        points: dict[int, dict[str, float]] = defaultdict(dict)
        for tag, step in self._held.items():
            points[step][tag] = self._values[tag]
        self._values, self._held, self._repeats = {}, {}, {}  # not cleared: a copy of the callback may share them
        return points


def write_points(logger: Any, points: Points) -> None:
    """Write points to TensorBoard.

    Args:
        logger: A ``TensorBoardLogger``.
        points: What to write.
    """
    for step, row in sorted(points.items()):
        if _writes_plain_scalars(logger):
            _write_event(logger, row, step)
        else:
            logger.log_metrics(dict(row), step=step)


def _writes_plain_scalars(logger: Any) -> bool:
    """Whether the logger would call ``add_scalar`` of torch's writer for each tag; a subclass may do otherwise."""
    # tensorboardX may stand in for torch's module, which is then not imported
    torch_module = sys.modules.get("torch.utils.tensorboard")
    is_torchs = torch_module is not None and type(logger.experiment) is torch_module.SummaryWriter
    return is_torchs and type(logger) in TENSORBOARD_LOGGERS


def _write_event(logger: Any, row: Mapping[str, float], step: int) -> None:
    """Write what ``add_scalar`` would write for all tags, in one event, which takes a tenth of the time."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # not everybody has it

    prefix = tag_prefix(logger)
    values = [Summary.Value(tag=f"{prefix}{tag}", simple_value=value) for tag, value in row.items()]
    # no public method takes several scalars of one file; this one opens a closed file again, as in add_scalar
    logger.experiment._get_file_writer().add_summary(Summary(value=values), step)
