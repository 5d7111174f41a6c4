"""Two factors for baselines: other rates, or a warm-up, for the whole network after growth."""

from structurenet_pl import Component, LRFactor, Moment


class AfterGrowth(LRFactor):
    """A constant factor for everything, from the first growth event on.

    Args:
        constant: The factor.
    """

    unit = "generation"

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    def factor(self, component: Component, now: Moment) -> float:
        return self.constant if now.clock.generation else 1.0


class GlobalWarmup(LRFactor):
    """A linear warm-up of everything, old and new, after each growth event.

    Args:
        epochs: Its length, as that of ``Warmup``.
    """

    unit = "epoch"

    def __init__(self, epochs: int = 5) -> None:
        super().__init__()
        self.epochs = epochs

    def factor(self, component: Component, now: Moment) -> float:
        events = [event.clock for event in now.log if event.clock.generation <= now.clock.generation]
        return min(1.0, (now.clock.since(events[-1]).epoch + 1) / self.epochs) if events else 1.0
