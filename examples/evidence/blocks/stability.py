"""Stability against plasticity: drift and recovery of strategies 3 and 12, and of uniform rates."""

from collections.abc import Callable, Mapping, Sequence

from lightning.pytorch import Callback

from examples.evidence.before_growth import BASE_LRS, PHASE, checkpoint_before_growth
from examples.evidence.blocks import growing
from examples.evidence.data import split
from examples.evidence.experiment import Arm, Block, Claim, Trial
from examples.evidence.factors import AfterGrowth
from examples.evidence.growth_probe import GrowthProbe
from examples.evidence.nets import SmallNet
from examples.evidence.training import fit
from structurenet_pl import AgeDecay, GrowEvery, SedimentaryDecay

BATCH_SIZES = {"digits": 64, "mnist": 192}
"""About as many steps in an epoch of either."""

UNIFORM = {"uniform": 1.0, "uniform / 3": 0.333, "uniform / 10": 0.1, "uniform / 20": 0.05}
STRATEGIES: Mapping[str, Callable[[], Sequence[Callback]]] = {
    "3, head active": lambda: [AgeDecay(where="!head")],
    "12, head active": lambda: [SedimentaryDecay(where="!head")],
    "old parts frozen, head active": lambda: [AgeDecay(0.0, where="!head")],
}


def train(trial: Trial) -> Mapping[str, float]:
    """Train for 20 epochs at the base lr; put a random layer before the head, twice; train on at the arm's lrs."""
    name, kind = trial.setting.split()
    base = BASE_LRS[kind]
    file = checkpoint_before_growth(SmallNet, name, kind, base, trial.seed, PHASE, BATCH_SIZES[name])
    data = split(name, trial.seed)
    net = SmallNet(kind, data.side, base)
    probe, trigger = GrowthProbe(data.val), GrowEvery("add_random", every=PHASE, limit=2)
    factors = [AfterGrowth(trial.lr), *STRATEGIES.get(trial.arm, tuple)()]
    fit(net, data.train, 3 * PHASE, [probe, trigger, *factors], BATCH_SIZES[name], file)
    return growing.measure(net, data, probe)


def claims(arm: str) -> tuple[Claim, ...]:
    """What the seed says about a strategy."""
    return (
        Claim(f"{arm}: at most half the drift of uniform", "drift", arm, "uniform", below=0.5, ratio=True),
        Claim(
            f"{arm}: recovers 100 steps sooner than a uniform rate of equal drift",
            "recovery",
            arm,
            matched_on=("drift", tuple(UNIFORM)),
            below=-100.0,
        ),
        Claim(f"{arm}: final accuracy within .01 of uniform", "accuracy", arm, "uniform", above=-0.01),
    )


BLOCK = Block(
    question="A trained network gets a randomly initialised layer before its head, and 20 epochs later another one. "
    "Do old parts move less, and does the network recover sooner than with any one rate for all parts? `lr` is the "
    f"factor on the base lr after the first growth; the base lr is {BASE_LRS['mlp']:g}, as the seed's, and "
    f"{BASE_LRS['cnn']:g} for the CNN. 'Uniform / 10' is a tenth of it for all parts.",
    train=train,
    settings=("digits mlp", "digits cnn", "mnist mlp"),
    arms={name: Arm((share,)) for name, share in UNIFORM.items()} | {name: Arm((1.0,)) for name in STRATEGIES},
    claims=claims("3, head active") + claims("12, head active"),
    measures=growing.MEASURES,
    axes=("drift", "recovery"),
)
