"""What growth does to the loss, and what lowers the shock: the optimizer's state, and strategies 3, 6, 7 and 10."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from examples.evidence.before_growth import checkpoint_before_growth
from examples.evidence.data import Part, split
from examples.evidence.experiment import Arm, Block, Claim, Trial
from examples.evidence.factors import GlobalWarmup
from examples.evidence.growth_probe import AFTER_RANDOM_LAYER, GrowthProbe
from examples.evidence.nets import Kind, SmallNet
from examples.evidence.training import ResetState, accuracy, fit
from structurenet_pl import AgeDecay, GrowEvery, GrowthResponder, Warmup, growth, recommended, widen

DATA, BATCH_SIZE = "digits", 128
GROWTH_EPOCH, EPOCHS = 20, 30
"""The seed's scaffold falls to a tenth at an age of 20 epochs: with this growth."""

GROWTHS = {
    "identity layer": ("add_identity", 0),
    "zero patch": ("add_patch", 0),
    "random layer": ("add_random", AFTER_RANDOM_LAYER),
    "widening": ("add_units", 0),
}
"""Growth method by setting, and the step after which the peak is looked for."""


class ShockNet(SmallNet):
    """A network that can also get a patch beside its first block, or more units there."""

    def __init__(self, kind: Kind, side: int, lr: float) -> None:
        super().__init__(kind, side, lr)
        self.patches = nn.ModuleList()

    @growth(role="patch", depth=1)
    def add_patch(self) -> None:
        """Add two layers whose output is zero at first to that of the first block."""
        last = self.layer()
        nn.init.zeros_(last.weight)
        self.patches.append(nn.Sequential(self.layer(), nn.ReLU(), last))

    @growth(role="new")
    def add_units(self) -> None:
        """Give the first block about half as many units more, with random weights, in pairs that cancel at first."""
        widen(self.blocks[0][0], self.blocks[1][0], self.width + self.width // 4 * 2, scheme="pair")

    def block_output(self, number: int, x: Tensor) -> Tensor:
        out = super().block_output(number, x)
        if number != 0:
            return out
        if self.old_path:
            return torch.cat([out[:, : self.width], torch.zeros_like(out[:, self.width :])], 1)
        return sum((patch(x) for patch in self.patches), out)


class BeforeGrowth(Callback):
    """Take the accuracy before growth; goes before the trigger in the list of callbacks."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.accuracy = float("nan")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not pl_module.growth_log:
            self.accuracy = accuracy(pl_module, self.part)


def combined() -> Sequence[Callback]:
    """The seed's combined strategy, which acts before growth, too."""
    return recommended("seed")


ARMS: Mapping[str, Callable[[], Sequence[Callback]]] = {
    "uniform": tuple,
    "7 Warmup": lambda: [Warmup()],
    "3 AgeDecay": lambda: [AgeDecay()],
    "3 + 7": lambda: [AgeDecay(), Warmup()],
    "6 GrowthResponder by role": lambda: [GrowthResponder(roles={"scaffold": 0.5, "new": 1.0})],
    "10 GrowthResponder": lambda: [GrowthResponder()],
    "combined": combined,
    "warm-up of everything": lambda: [GlobalWarmup()],
    "fresh state": lambda: [ResetState()],
    "fresh state, 3 + 7": lambda: [ResetState(), AgeDecay(), Warmup()],
}


def train(trial: Trial) -> Mapping[str, float]:
    """Train for 20 epochs, grow once, train on."""
    kind, name = trial.setting.split(" ", 1)
    method, after = GROWTHS[name]
    before = combined if trial.arm == "combined" else tuple
    file = checkpoint_before_growth(ShockNet, DATA, kind, trial.lr, trial.seed, GROWTH_EPOCH, BATCH_SIZE, before)
    data = split(DATA, trial.seed)
    net = ShockNet(kind, data.side, trial.lr)
    probe, start = GrowthProbe(data.val), BeforeGrowth(data.test)
    trigger = GrowEvery(method, every=GROWTH_EPOCH, limit=1)
    fit(net, data.train, EPOCHS, [probe, start, trigger, *ARMS[trial.arm]()], BATCH_SIZE, file)
    found = {"val": accuracy(net, data.val), "accuracy": accuracy(net, data.test), **probe.measures(after)}
    net.old_path = True
    return found | {"drop": start.accuracy - accuracy(net, data.test)}


BLOCK = Block(
    question="What does one growth do to a trained network, and what makes the shock smaller? Each network of "
    "scikit-learn's digits is trained for 20 epochs at one rate, grows (by an identity layer, a patch with output zero "
    "or a random layer, or by `widen`), and is trained for 10 more. The base lr is the best one for uniform training; "
    "all arms have it. The optimizer's state is carried over, except in arms with 'fresh state'.",
    train=train,
    settings=tuple(" ".join(parts) for parts in product(("mlp", "cnn"), GROWTHS)),
    arms={
        name: Arm((1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)) if name == "uniform" else Arm(lr_of="uniform")
        for name in ARMS
    },
    claims=(
        Claim("3 + 7 halve the peak: it minus half of uniform's", "peak", "3 + 7", "uniform", below=0.0, share=0.5),
        Claim("carried state has a lower peak than fresh state", "peak", "uniform", "fresh state", below=0.0),
        Claim("7 alone lowers the peak", "peak", "7 Warmup", "uniform", below=0.0),
        Claim("3 + 7 keep the final accuracy within .01", "accuracy", "3 + 7", "uniform", above=-0.01),
    ),
    measures={
        **GrowthProbe.MEASURES,
        "drop": "accuracy before growth, less that at the end of the network without what was added",
        "accuracy": "test accuracy at the end",
    },
)
