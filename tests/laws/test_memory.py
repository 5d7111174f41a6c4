"""After a fit nothing of it stays in memory once the user has let go of it."""

import gc
import weakref

from helpers import Net, example_factors, fit
from structurenet_pl import GrowEvery


def test_a_fit_is_freed():
    """Also through attributes that Lightning sets on callbacks, such as ``callback.log``, a method of the module."""
    module = Net()
    trainer = fit(module, [*example_factors(), GrowEvery("add_neck", every=1, limit=1)])
    held = [weakref.ref(one) for one in (module, trainer, trainer.optimizers[0], next(module.parameters()))]
    del module, trainer
    gc.collect()
    assert [one() for one in held] == [None] * 4
