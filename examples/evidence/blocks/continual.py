"""A stream of domains, a new layer for each: what strategies 3 and 12 keep of the first domain, and what they learn."""

from collections.abc import Callable, Mapping, Sequence

import torch
from lightning.pytorch import Callback
from torch import Tensor

from examples.evidence.before_growth import BASE_LRS, PHASE, checkpoint_before_growth
from examples.evidence.data import Part, split
from examples.evidence.experiment import Arm, Block, Claim, Trial
from examples.evidence.factors import AfterGrowth
from examples.evidence.nets import SmallNet
from examples.evidence.training import accuracy, fit
from structurenet_pl import AgeDecay, GrowEvery, SedimentaryDecay

DATA, BATCH_SIZE = "digits", 128
QUARTER_TURNS = (0, 1, 3)
"""Domains, one for each phase: upright images, then turned to the left, then to the right. (A 6 upside down would be a
9.)"""

UNIFORM = {"uniform x 2": 2.0, "uniform": 1.0, "uniform / 3": 0.333, "uniform / 10": 0.1}
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""The search space of arms that are tuned."""

STRATEGIES: Mapping[str, Callable[[], Sequence[Callback]]] = {
    "3": lambda: [AgeDecay()],
    "12": lambda: [SedimentaryDecay()],
    "12 x 2": lambda: [SedimentaryDecay()],
    "old parts frozen, tuned": lambda: [AgeDecay(0.0)],
}


class OneDomain(SmallNet):
    """A network whose images stay as they are."""

    turns = (0, 0, 0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return super().training_step((torch.rot90(images, self.turns[len(self.growth_log)], (2, 3)), labels), batch_idx)


class ThreeDomains(OneDomain):
    """A network whose images turn with each growth."""

    turns = QUARTER_TURNS


def train(trial: Trial) -> Mapping[str, float]:
    """Train on upright images; twice, put an identity layer before the head and go on with another domain."""
    kind, *control = trial.setting.split(", ")
    base, net_class = BASE_LRS[kind], OneDomain if control else ThreeDomains
    file = checkpoint_before_growth(net_class, DATA, kind, base, trial.seed, PHASE, BATCH_SIZE)
    data = split(DATA, trial.seed)
    net = net_class(kind, data.side, base)
    trigger = GrowEvery("add_identity", every=PHASE, limit=2)
    factors = [AfterGrowth(trial.lr), *STRATEGIES.get(trial.arm, tuple)()]
    fit(net, data.train, 3 * PHASE, [trigger, *factors], BATCH_SIZE, file)

    def turned(part: Part) -> Part:
        return Part(torch.rot90(part.images, net.turns[-1], (2, 3)), part.labels)

    found = {
        "val": accuracy(net, turned(data.val)),
        "new": accuracy(net, turned(data.test)),
        "whole": accuracy(net, data.test),
    }
    net.old_path = True
    return found | {"old_path": accuracy(net, data.test)}


ROTATED = ("mlp", "cnn")


def old_path_claim(arm: str) -> Claim:
    """What strategy 12 is for."""
    return Claim(
        f"{arm}: .25 more on the old path than a uniform rate of equal accuracy on the new domain",
        "old_path",
        arm,
        matched_on=("new", tuple(UNIFORM)),
        above=0.25,
        settings=ROTATED,
    )


BLOCK = Block(
    question="A network learns upright images of scikit-learn's digits. Then it gets a layer (the identity at first) "
    "before its head and goes on with images turned to the left, then another one for images turned to the right. What "
    "does it keep of the first domain, and how well does it learn the last one? In 'one domain' the images stay "
    "upright. `lr` is the factor on the base lr after the first growth; the base lr is "
    f"{BASE_LRS['mlp']:g}, as the seed's, and {BASE_LRS['cnn']:g} for the CNN. Strategies act on the head, too; "
    "'12 x 2' has twice the base lr. 'Tuned': the factor is chosen by accuracy on validation data of the last domain.",
    train=train,
    settings=(*ROTATED, "mlp, one domain"),
    arms={
        **{name: Arm((share,)) for name, share in UNIFORM.items()},
        "uniform, tuned": Arm(FACTORS),
        "3": Arm((1.0,)),
        "12": Arm((1.0,)),
        "12 x 2": Arm((2.0,)),
        "old parts frozen, tuned": Arm(FACTORS),
    },
    claims=(
        old_path_claim("12"),
        old_path_claim("12 x 2"),
        Claim(
            "12 x 2: better on the new domain than frozen old parts",
            "new",
            "12 x 2",
            "old parts frozen, tuned",
            above=0.0,
            settings=ROTATED,
        ),
        Claim(
            "12: the whole network keeps more of the first domain than with uniform",
            "whole",
            "12",
            "uniform",
            above=0.0,
            settings=ROTATED,
        ),
        Claim(
            "12, one domain: accuracy within .02 of uniform",
            "new",
            "12",
            "uniform",
            above=-0.02,
            settings=("mlp, one domain",),
        ),
    ),
    measures={
        "new": "test accuracy on the last domain",
        "old_path": "test accuracy on the first domain without the grown layers: what the old parts still know",
        "whole": "test accuracy of the whole network on the first domain",
    },
    axes=("old_path", "new"),
)
