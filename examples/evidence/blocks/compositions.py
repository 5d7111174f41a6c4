"""The search for what ``recommended()`` should return, on validation data and seeds of its own."""

from collections.abc import Callable, Mapping

from lightning.pytorch import Callback

from examples.evidence.blocks import growing
from examples.evidence.experiment import Arm, Block, Trial
from structurenet_pl import AgeDecay, DepthDecay, GrowthResponder, Warmup


def _dip(old: float = 0.1, new: float = 1, head: float = 1, recovery: float = 1) -> list[Callback]:
    """Slower old parts and faster new parts and head after growth; half of it is gone after ``recovery`` epochs."""
    return [
        GrowthResponder(grown=new, adjacent=old, distant=old, recovery=recovery, where="!head"),
        GrowthResponder(grown=head, adjacent=head, distant=head, recovery=recovery, where="head"),
    ]


COMPOSITIONS: Mapping[str, Callable[[], list[Callback]]] = {
    "uniform": list,
    "round 2": lambda: [DepthDecay(where="scaffold"), AgeDecay(floor=0.01, where="scaffold"), Warmup()],
    "age .3": lambda: [AgeDecay(0.3, floor=0.1, where="!head")],
    "age .5": lambda: [AgeDecay(0.5, floor=0.1, where="!head")],
    "age .4": lambda: [AgeDecay(0.4, floor=0.1, where="!head")],
    "age .5, head too": lambda: [AgeDecay(0.5, floor=0.1)],
    "age .7, dip .1, head too": lambda: [AgeDecay(0.7, floor=0.1), *_dip(head=0.1)],
    "dip .1, head .3": lambda: _dip(head=0.3),
    "age .2": lambda: [AgeDecay(0.2, floor=0.05, where="!head")],
    "dip .1": lambda: [GrowthResponder(grown=1, adjacent=0.1, distant=0.1, recovery=1)],
    "dip .1, not head": _dip,
    "dip .1, slow": lambda: _dip(recovery=2),
    "dip .03": lambda: _dip(0.03),
    "age .3, dip .3": lambda: [
        AgeDecay(0.3, floor=0.1, where="!head"),
        GrowthResponder(grown=1, adjacent=0.3, distant=0.3, recovery=1, where="!head"),
    ],
    "age .5, dip .1": lambda: [
        AgeDecay(0.5, floor=0.2, where="!head"),
        GrowthResponder(grown=1, adjacent=0.1, distant=0.1, recovery=1, where="!head"),
    ],
    "dip .1, new 2": lambda: _dip(new=2),
    "dip .1, new 2, slow": lambda: _dip(new=2, recovery=2),
    "age .5, dip .3, new 2": lambda: [AgeDecay(0.5, floor=0.1, where="!head"), *_dip(0.3, new=2)],
    "age .5, dip .1, new 2": lambda: [AgeDecay(0.5, floor=0.1, where="!head"), *_dip(new=2)],
    "dip .1, head 2": lambda: _dip(head=2),
    "age .4, head 2": lambda: [AgeDecay(0.4, floor=0.1, where="!head"), *_dip(old=1, head=2)],
    "age .4, head 4": lambda: [AgeDecay(0.4, floor=0.1, where="!head"), *_dip(old=1, head=4)],
    "age .5, dip .3, head 2": lambda: [AgeDecay(0.5, floor=0.1, where="!head"), *_dip(0.3, head=2)],
    "age .5, dip .1, head 2": lambda: [AgeDecay(0.5, floor=0.1, where="!head"), *_dip(head=2)],
    "age .3, head 2": lambda: [AgeDecay(0.3, floor=0.1, where="!head"), *_dip(old=1, head=2)],
    "age .2, head 2": lambda: [AgeDecay(0.2, floor=0.1, where="!head"), *_dip(old=1, head=2)],
    "age .3, head 1.5": lambda: [AgeDecay(0.3, floor=0.1, where="!head"), *_dip(old=1, head=1.5)],
    "age .3, dip .3, head 2": lambda: [AgeDecay(0.3, floor=0.1, where="!head"), *_dip(0.3, head=2)],
    "age .3, new 1.5, head 2": lambda: [AgeDecay(0.3, floor=0.1, where="!head"), *_dip(old=1, new=1.5, head=2)],
    "age .4, new 2, head 2": lambda: [AgeDecay(0.4, floor=0.1, where="!head"), *_dip(old=1, new=2, head=2)],
    "dip .1, new 2, head 2": lambda: _dip(new=2, head=2),
    "dip .1, new 4, head 4": lambda: _dip(new=4, head=4),
    "dip .3, new 2, head 2": lambda: _dip(0.3, new=2, head=2),
    "dip .1, new 2, head 2, short": lambda: _dip(new=2, head=2, recovery=0.5),
}

SETTINGS = tuple(setting for setting in growing.SETTINGS if setting.startswith(("digits", "mnist mlp")))
"""The settings of ``recommendation`` that the search uses; the others are new to it."""

FIRST_SEED = 500
"""Data splits and weights that no other experiment uses."""


def train(trial: Trial) -> Mapping[str, float]:
    """Train with one composition."""
    found = growing.train(trial.setting, trial.lr, FIRST_SEED + trial.seed, COMPOSITIONS[trial.arm]())
    return found | {"accuracy": found["val"]}


BLOCK = Block(
    question="Which composition of factors keeps the accuracy of the tuned uniform rate with less drift and a faster "
    "recovery? This is a search: it claims nothing.",
    train=train,
    settings=SETTINGS,
    arms={name: Arm(growing.LRS) if name == "uniform" else Arm(lr_of="uniform") for name in COMPOSITIONS},
    claims=(),
    measures=growing.MEASURES | {"accuracy": "validation accuracy at the end"},
    axes=("drift", "accuracy"),
    seeds=range(3),
)
