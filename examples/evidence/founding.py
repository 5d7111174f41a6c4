"""Networks before growth: each is trained once, and all arms go on from it, so that they differ after growth only."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from uuid import uuid4

from lightning.pytorch import Callback, seed_everything

from examples.evidence.data import split
from examples.evidence.nets import Net
from examples.evidence.training import fit


@lru_cache(maxsize=256)
def founded(
    make: type[Net],
    name: str,
    kind: str,
    lr: float,
    seed: int,
    epochs: int,
    batch_size: int,
    callbacks: Callable[[], Sequence[Callback]] = tuple,
) -> str:
    """Train a network that does not grow; return where its checkpoint is, which holds the random state, too."""
    seed_everything(seed, verbose=False)
    data = split(name, seed)
    trainer = fit(make(kind, data.side, lr), data.train, epochs, callbacks(), batch_size)
    # in memory: a process of a pool does not tidy up temporary folders
    file = f"memory://{uuid4()}.ckpt"
    trainer.save_checkpoint(file)
    return file
