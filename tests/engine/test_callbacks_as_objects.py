"""What projects do with callbacks: copy them, pickle them with the model, share them, append their own to the list."""

import copy
import io
import pickle

import joblib
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from helpers import EXAMPLES, Half, LRTrace, Net, Plain, assert_same, fit, loader, slow_but_for, weights
from structurenet_pl.engine.callback_order import LastHook
from structurenet_pl.engine.driver import Driver


def through_joblib(value):
    buffer = io.BytesIO()
    joblib.dump(value, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


def through_torch(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "joblib": through_joblib,
    "torch": through_torch,
}


def reachable(value, seen):
    """Everything that a copy would take along."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    else:
        inner = list(getattr(value, "__dict__", {}).values())
    for one in inner:
        reachable(one, seen)


class Stagnant(Net):
    """Validated, with no progress at all."""

    def validation_step(self, batch, batch_idx):
        self.log("metric", 1.0)

    def val_dataloader(self):
        return loader(1, shuffle=False)


class Copies(Callback):
    """Copies in the middle of a fit what stands beside it."""

    def __init__(self, way):
        self.way = way
        self.copies = []

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 5:
            self.copies = self.way([callback for callback in trainer.callbacks if callback is not self])


no_logger = pytest.mark.filterwarnings("ignore:StrataMonitor has no logger")


@no_logger
@pytest.mark.parametrize("way", slow_but_for(["pickle"], COPIES))
@pytest.mark.parametrize("kind", EXAMPLES)
def test_copies_before_during_and_after_a_fit_train_the_same(kind, way):
    def train(callbacks):
        torch.manual_seed(0)
        net = Stagnant()
        fit(net, callbacks, epochs=3)
        return weights(net)

    new, duplicate = lambda: kind(**EXAMPLES[kind]), COPIES[way]
    expected = train([new()])
    during = Copies(duplicate)
    used = new()
    assert_same(train([used, during]), expected)
    assert_same(train([duplicate(new())]), expected)
    assert_same(train([duplicate(used)]), expected)
    assert_same(train(during.copies), expected)
    assert_same(train([used]), expected)


@no_logger
@pytest.mark.parametrize("kind", EXAMPLES)
def test_copies_take_nothing_of_a_fit_along(kind):
    callback = kind(**EXAMPLES[kind])
    fit(Stagnant(), [callback], epochs=3)
    found = {}
    reachable(copy.copy(callback), found)
    kept = Trainer, LightningModule, Optimizer, torch.Tensor
    assert [value for value in found.values() if isinstance(value, kept)] == []


@pytest.mark.parametrize("way", COPIES)
def test_the_list_of_a_trainer_may_be_copied_whole(way):
    trainer = fit(Plain(), [Half()], epochs=1)
    trace = LRTrace()
    fit(Plain(), [*COPIES[way](trainer.callbacks), trace], epochs=1)
    assert set(trace.rows[0].values()) == {0.05}


def test_the_users_list_is_left_alone_and_may_be_appended_to():
    mine, late = [Half()], LRTrace()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=mine, **options)
    trainer.callbacks.append(late)
    trainer.fit(Plain(), torch.utils.data.DataLoader([(torch.ones(6), 0)] * 4))
    assert not any(isinstance(one, Driver | LastHook) for one in mine)
    assert set(late.rows[0].values()) == {0.05}


def test_one_callback_in_two_trainers():
    factor = Half()
    first, second = LRTrace(), LRTrace()
    fit(Plain(), [factor, first], epochs=1)
    fit(Net(), [factor, second], epochs=1)
    assert set(first.rows[-1].values()) == set(second.rows[-1].values()) == {0.05}
