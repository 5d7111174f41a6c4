"""Growable modules for Lightning: the module brings what follows its growth into any Trainer."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, cast

from torch.nn import Module

from structurenet_pl.engine.driver import Driver
from structurenet_pl.lightning import Callback, LightningModule, MisconfigurationException
from structurenet_pl.structure.events import Clock
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.replay_log import LOG_KEY, log_as_tensor, predates_growth


def _meeting(on_train_epoch_end: Callable[[Any], None]) -> Callable[[Any], None]:
    """The last moment before callbacks save a checkpoint: what was asked for in this hook is to be in it."""

    @wraps(on_train_epoch_end)
    def met(module: Any) -> None:
        on_train_epoch_end(module)
        if type(module).on_train_epoch_end is met:  # else it is called by an override, which may go on to ask
            module.grow_when_all_ranks_wait()

    return met


def _with_log(on_load_checkpoint: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """A checkpoint of a Trainer is of the whole module: one without a log is from before it has grown."""

    @wraps(on_load_checkpoint)
    def loaded(module: Any, checkpoint: dict[str, Any]) -> None:
        if predates_growth(module, checkpoint["state_dict"]):
            checkpoint["state_dict"][LOG_KEY] = log_as_tensor(())
        on_load_checkpoint(module, checkpoint)

    return loaded


class GrowthMixin(Growable):
    """Makes a LightningModule growable: ``class Net(GrowthMixin, TheirLightningModule)``, in that order.

    Methods marked with :func:`~structurenet_pl.growth` change its structure. Each call is logged in ``growth_log``,
    followed by optimizer and schedulers, and replayed when a checkpoint is loaded.

    Raises:
        TypeError: When a class is defined with the mixin behind the LightningModule.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[: cls.__mro__.index(GrowthMixin)]
        if behind := [base for base in before if issubclass(base, Module) and not issubclass(base, GrowthMixin)]:
            raise TypeError(
                f"{cls.__name__} has GrowthMixin behind {behind[0].__name__}, where it could not follow the growth: "
                f"write class {cls.__name__}(GrowthMixin, {behind[0].__name__})."
            )
        if cls.configure_callbacks is not GrowthMixin.configure_callbacks:
            cls.configure_callbacks = _checked(cls.configure_callbacks)  # type: ignore[assignment, method-assign]
        if "on_train_epoch_end" in vars(cls):
            cls.on_train_epoch_end = _meeting(cls.on_train_epoch_end)  # type: ignore[method-assign]
        if "on_load_checkpoint" in vars(cls):
            cls.on_load_checkpoint = _with_log(cls.on_load_checkpoint)  # type: ignore[method-assign]

    def configure_callbacks(self) -> Sequence[Callback]:
        """What follows the growth, beside the callbacks of the LightningModule. Extend it with ``super()``."""
        inherited: Callback | Sequence[Callback] = super().configure_callbacks()  # type: ignore[misc]
        driver = [] if Driver.of(self.trainer) else [Driver()]
        return [*_several(inherited), *driver]

    @_meeting
    def on_train_epoch_end(self) -> None:
        """What the LightningModule does at the end of an epoch. Growth asked for there is in the checkpoint."""
        super().on_train_epoch_end()  # type: ignore[misc]

    @_with_log
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the LightningModule does with a checkpoint."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]

    def _clock_outside_fit(self) -> Clock:
        if getattr(self, "fabric", None) is not None:
            raise MisconfigurationException(
                f"{type(self).__name__} grows, but Fabric has no callbacks that could follow it into the optimizer: "
                "grow before fabric.setup(), or train with a Trainer."
            )
        try:
            trainer = cast(LightningModule, self).trainer
        except RuntimeError:  # not attached to a Trainer
            return Clock()
        return Clock(trainer.global_step, trainer.current_epoch)


class GrowableModule(GrowthMixin, LightningModule):
    """A LightningModule that can grow while it trains.

    Example:
        >>> import torch
        >>> from structurenet_pl import GrowableModule, growth
        >>> class Net(GrowableModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body = torch.nn.ModuleList([torch.nn.Linear(8, 8)])
        ...         self.head = torch.nn.Linear(8, 2)
        ...
        ...     @growth(role="new")
        ...     def deepen(self):
        ...         self.body.append(torch.nn.Linear(8, 8))
        >>> net = Net()
        >>> net.deepen()
        >>> list(net.components)
        ['body.0', 'body.1', 'head']
        >>> net.growth_log[0].born
        ('body.1',)
    """


def _checked(configure_callbacks: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An override that forgets ``super()`` would leave growth unfollowed."""

    @wraps(configure_callbacks)
    def configured(module: Any) -> Any:
        callbacks = configure_callbacks(module)
        if not any(isinstance(callback, Driver) for callback in [*_several(callbacks), *module.trainer.callbacks]):
            raise TypeError(
                f"{type(module).__name__}.configure_callbacks drops what follows the growth of the module: return "
                "[*super().configure_callbacks(), ...]."
            )
        return callbacks

    return configured


def _several(callbacks: Callback | Sequence[Callback]) -> Sequence[Callback]:
    """Lightning lets ``configure_callbacks`` return a single callback, too."""
    return callbacks if isinstance(callbacks, Sequence) else [callbacks]
