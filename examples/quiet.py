"""Keep Lightning's banners, tips and warnings about tiny data out of the terminal, so that results stand alone."""

import logging
import warnings


def quiet() -> None:
    """Call this before the first Trainer is made."""
    for name in ("lightning.pytorch", "pytorch_lightning"):  # where both are installed, either may log for both
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the data are in memory
        ".*number of training batches.*",  # a small epoch has fewer batches than there are steps from log to log
        "Checkpoint directory .* exists",  # a resumed run uses the same folder
        ".*FSDP2-wrapped module.*view tensor.*",  # nothing changes the output of a unit in place
        ".*LeafSpec.*",  # lightning 2.6 calls an API that torch 2.13 deprecates
    ):
        warnings.filterwarnings("ignore", message=message)
