"""Growable modules for Lightning: a module that attaches the driver to its Trainer and is grown in its hooks."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

from torch.nn import Module

from structurenet_pl.engine.driver import Driver
from structurenet_pl.lightning import Callback, LightningModule, MisconfigurationException
from structurenet_pl.structure.events import Clock
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.log_tensors import LOG_KEY, log_as_tensor
from structurenet_pl.structure.replay_log import predates_growth

# the wrapped hooks keep their signatures, with which type checkers compare those of the LightningModule
Hook = TypeVar("Hook", bound=Callable[..., None])


def _then_grow(on_train_epoch_end: Hook) -> Hook:
    """Carry waiting growth out after the module's hook, so that the checkpoint of this epoch holds the growth.

    It is the last moment before callbacks save that checkpoint, and all ranks are at the same point.
    """

    @wraps(on_train_epoch_end)
    def hook_then_grow(module: Any) -> None:
        on_train_epoch_end(module)
        # an override calls this one by super(), and may ask for growth after that: then only the override grows
        if type(module).on_train_epoch_end is hook_then_grow:
            module.grow_when_all_ranks_wait()

    return cast(Hook, hook_then_grow)


def _with_growth_log(on_load_checkpoint: Hook) -> Hook:
    """Add an empty growth log to a checkpoint without one, so that loading it takes growth back.

    A checkpoint of a Trainer holds the whole module, so one without a log was written before the module grew.
    """

    @wraps(on_load_checkpoint)
    def add_log_then_hook(module: Any, checkpoint: dict[str, Any]) -> None:
        # strategies that load a checkpoint themselves have taken the state dict out of it, as FSDP2 does
        if "state_dict" in checkpoint and predates_growth(module, checkpoint["state_dict"]):
            checkpoint["state_dict"][LOG_KEY] = log_as_tensor(())
        on_load_checkpoint(module, checkpoint)

    return cast(Hook, add_log_then_hook)


def _with_driver(configure_callbacks: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Refuse an override without ``super()``: without the driver, optimizers would not follow growth."""

    @wraps(configure_callbacks)
    def checked(module: Any) -> Any:
        callbacks = configure_callbacks(module)
        if not any(isinstance(callback, Driver) for callback in [*_as_sequence(callbacks), *module.trainer.callbacks]):
            raise TypeError(
                f"{type(module).__name__}.configure_callbacks drops the callback that adapts optimizers to growth: "
                "return [*super().configure_callbacks(), ...]."
            )
        return callbacks

    return checked


def _as_sequence(callbacks: Callback | Sequence[Callback]) -> Sequence[Callback]:
    """A list, because Lightning lets ``configure_callbacks`` return a single callback, too."""
    return callbacks if isinstance(callbacks, Sequence) else [callbacks]


class GrowthMixin(Growable):
    """Makes a LightningModule growable: ``class Net(GrowthMixin, TheirLightningModule)``, in that order.

    Methods marked with ``growth`` change its structure. Each call is logged in ``growth_log``.
    Optimizer and schedulers follow it, and loading a checkpoint replays it.

    Raises:
        TypeError: When a class is defined with the mixin behind the LightningModule.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[: cls.__mro__.index(GrowthMixin)]
        if behind := [base for base in before if issubclass(base, Module) and not issubclass(base, GrowthMixin)]:
            raise TypeError(
                f"{cls.__name__} has GrowthMixin behind {behind[0].__name__}, which would then hide the mixin's hooks: "
                f"write class {cls.__name__}(GrowthMixin, {behind[0].__name__})."
            )
        # hooks are wrapped here rather than called with super(): an override that forgets super() must work, or raise
        if cls.configure_callbacks is not GrowthMixin.configure_callbacks:
            cls.configure_callbacks = _with_driver(cls.configure_callbacks)  # type: ignore[assignment, method-assign]
        if "on_train_epoch_end" in vars(cls):
            cls.on_train_epoch_end = _then_grow(cls.on_train_epoch_end)  # type: ignore[method-assign]
        if "on_load_checkpoint" in vars(cls):
            cls.on_load_checkpoint = _with_growth_log(cls.on_load_checkpoint)  # type: ignore[method-assign]

    def configure_callbacks(self) -> Sequence[Callback]:
        """The callbacks of the LightningModule and the driver. An override must call ``super()``."""
        inherited: Callback | Sequence[Callback] = super().configure_callbacks()  # type: ignore[misc]
        driver = [] if Driver.of(self.trainer) else [Driver()]
        return [*_as_sequence(inherited), *driver]

    @_then_grow
    def on_train_epoch_end(self) -> None:
        """The hook of the LightningModule; growth that it asks for is in the checkpoint of the epoch."""
        super().on_train_epoch_end()  # type: ignore[misc]

    @_with_growth_log
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The hook of the LightningModule."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]

    def _clock_outside_fit(self) -> Clock:
        if getattr(self, "fabric", None) is not None:
            raise MisconfigurationException(
                f"{type(self).__name__} grows, but Fabric has no callbacks that could adapt the optimizer: "
                "grow before fabric.setup(), or train with a Trainer."
            )
        try:
            trainer = cast(LightningModule, self).trainer
        except RuntimeError:  # by which Lightning says that the module is in no Trainer
            return Clock()
        return Clock(trainer.global_step, trainer.current_epoch)


class GrowableModule(GrowthMixin, LightningModule):
    """A LightningModule that can grow while it trains; its members are those of ``GrowthMixin``.

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
