"""The verdict on newborns: do they get gradients and updates as their neighbours do?"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from rich.text import Text
from torch import Tensor

from structurenet_pl.learning_rates.norms import Entries, PartNorm
from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.tensorboard import as_code, as_table, tensorboard_loggers
from structurenet_pl.monitoring.terminal import print_beside_bars
from structurenet_pl.structure.cohorts import entry_counts, generation_of_entries
from structurenet_pl.structure.events import GrowthEvent
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.sharded_tensors import generations_of_shard, local_entries

LOGGED_STEPS = 10  # logged steps after which the verdict on a newborn is passed


class NewbornSide(NamedTuple):
    """What is measured for a newborn: its own weights, or those that it is compared with.

    Args:
        title: Title of the newborn.
        own: Whether these are its own weights.
    """

    title: str
    own: bool


@dataclass
class Newborn:
    """A component or cohort that growth has added, and what has been measured of it and of its neighbours since.

    Args:
        title: Title of the component or cohort.
        component: Name of the component.
        widened: Whether it is a cohort: then it is compared with older entries of the same tensors.
        neighbours: Names of the components that a new component is compared with.
        generation: Number of the growth event.
        step: The step before which it was born.
        logged: Number of logged steps so far.
        own: Sum over these steps of the mean squares, over its weights, of gradient and update.
        others: The same of the weights that it is compared with.
    """

    title: str
    component: str
    widened: bool
    neighbours: tuple[str, ...]
    generation: int
    step: int
    logged: int = 0
    own: list[float] = field(default_factory=lambda: [0.0, 0.0])
    others: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def shares(self) -> tuple[float | None, float | None]:
        """Gradient and update per weight over those of the neighbours, None where those of the neighbours are 0."""
        grad, update = (
            (own / others) ** 0.5 if others else None for own, others in zip(self.own, self.others, strict=True)
        )
        return grad, update

    def lives_in(self, structure: Structure) -> bool:
        """Whether the network still has it."""
        if self.widened:
            cohorts = structure.cohorts.get(self.component, ())
            return any(cohort.born.generation == self.generation for cohort in cohorts)
        component = structure.components.get(self.component)
        return component is not None and component.born.generation == self.generation

    def entries(self, structure: Structure, held: AbstractSet[Tensor]) -> tuple[list[Entries], list[Entries]]:
        """Its own weights, and those that it is compared with, among the tensors of an optimizer."""
        tensors = [tensor for tensor in structure.parameters[self.component].values() if tensor in held]
        own, others = [], []
        if not self.widened:
            own = [Entries(tensor) for tensor in tensors]
            around = [tensor for name in self.neighbours for tensor in structure.parameters.get(name, {}).values()]
            others = [Entries(tensor) for tensor in around if tensor in held]
        for tensor in tensors if self.widened else ():
            if generations := structure.generations.get(tensor):
                here = local_entries(tensor.detach())
                born_in = generation_of_entries(here, generations_of_shard(tensor, generations)).expand(here.shape)
                counts = entry_counts(generations)
                older = sum(count for generation, count in counts.items() if generation < self.generation)
                own.append(Entries(tensor, born_in == self.generation, counts.get(self.generation, 0)))
                others.append(Entries(tensor, born_in < self.generation, older))
        # what is frozen would pull the mean down
        return own, [entries for entries in others if entries.tensor.grad is not None]

    def verdict(self) -> str:
        """The verdict as one line."""
        grad, update = map(as_percent, self.shares)
        against = f"the older entries of {self.component}" if self.widened else "its neighbours"
        return (
            f"{self.title} (born at step {self.step}): {grad} of the gradient and {update} of the update per weight of "
            f"{against} over {self.logged} logged steps"
        )


class Newborns:
    r"""Compares gradients and updates of what growth adds with those of its neighbours, on logged steps.

    .. math:: \sqrt{\frac{\sum_t \frac{1}{n} \sum_i x_{ti}^2}{\sum_t \frac{1}{m} \sum_j y_{tj}^2}}

    with the gradients, or updates, :math:`x` of the :math:`n` newborn weights and :math:`y` of the :math:`m` weights of
    the neighbours in the same optimizer, at the logged steps :math:`t` since birth. Neighbours of a new component are
    the components that its growth event names as adjacent; those of entries that widening added are the older entries
    of the same tensors. Tensors without a gradient are no neighbours.

    References:
        [arXiv 2605.15435](https://arxiv.org/abs/2605.15435) finds that new units of growing CNNs get too small
        gradients.
    """

    def __init__(self) -> None:
        self._followed: list[Newborn] = []
        self._judged: list[Newborn] = []

    def state_dict(self) -> dict[str, Any]:
        """All newborns, as plain values."""
        return {"followed": list(map(asdict, self._followed)), "judged": list(map(asdict, self._judged))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace all newborns by those of a state dict."""
        self._followed = [Newborn(**entry) for entry in state["followed"]]
        self._judged = [Newborn(**entry) for entry in state["judged"]]

    def follow(self, event: GrowthEvent, titles: Mapping[str, str]) -> None:
        """Follow what a growth event has added.

        Args:
            event: The event.
            titles: Titles of the new components, and of the new cohorts of widened ones, by name of the component.
        """
        for name, title in titles.items():
            followed = Newborn(
                title, name, name in event.widened, event.adjacent, event.clock.generation, event.clock.step
            )
            self._followed.append(followed)

    def sides(self, structure: Structure, held: AbstractSet[Tensor]) -> dict[str | NewbornSide, list[Entries]]:
        """What is to be measured at a step of an optimizer.

        Args:
            structure: The components of the network.
            held: The tensors of the optimizer.
        """
        sides: dict[str | NewbornSide, list[Entries]] = {}
        for newborn in self._followed:
            if newborn.lives_in(structure):
                own, others = newborn.entries(structure, held)
                if own:
                    sides |= {NewbornSide(newborn.title, True): own, NewbornSide(newborn.title, False): others}
        return sides

    def add(self, sides: Mapping[NewbornSide, PartNorm]) -> dict[str, float]:
        """Add what has been measured at a step, and return the shares so far by tag of the log."""
        row: dict[str, float] = {}
        for newborn in self._followed:
            if NewbornSide(newborn.title, True) not in sides:
                continue
            newborn.logged += 1
            for sums, own in ((newborn.own, True), (newborn.others, False)):
                norm = sides[NewbornSide(newborn.title, own)]
                sums[0] += norm.grad**2 / max(1, norm.size)
                sums[1] += norm.update**2 / max(1, norm.size)
            for kind, share in zip(("grad", "update"), newborn.shares, strict=True):
                if share is not None:
                    row[f"newborn/{kind}/{newborn.title}"] = share
        return row

    def judge(self, trainer: Trainer) -> None:
        """Report the newborns that have been followed for long enough, and follow them no more."""
        if judged := [newborn for newborn in self._followed if newborn.logged >= LOGGED_STEPS]:
            self._followed = [newborn for newborn in self._followed if newborn.logged < LOGGED_STEPS]
            self._judged += judged
            _report(trainer, judged, self._judged)

    def judge_early(self, trainer: Trainer) -> None:
        """Report the newborns that are followed at the end of a fit; a fit that resumes it follows them on."""
        if measured := [newborn for newborn in self._followed if newborn.logged]:
            _report(trainer, measured, [*self._judged, *measured])


def _report(trainer: Trainer, new: Sequence[Newborn], every: Sequence[Newborn]) -> None:
    """Print new verdicts, and write the table of all verdicts to TensorBoard."""
    if trainer.is_global_zero:
        print_beside_bars(*(Text(newborn.verdict()) for newborn in new))
    header = ["newborn", "born at step", "compared with", "gradient per weight", "update per weight", "logged steps"]
    rows = []
    for newborn in every:
        against = "older entries" if newborn.widened else "neighbours"
        rows.append([as_code([newborn.title]), newborn.step, against, *map(as_percent, newborn.shares), newborn.logged])
    for logger in tensorboard_loggers(trainer):
        logger.experiment.add_text("strata/newborns", as_table(header, rows), trainer.global_step)


def as_percent(share: float | None) -> str:
    """A share in percent.

    Example:
        >>> [as_percent(share) for share in (1.234, 0.0312, 0.0, None)]
        ['123 %', '3 %', '0 %', 'an unknown share']
    """
    if share is None:
        return "an unknown share"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1g} %"
