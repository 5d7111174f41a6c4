"""Spares Lightning the calls of empty hooks of the package's callbacks, which would cost more than all the rest."""

from collections.abc import Iterable

from structurenet_pl.lightning import Callback, has_hook

# the hooks of a training step
HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def hide_empty_hooks(callbacks: Iterable[object]) -> None:
    """Put None in the place of each hook that a callback of this package only inherits from Lightning.

    Lightning calls what is callable. It takes some 10 µs for each hook of each callback, even for an empty one. None
    goes into the callback itself and not into its class, where ``super()`` finds the hook as before.

    Args:
        callbacks: The callbacks of a Trainer; those of others are left alone.
    """
    for callback in callbacks:
        for name in HOOKS:
            if isinstance(callback, Callback) and not has_hook(callback, name):
                setattr(callback, name, None)


def show_empty_hooks(callbacks: Iterable[object]) -> None:
    """Undo ``hide_empty_hooks``."""
    for callback in callbacks:
        for name in HOOKS:
            if isinstance(callback, Callback) and getattr(callback, name) is None:
                delattr(callback, name)
