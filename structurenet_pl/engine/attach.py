"""The base class of the package's own callbacks, which attaches the driver to their Trainer."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from structurenet_pl.engine.driver import Driver
from structurenet_pl.engine.package_callbacks import BeforeStep
from structurenet_pl.lightning import Callback, LightningModule, Trainer
from structurenet_pl.structure.arguments import ChecksArguments
from structurenet_pl.structure.role_patterns import Given


class NeedsDriver(ChecksArguments, Callback):
    """A callback that attaches the driver to its Trainer.

    Attributes:
        patterns: Name pattern -> role, for the components of the module.
        before_step: Called once before each step of each optimizer, in manual optimization, too, when no other callback
            can change gradients and lrs any more.
    """

    patterns: Mapping[str, Given] = {}
    before_step: BeforeStep | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "setup" in vars(cls):
            cls.setup = _attaching(cls.setup)  # type: ignore[method-assign]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the driver."""
        if stage == "fit" and Driver.of(trainer) is None:
            driver = Driver()
            trainer.callbacks = [driver, *trainer.callbacks]  # a new list, because Lightning is iterating over the old
            driver.setup(trainer, pl_module, stage)  # so Lightning will not call it


def _attaching(setup: Callable[..., None]) -> Callable[..., None]:
    """Attach the driver before an overridden ``setup``, which may lack ``super()`` and would then have no driver."""

    @wraps(setup)
    def attached(callback: NeedsDriver, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        NeedsDriver.setup(callback, trainer, pl_module, stage)
        setup(callback, trainer, pl_module, stage)

    return attached
