"""One growth to 2, 4 and 8 times the width, against training from scratch."""

from collections.abc import Mapping

from lightning.pytorch import Callback

from examples.evidence.blocks.widening import MEASURES, RESCALED_PAIRS, WIDTHS, WideningNet, train_and_measure
from examples.evidence.data import split
from examples.evidence.experiment import Arm, Block, Claim, Trial, better
from examples.evidence.training import ResetState
from structurenet_pl import GrowEvery

LRS = (0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
EPOCHS = 15
GROWTH_AT = 5
EQUAL_WORK = 11
"""Epochs of the final network with about as many multiply-adds as 15 epochs with a growth by 4; ``work`` shows it."""

TIMES = (2, 4, 8)


def train(trial: Trial) -> Mapping[str, float]:
    """Train one network; all end with the same width."""
    name, kind = trial.setting.split()
    data, final = split(name, trial.seed), WIDTHS[kind][-1]
    epochs = EQUAL_WORK if trial.arm == "scratch, equal work" else EPOCHS
    widths, callbacks = [final], list[Callback]()
    if not trial.arm.startswith("scratch"):
        times, _, reset = trial.arm.partition(", state ")
        widths = [final // int(times.removeprefix("times ")), final]
        callbacks = [GrowEvery("wider", every=GROWTH_AT, limit=1, arguments=RESCALED_PAIRS)]
        callbacks += [ResetState()] if reset else []
    net = WideningNet(kind, data.side, trial.lr, "cosine", widths)
    measures, _ = train_and_measure(net, name, data, epochs, callbacks)
    return measures


BLOCK = Block(
    question="Networks that grow once, after epoch 5 of 15, to 2, 4 and 8 times their width and to the same final "
    "size, against that size from scratch: what does it cost in accuracy, and what does it save?",
    train=train,
    settings=("digits mlp", "digits cnn"),
    arms={
        "scratch": Arm(LRS),
        "scratch, equal work": Arm(LRS),
        **{f"times {times}": Arm(LRS) for times in TIMES},
        **{f"times {times}, state reset": Arm(lr_of=f"times {times}") for times in TIMES},
    },
    claims=(
        *(
            Claim(f"times {times} is as good as scratch", "accuracy", f"times {times}", "scratch", above=-0.005)
            for times in TIMES
        ),
        better("times 4 beats scratch at equal work", "times 4", "scratch, equal work"),
        Claim("times 4 needs less work to the target", "work_to_target", "times 4", "scratch", below=1.0, ratio=True),
        Claim("times 4 takes less CPU time", "seconds", "times 4", "scratch", below=1.0, ratio=True),
        better("carried state beats reset", "times 4", "times 4, state reset"),
    ),
    measures=MEASURES,
    axes=("work", "accuracy"),
)
