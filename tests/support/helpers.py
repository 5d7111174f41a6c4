"""Small networks, small data, short fits, and one example of every callback."""

import inspect

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import structurenet_pl
from structurenet_pl import (
    AgeDecay,
    Components,
    GrowEvery,
    GrowOnPlateau,
    GrowthMixin,
    GrowthResponder,
    LARSScaler,
    LRFactor,
    ProgressiveFreeze,
    RoleLR,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    growth,
)

BATCHES = 4

CALLBACKS = [
    kind
    for kind in (getattr(structurenet_pl, name) for name in structurenet_pl.__all__)
    if inspect.isclass(kind) and issubclass(kind, structurenet_pl.lightning.Callback) and not inspect.isabstract(kind)
]
FACTORS = [kind for kind in CALLBACKS if issubclass(kind, LRFactor)]

# Arguments with which each public callback acts within a few epochs on the networks below. A new callback needs an
# entry only if an argument has no default, or if the defaults would change nothing within these epochs.
EXAMPLES = {kind: {} for kind in CALLBACKS} | {
    Components: {"roles": {"body.*": "scaffold"}},
    GrowEvery: {"growth": "add_neck", "every": 2},
    GrowOnPlateau: {"growth": "add_neck", "monitor": "metric", "patience": 1},
    StrataMonitor: {"norms": True},
    Warmup: {"length": 3},
    SedimentaryDecay: {"strata": [("active", 0, 1.0), ("sediment", 1, 0.5), ("geological", 3, 0.1)]},
    GrowthResponder: {"recovery": 1.5},
    ProgressiveFreeze: {"phases": [("all", 0, 1.0, 1.0, 0), ("late", 2, 0.1, 0.5, 2), ("last", 3, 0.0, 0.1, -1)]},
    LARSScaler: {"trust_coefficient": 0.1, "clip": 10.0},
    AgeDecay: {"gamma": 0.5, "per": 2, "unit": "epoch", "floor": 0.1},
}


def example_factors():
    return [kind(**EXAMPLES[kind]) for kind in FACTORS]


class Plain(LightningModule):
    """A LightningModule as people have it, one-line configure_optimizers."""

    def __init__(self, optimizer=None, scheduler=None, interval="epoch"):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 8), nn.LayerNorm(8))
        self.head = nn.Linear(8, 3)
        self.make_optimizer = optimizer or (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9))
        self.make_scheduler = scheduler
        self.interval = interval

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        if batch_idx == 0 or any(config.reduce_on_plateau for config in self.trainer.lr_scheduler_configs):
            self.log("loss", loss)  # it takes a third of the time of a step
        return loss

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.make_scheduler(optimizer), "interval": self.interval, "monitor": "loss"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class Flat:
    """Logs a loss that stands still, for ReduceLROnPlateau."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("still", 1.0)
        return loss

    def configure_optimizers(self):
        configured = super().configure_optimizers()
        configured["lr_scheduler"]["monitor"] = "still"
        return configured


class FlatPlain(Flat, Plain):
    pass


class Toggling:
    """Steps all optimizers by hand on the same loss, one after the other, with Lightning's toggling."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()
            self.untoggle_optimizer(optimizer)


class Net(GrowthMixin, Plain):
    """The same, growable: patches beside the body, necks before the head."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.patches = nn.ModuleList()
        self.necks = nn.ModuleList()

    def configure_components(self):
        return {"body.*": "scaffold", "head": "head"}

    @growth(role="patch", depth="at")
    def add_patch(self, at: int, inner: int = 4):
        self.patches.append(nn.Sequential(nn.Linear(8, inner), nn.Tanh(), nn.Linear(inner, 8)))

    @growth(role="neck")
    def add_neck(self):
        self.necks.append(nn.Linear(8, 8))

    def forward(self, x):
        x = self.body(x)
        for patch in self.patches:
            x = x + patch(x)
        for neck in self.necks:
            x = neck(x).relu()
        return self.head(x)


class LRTrace(Callback):
    """The lrs that the optimizer used at each step, by group name."""

    def __init__(self):
        self.rows = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rows.append(
            {group.get("name", index): float(group["lr"]) for index, group in enumerate(optimizer.param_groups)}
        )


def loader(batches=BATCHES, shuffle=True):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(8 * batches, 6, generator=generator)
    return DataLoader(TensorDataset(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long()), batch_size=8, shuffle=shuffle)


def fit(module, callbacks=(), epochs=4, ckpt_path=None, data=None, validation=None, **kwargs):
    """A quiet fit; the Trainer comes back."""
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **options | kwargs)
    trainer.fit(module, data or loader(), validation, ckpt_path=ckpt_path)
    return trainer


def slow_but_for(quick, values):
    """All values as parameters of a test, of which only the quick ones run outside ``pytest -m slow``."""

    def parameter(value):
        marks = () if value in quick else pytest.mark.slow
        return pytest.param(*value, marks=marks) if isinstance(value, tuple) else pytest.param(value, marks=marks)

    return [parameter(value) for value in values]


def weights(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_same(one, other):
    """Two trees of dicts, lists and tensors are equal to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


class Half(LRFactor):
    def factor(self, component, now):
        return 0.5


def unfelt():
    """Factors that are 1 all along."""
    return [RoleLR({"nobody": 0.5}), Warmup(start=1.0, newborn_only=False)]


class Validated(Plain):
    """With a scheduler, validation and test."""

    def __init__(self):
        super().__init__(scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    test_step = validation_step


def run(callbacks=(), make=Validated, **kwargs):
    """Weights and logged scalars of a fit with validation, and its Trainer; all starts from seed 0."""
    torch.manual_seed(0)
    module = make()
    options = {"max_epochs": 3, "logger": TensorBoardLogger("logs"), "log_every_n_steps": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", callbacks=list(callbacks), **options | quiet | kwargs)
    trainer.fit(module, loader(8), loader(2, shuffle=False))
    return weights(module), {} if kwargs.get("fast_dev_run") else scalars(trainer.logger.log_dir), trainer


def scalars(log_dir):
    """What stands in a log, but for the tags of LearningRateMonitor, which carry the names of the components."""
    log = EventAccumulator(log_dir).Reload()
    return {
        tag: [(event.step, event.value) for event in log.Scalars(tag)]
        for tag in log.Tags()["scalars"]
        if not tag.startswith("lr-")
    }


def texts(log_dir):
    """The texts in a log of TensorBoard by tag, the newest last."""
    events = EventAccumulator(log_dir, size_guidance={"tensors": 0}).Reload()
    return {
        tag.removesuffix("/text_summary"): [event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if tag.endswith("/text_summary")
    }
