"""What stood in an optimizer at one moment: taken quickly at every step, spelled out when somebody looks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch.optim import Optimizer

from structurenet_pl.board import Rates
from structurenet_pl.callbacks.sedimentary import SedimentaryDecay
from structurenet_pl.driver import Driver
from structurenet_pl.events import Component, Moment
from structurenet_pl.lightning import Trainer
from structurenet_pl.surgery.freezing import Frozen
from structurenet_pl.surgery.param_groups import Slot, leading


@dataclass(frozen=True, eq=False)
class Reading:
    """The learning rates of one optimizer at one moment, plain data that no later change reaches.

    Args:
        now: The moment.
        slots: What each param group stands for, by name.
        rates: What stood in the groups.
        frozen: What was frozen.
    """

    now: Moment
    slots: Mapping[str, Slot]
    rates: Rates
    frozen: Frozen

    @classmethod
    def of(cls, driver: Driver, trainer: Trainer, optimizer: Optimizer) -> "Reading":
        """What stands in an optimizer since its board was refreshed."""
        board = driver.boards[optimizer]
        now = driver.moment(trainer)
        now = Moment(now.clock, now.log, now.spine)  # without the density, which would hold on to the module
        return cls(now, board.slots, board.rates(), driver.frozen)

    @cached_property
    def components(self) -> Mapping[str, Component]:
        """The components of the network by name, in order of depth."""
        return {component.name: component for component in self.now.spine}

    def leading(self) -> Iterator[tuple[Component, str]]:
        """The components that the optimizer trains, in order of depth, and the group that speaks for each."""
        groups = leading(self.slots.values())
        for name, component in self.components.items():
            if groups.get(name) in self.rates.lrs:
                yield component, groups[name]


def decays(driver: Driver) -> list[SedimentaryDecay]:
    """The callbacks that say what stratum a component has reached."""
    return [factor for factor in driver.factors.values() if isinstance(factor, SedimentaryDecay)]


def decay_of(component: Component, among: Sequence[SedimentaryDecay]) -> SedimentaryDecay | None:
    """The first that acts on a component."""
    return next((decay for decay in among if decay.acts_on(component)), None)
