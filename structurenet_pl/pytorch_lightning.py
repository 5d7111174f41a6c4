"""The package for users of ``pytorch_lightning`` who have ``lightning`` installed, too.

It exports all names of ``structurenet_pl``. Only ``GrowableModule`` differs: it extends the LightningModule of
``pytorch_lightning``.
"""

from pytorch_lightning import LightningModule

import structurenet_pl
from structurenet_pl import *  # noqa: F403
from structurenet_pl import GrowthMixin

__all__ = structurenet_pl.__all__


class GrowableModule(GrowthMixin, LightningModule):  # type: ignore[no-redef]
    """A LightningModule of ``pytorch_lightning`` that can grow while it trains.

    Example:
        >>> from pytorch_lightning import LightningModule
        >>> from structurenet_pl.pytorch_lightning import GrowableModule
        >>> issubclass(GrowableModule, LightningModule)
        True
    """
