"""Runs that are stopped in the middle and resumed, for test_resume.

Started as ``resume_worker.py FOLDER`` it trains the second half of each, in a process of its own.
"""

import itertools
import sys

import torch

from helpers import LRTrace, Net, Plain, example_factors, fit, loader
from structurenet_pl import GrowEvery

HALF = 3
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
}
GROWS_AT = {"before": HALF + 1, "at": HALF, "after": HALF - 1}  # when the run stops, seen from the growth
EXTRA = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}

ROWS = {
    f"{optimizer}-{stop}": {"optimizer": optimizer, "grow": grow, "extra": {}}
    for optimizer, (stop, grow) in itertools.product(OPTIMIZERS, GROWS_AT.items())
}
ROWS |= {f"{name}-extra": row | {"extra": EXTRA} for name, row in list(ROWS.items()) if name.startswith("adamw")}
ROWS |= {f"{name}-decay": row | {"split": True} for name, row in list(ROWS.items()) if name.startswith("adamw-a")}
ROWS["plain"] = {"optimizer": "adam", "grow": None, "extra": EXTRA}


def two_groups(make):
    """The usual decay / no decay, as people write it."""

    def optimizer(params):
        params = list(params)
        decay, no_decay = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
        return make([{"params": decay}, {"params": no_decay, "weight_decay": 0.0}])

    return optimizer


def start(row, epochs, callbacks=(), ckpt_path=None, **kwargs):
    make = OPTIMIZERS[row["optimizer"]]
    settings = {
        "optimizer": two_groups(make) if row.get("split") else make,
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * HALF + 1),
    }
    record = LRTrace()
    if row["grow"] is None:
        # random numbers are restored for modules that grow, and only for them
        module, growth, data = Plain(**settings), [], loader(6, shuffle=False)
        module.body[2].p = 0.0
    else:
        module, data = Net(**settings), loader(6)
        growth = [
            GrowEvery("add_patch", row["grow"], limit=1, arguments={"at": 1}),
            GrowEvery("add_neck", row["grow"], limit=1),
        ]
    callbacks = [*growth, *example_factors(), record, *callbacks]
    trainer = fit(module, callbacks, epochs, ckpt_path, data=data, **row["extra"], **kwargs)
    optimizer = trainer.optimizers[0]
    return {
        "weights": dict(module.state_dict()),
        "optimizer": optimizer.state_dict(),
        "lrs": [float(group["lr"]) for group in optimizer.param_groups],
        "rows": record.rows,
    }


def second_half(row, checkpoint):
    return start(row, 2 * HALF, ckpt_path=checkpoint)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(12345)  # a resumed run must not depend on the random state of a fresh process
    folder = sys.argv[1]
    for name, row in ROWS.items():
        torch.save(second_half(row, f"{folder}/{name}/half.ckpt"), f"{folder}/{name}.pt")
