"""What ``recommended()`` does to growing networks at the base lr that is tuned for uniform training."""

from collections.abc import Mapping

from examples.evidence.blocks import growing
from examples.evidence.experiment import Arm, Block, Claim, Trial, better
from structurenet_pl import recommended


def train(trial: Trial) -> Mapping[str, float]:
    """Train with or without ``recommended()``."""
    return growing.train(trial.setting, trial.lr, trial.seed, recommended() if trial.arm == "recommended" else [])


BLOCK = Block(
    question="`recommended()`, untuned, at the base lr that is best for one uniform rate, on data splits and seeds "
    "that the search for it has not seen.",
    train=train,
    settings=growing.SETTINGS,
    arms={"uniform": Arm(growing.LRS), "recommended": Arm(lr_of="uniform")},
    claims=(
        Claim("it keeps the final accuracy", "accuracy", "recommended", "uniform", above=-0.005, each=-0.015),
        Claim("with at most half the drift", "drift", "recommended", "uniform", below=0.5, ratio=True),
        Claim("two thirds of the steps to recover", "recovery", "recommended", "uniform", below=2 / 3, ratio=True),
        Claim("no higher peak of the loss", "peak", "recommended", "uniform", below=0.0),
        better("better final accuracy", "recommended", "uniform"),
    ),
    measures=growing.MEASURES,
    seeds=range(12),
)
