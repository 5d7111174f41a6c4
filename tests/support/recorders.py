"""Callbacks and a logger that keep what a run did, for comparison."""

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from helpers import weights


class UsedLRs(Callback):
    """Step -> group -> lr that is used at each step, and the lrs that stand in all optimizers then."""

    def __init__(self):
        self.lrs, self.standing = {}, {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        groups = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
        self.lrs.setdefault(trainer.global_step, {}).update(groups)
        every = [group for one in trainer.optimizers for group in one.param_groups]
        self.standing[trainer.global_step] = [float(group["lr"]) for group in every]


class OwnLogger(Logger):
    """A logger of the user's own."""

    name, version = "foreign", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


class See(Callback):
    """Notes something at every step, when gradients are known."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append((trainer.current_epoch, self.look(trainer, pl_module)))

    def in_epoch(self, epoch):
        return [seen for at, seen in self.seen if at == epoch]


class KeepBytes(Callback):
    """Copies of the weights and buffers at the start of every epoch and at the end."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append(weights(pl_module))

    def on_train_end(self, trainer, pl_module):
        self.epochs.append(weights(pl_module))
