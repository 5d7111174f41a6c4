"""What two experiments share: networks that get two random layers, and how they are trained and measured."""

from collections.abc import Mapping, Sequence
from itertools import product

from lightning.pytorch import Callback

from examples.evidence.data import names, split
from examples.evidence.growth_probe import GrowthProbe
from examples.evidence.nets import Net
from examples.evidence.training import accuracy, fit
from structurenet_pl import GrowEvery

LRS = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
EPOCHS = 14
RANDOM_LAYER = 3
"""Steps after growth for which the peak is not looked at: what a random layer breaks at once is no lr's fault."""

SETTINGS = tuple(" ".join(parts) for parts in product(names(), ("mlp", "cnn"), ("constant", "cosine")))

MEASURES = {
    "accuracy": "test accuracy at the end",
    "old_path": "test accuracy without the grown layers: what the old parts still know",
    "drift": "relative distance of all old weights from their values at growth, at the next growth or at the end",
    "recovery": "steps from growth until the validation loss is back within 2 %, counted from its peak on; censored",
    "recovered": "share of growths after which it came back",
    "peak": f"largest rise of the validation loss after step {RANDOM_LAYER} and before step 50",
}


def train(setting: str, lr: float, seed: int, callbacks: Sequence[Callback]) -> Mapping[str, float]:
    """Train a network that gets a random layer before its head after 4 and 8 of 14 epochs."""
    name, kind, schedule = setting.split()
    data = split(name, seed)
    net = Net(kind, data.side, lr, schedule)
    probe = GrowthProbe(data.val)
    fit(net, data.train, EPOCHS, [probe, GrowEvery("add_random", every=4, limit=2), *callbacks])
    found = {"val": accuracy(net, data.val), "accuracy": accuracy(net, data.test), **probe.measures(RANDOM_LAYER)}
    net.old_path = True
    return found | {"old_path": accuracy(net, data.test)}
