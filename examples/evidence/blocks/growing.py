"""What experiments with two random layers share: how networks are measured and, but for `stability`, trained."""

from collections.abc import Mapping, Sequence
from itertools import product

from lightning.pytorch import Callback

from examples.evidence.data import Data, names, split
from examples.evidence.growth_probe import AFTER_RANDOM_LAYER, GrowthProbe
from examples.evidence.nets import Net
from examples.evidence.training import accuracy, fit
from structurenet_pl import GrowEvery

LRS = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
EPOCHS = 14
SETTINGS = tuple(" ".join(parts) for parts in product(names(), ("mlp", "cnn"), ("constant", "cosine")))

MEASURES = {
    "accuracy": "test accuracy at the end",
    "old_path": "test accuracy without the grown layers: what the old parts still know",
    **GrowthProbe.MEASURES,
}


def train(setting: str, lr: float, seed: int, callbacks: Sequence[Callback]) -> Mapping[str, float]:
    """Train a network that gets a random layer before its head after 4 and 8 of 14 epochs."""
    name, kind, schedule = setting.split()
    data = split(name, seed)
    net = Net(kind, data.side, lr, schedule)
    probe = GrowthProbe(data.val)
    fit(net, data.train, EPOCHS, [probe, GrowEvery("add_random", every=4, limit=2), *callbacks])
    return measure(net, data, probe)


def measure(net: Net, data: Data, probe: GrowthProbe) -> Mapping[str, float]:
    """``MEASURES`` of a trained network; its grown layers are left out from then on."""
    probed = probe.measures(after=AFTER_RANDOM_LAYER)
    found = {"val": accuracy(net, data.val), "accuracy": accuracy(net, data.test), **probed}
    net.old_path = True
    return found | {"old_path": accuracy(net, data.test)}
