"""Hooks that do nothing are not called in a fit, and nobody can tell."""

import copy
import pickle

import pytest
from lightning.pytorch import Callback

from helpers import Half, Plain, fit
from structurenet_pl.engine.empty_hooks import HOOKS


class WithSuper(Half):
    """Overrides a hook, as a user may who calls ``super()``."""

    def __init__(self):
        super().__init__()
        self.ends = 0

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        self.ends += 1


class InInstance(Half):
    """Has a hook in the instance."""

    def __init__(self):
        super().__init__()
        self.starts = 0
        self.on_train_batch_start = self.count

    def count(self, *args):
        self.starts += 1


class Look(Callback):
    def on_train_batch_end(self, trainer, *args):
        ours = [callback for callback in trainer.callbacks if isinstance(callback, Half)]
        self.hidden = [{name for name in HOOKS if getattr(callback, name) is None} for callback in ours]
        self.copies = [copy.deepcopy(ours[0]), pickle.loads(pickle.dumps(ours[0]))]


def test_hooks_of_a_user_are_called_and_empty_ones_are_not():
    callbacks, look = [Half(), WithSuper(), InInstance()], Look()
    fit(Plain(), [*callbacks, look], epochs=2)
    every = set(HOOKS)
    assert look.hidden == [every, every - {"on_train_batch_end"}, every - {"on_train_batch_start"}]
    assert (callbacks[1].ends, callbacks[2].starts) == (8, 8)


def test_after_the_fit_all_hooks_are_there():
    callbacks, look = [Half(), WithSuper(), InInstance()], Look()
    trainer = fit(Plain(), [*callbacks, look], epochs=1)
    assert all(callable(getattr(callback, name)) for callback in trainer.callbacks for name in HOOKS)


def test_a_copy_from_mid_fit_works_in_another_fit():
    look = Look()
    fit(Plain(), [Half(), look], epochs=1)
    for copied in look.copies:
        trainer = fit(Plain(), [copied], epochs=1)
        assert trainer.optimizers[0].param_groups[0]["lr"] == 0.05
        assert all(callable(getattr(copied, name)) for name in HOOKS)


def test_a_failed_fit_leaves_all_hooks():
    class Fails(Plain):
        def training_step(self, batch, batch_idx):
            raise OSError("out of luck")

    half = Half()
    with pytest.raises(OSError, match="out of luck"):
        fit(Fails(), [half], epochs=1)
    assert all(callable(getattr(half, name)) for name in HOOKS)
