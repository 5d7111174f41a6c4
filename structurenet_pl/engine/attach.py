"""The base of the package's own callbacks: each brings the driver into its Trainer."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from structurenet_pl.engine.driver import Driver
from structurenet_pl.engine.hooks import BeforeStep
from structurenet_pl.lightning import Callback, LightningModule, Trainer


class NeedsDriver(Callback):
    """A callback that needs the driver in the Trainer, and sees to it that there is one."""

    patterns: Mapping[str, str] = {}
    before_step: BeforeStep | None = None
    """Called once for each step of each optimizer, also of those stepped by hand, when gradients and lrs are final."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "setup" in vars(cls):
            cls.setup = _attaching(cls.setup)  # type: ignore[method-assign]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the driver."""
        if stage == "fit" and Driver.of(trainer) is None:
            driver = Driver()
            trainer.callbacks = [driver, *trainer.callbacks]  # a new list: Lightning is walking through the old one
            driver.setup(trainer, pl_module, stage)


def _attaching(setup: Callable[..., None]) -> Callable[..., None]:
    """A ``setup`` that forgets ``super()`` would leave the callback without effect."""

    @wraps(setup)
    def attached(callback: NeedsDriver, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        NeedsDriver.setup(callback, trainer, pl_module, stage)
        setup(callback, trainer, pl_module, stage)

    return attached
