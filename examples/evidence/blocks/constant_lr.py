"""Whether ``recommended()`` ends with a higher accuracy where the base lr is constant, on fresh seeds."""

from collections.abc import Mapping

from examples.evidence.blocks import growing
from examples.evidence.data import names
from examples.evidence.experiment import Arm, Block, Trial, better
from structurenet_pl import recommended

FIRST_SEED = 700
"""Data splits and weights that no other experiment uses."""


def train(trial: Trial) -> Mapping[str, float]:
    """Train with or without ``recommended()``."""
    callbacks = recommended() if trial.arm == "recommended" else []
    return growing.train(trial.setting, trial.lr, FIRST_SEED + trial.seed, callbacks)


BLOCK = Block(
    question="In the experiment 'recommendation', `recommended()` ended with a higher accuracy than the best uniform "
    "rate in the MLPs with a constant base lr, though not by a sure margin. Does that come out again, on data splits "
    "and seeds of its own? Where old parts get slower, a constant base lr has something of a schedule; with a cosine "
    "schedule there was no such gain.",
    train=train,
    settings=tuple(f"{name} mlp constant" for name in names()),
    arms={"uniform": Arm(growing.LRS), "recommended": Arm(lr_of="uniform")},
    claims=(better("better final accuracy", "recommended", "uniform"),),
    measures=growing.MEASURES,
    axes=("drift", "accuracy"),
    seeds=range(24),
)
