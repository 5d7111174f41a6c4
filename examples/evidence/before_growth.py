"""Networks before growth: each is trained once, and all arms go on from it, so that they differ after growth only."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from uuid import uuid4

from lightning.pytorch import Callback, seed_everything

from examples.evidence.data import split
from examples.evidence.nets import Kind, Net
from examples.evidence.training import fit

BASE_LRS: Mapping[Kind, float] = {"mlp": 1e-3, "cnn": 4e-3}
"""In ``continual`` and ``stability``. The MLP has that of the seed document; a CNN with few channels needs a higher one
with Adam."""

PHASE = 20
"""Epochs before, between and after two growths, in ``continual`` and ``stability``. At this age parts become sediment
in strategy 12 of the seed document."""


@lru_cache(maxsize=256)
def checkpoint_before_growth(
    net_class: type[Net],
    dataset: str,
    kind: Kind,
    lr: float,
    seed: int,
    growth_epoch: int,
    batch_size: int,
    callbacks: Callable[[], Sequence[Callback]] = tuple,
) -> str:
    """Train a network until growth is near; return where its checkpoint is, which holds the random state, too."""
    seed_everything(seed, verbose=False)
    data = split(dataset, seed)
    epochs = growth_epoch - 1  # growth comes at the end of the next one, which each arm trains
    trainer = fit(net_class(kind, data.side, lr), data.train, epochs, callbacks(), batch_size)
    # in memory: a process of a pool does not tidy up temporary folders
    file = f"memory://{uuid4()}.ckpt"
    trainer.save_checkpoint(file)
    return file
