"""Growth by the clock against growth on plateau, at equal final size and equal steps."""

from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from examples.evidence.blocks.widening import MEASURES, RESCALED_PAIRS, WIDTHS, WideningNet, train_and_measure
from examples.evidence.data import Part, split
from examples.evidence.experiment import Arm, Block, Claim, Trial, better
from examples.evidence.nets import Kind
from examples.evidence.training import ResetState
from structurenet_pl import GrowEvery, GrowOnPlateau

LRS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
EPOCHS = 16
DEADLINE = 12
"""Epochs after which a network grows to its final size in any case, so that all end with the same size."""

MIN_DELTA: Mapping[Kind, float] = {"mlp": 0.02, "cnn": 0.1}
"""What counts as an improvement of the validation loss. The CNN improves for longer: at .02 it would not grow before
the deadline."""

CLOCKS = ("every 2 epochs", "every 4 epochs", "every 6 epochs")


class ValidatedNet(WideningNet):
    """Validate after each epoch on given data."""

    part: Part

    def val_dataloader(self) -> DataLoader:
        return DataLoader([tuple(self.part)], batch_size=None)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("val_loss", cross_entropy(self(images), labels))


class GrowByDeadline(Callback):
    """Make up for the growths that a trigger has not asked for until the deadline, and stop the trigger."""

    def __init__(self, trigger: GrowOnPlateau) -> None:
        self.trigger = trigger

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == DEADLINE:
            self.trigger.limit = 0
            while pl_module.width < pl_module.widths[-1]:
                pl_module.wider(**RESCALED_PAIRS)


def _callbacks(arm: str, kind: Kind, limit: int) -> list[Callback]:
    arm, _, reset = arm.partition(", state ")
    others: list[Callback] = [ResetState()] if reset else []
    if arm in CLOCKS:
        return [GrowEvery("wider", every=int(arm.split()[1]), limit=limit, arguments=RESCALED_PAIRS), *others]
    if arm.startswith("plateau"):
        patience = int(arm.split()[-1])
        plateau = GrowOnPlateau("wider", "val_loss", patience, MIN_DELTA[kind], limit=limit, arguments=RESCALED_PAIRS)
        return [plateau, GrowByDeadline(plateau), *others]
    return others


def train(trial: Trial) -> Mapping[str, float]:
    """Train one network that doubles its width twice."""
    name, kind = trial.setting.split()
    data, widths = split(name, trial.seed), WIDTHS[kind][::2]
    # under a schedule that ends at 0, late growth would have another disadvantage
    net = ValidatedNet(kind, data.side, trial.lr, "constant", widths[-1:] if trial.arm == "static" else widths)
    net.part = data.val
    measures, growths = train_and_measure(net, name, data, EPOCHS, _callbacks(trial.arm, kind, len(widths) - 1))
    return measures | {"grown_at": sum(growths) / max(1, len(growths))}


BLOCK = Block(
    question="Networks that double their width twice in 16 epochs of a constant lr, after so many epochs each, or when "
    "the validation loss has not fallen by .02 (CNN: .1) for 1 or 2 epochs, at the latest after epoch 12. All end with "
    "the same size after the same steps. The field says that the clock wins, and that waiting for convergence harms.",
    train=train,
    settings=("digits mlp", "digits cnn"),
    arms={
        "static": Arm(LRS),
        **{clock: Arm(LRS) for clock in CLOCKS},
        "plateau, patience 1": Arm(LRS),
        "plateau, patience 2": Arm(LRS),
        "every 4 epochs, state reset": Arm(lr_of="every 4 epochs"),
        "plateau, patience 2, state reset": Arm(lr_of="plateau, patience 2"),
    },
    claims=(
        better("the clock wins", "every 4 epochs", "plateau, patience 2"),
        better("the clock wins against an impatient plateau, too", "every 4 epochs", "plateau, patience 1"),
        Claim(
            "the clock wins at equal work",
            "accuracy",
            "plateau, patience 2",
            below=0.0,
            matched_on=("work", (*CLOCKS, "static")),
        ),
        better("early growth beats late growth", "every 2 epochs", "every 6 epochs"),
        better("carried state beats reset", "every 4 epochs", "every 4 epochs, state reset"),
        Claim("growth by the clock is as good as static", "accuracy", "every 4 epochs", "static", above=-0.005),
    ),
    measures=MEASURES | {"grown_at": "mean of the epochs after which it grew"},
    axes=("work", "accuracy"),
)
