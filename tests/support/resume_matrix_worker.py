"""Runs with every kind of growth that are stopped and resumed, for test_resume_matrix.

Started as ``resume_matrix_worker.py FOLDER`` it trains the second half of each, in a process of its own.
"""

import sys
from itertools import product

import torch
from torch import nn

from helpers import LRTrace, Plain, fit
from structurenet_pl import (
    DepthDecay,
    GrowEvery,
    GrowthMixin,
    GrowthResponder,
    ProgressiveFreeze,
    Warmup,
    growth,
    widen,
)

BATCHES, EPOCHS = 6, 4
STOP = {"epoch end": 2, "within an epoch": 15}  # in epochs, in steps

OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "adamw fused": lambda params: torch.optim.AdamW(params, lr=0.01, fused=True),
    "amsgrad": lambda params: torch.optim.Adam(params, lr=0.01, amsgrad=True),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.9),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.05),
    "adafactor": lambda params: torch.optim.Adafactor(params, lr=0.05),
}
EVENTS = ["add", "insert", "widen_linear", "widen_conv", "remove"]
WHEN = {"before": -1, "at": 0, "after": 1}
FROZEN = product(["sgd", "adamw fused"], ["insert", "widen_conv"], WHEN, STOP, ["kept", "released"])
ROWS = {"-".join(row): row for row in [*product(OPTIMIZERS, EVENTS, WHEN, STOP), *FROZEN]}


class Net(GrowthMixin, Plain):
    """Two convolutions with a norm in between, two layers, a stack of blocks."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv1, self.norm, self.conv2 = nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 3)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8))
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x):
        x = self.conv2(self.norm(self.conv1(x[:, None])).relu()).flatten(1)
        x = self.body(x)
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.head(x)

    @growth(role="new")
    def add(self):
        self.blocks.append(nn.Linear(8, 8))

    @growth(role="new")
    def insert(self):
        self.body.insert(1, nn.Linear(8, 8))

    @growth()
    def widen_linear(self):
        widen(self.body[0], self.body[3], 12, noise=0.1)

    @growth()
    def widen_conv(self):
        widen(self.conv1, self.conv2, 7, norm=self.norm, noise=0.1)

    @growth()
    def remove(self):
        del self.blocks[0]


class Loader:
    """Shuffles with the global generator, and knows where it is."""

    def __init__(self):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(8 * BATCHES, 6, generator=generator)
        self.y = (self.x.sum(1) > 0).long() + (self.x[:, 0] > 1).long()
        self.order, self.position = [], 0
        self.resumed = False

    def __len__(self):
        return BATCHES

    def __iter__(self):
        if not self.resumed:
            self.order, self.position = torch.randperm(len(self.x)).tolist(), 0
        self.resumed = False
        while self.position < BATCHES:
            rows = self.order[8 * self.position : 8 * self.position + 8]
            self.position += 1
            yield self.x[rows], self.y[rows]

    def state_dict(self):
        return {"order": self.order, "position": self.position}

    def load_state_dict(self, state):
        self.order, self.position = state["order"], state["position"]
        self.resumed = 0 < self.position < BATCHES


def frozen(unit, growth, states):
    """The first four components, from an epoch or two steps before a growth on."""
    early, late = (1, 1) if unit == "epoch" else (2, 4)
    phases = [("all", 0, 1.0, 1.0, 0), ("rest", growth - early, 0.0, 1.0, 4), ("thaw", growth + late, 1.0, 1.0, 0)]
    return ProgressiveFreeze(phases[growth == early :], unit, release_state=states == "released")


def start(row, callbacks=(), epochs=EPOCHS, ckpt_path=None, **kwargs):
    name, event, when, stop, *states = row
    unit = "epoch" if stop == "epoch end" else "step"
    module = Net(
        optimizer=OPTIMIZERS[name],
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS + 1),
    )
    record = LRTrace()
    factors = [Warmup(2), DepthDecay(), GrowthResponder(recovery=1.0)]
    at = STOP[stop] + WHEN[when] * (1 if unit == "epoch" else 5)
    grow = GrowEvery(event, at, unit=unit, limit=1)
    factors += [frozen(unit, at, each) for each in states]
    trainer = fit(module, [grow, *factors, record, *callbacks], epochs, ckpt_path, data=Loader(), **kwargs)
    optimizer = trainer.optimizers[0]
    for group in optimizer.param_groups if name == "adafactor" else ():
        group.pop("differentiable", None)  # a setting without effect that torch adds to its groups at some time
    return {
        "weights": dict(module.state_dict()),
        "optimizer": optimizer.state_dict(),
        "lrs": [float(group["lr"]) for group in optimizer.param_groups],
        "rows": record.rows,
        "trained": [name for name, tensor in module.named_parameters() if tensor.requires_grad],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(12345)  # a resumed run must not depend on the random state of a fresh process
    folder = sys.argv[1]
    for name, row in ROWS.items():
        torch.save(start(row, ckpt_path=f"{folder}/{name}/half.ckpt"), f"{folder}/{name}.pt")
