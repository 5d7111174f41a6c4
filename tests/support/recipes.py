"""A recipe for every scheduler and optimizer that torch exports; what a new torch adds has to be added here."""

import inspect

import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim import swa_utils

EPOCHS, BATCHES = 8, 4
STEPS = EPOCHS * BATCHES


def cyclic(optimizer):
    return {"cycle_momentum": "momentum" in optimizer.defaults or "betas" in optimizer.defaults}


SCHEDULERS = {
    "LambdaLR": lambda optimizer: schedulers.LambdaLR(optimizer, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda optimizer: schedulers.MultiplicativeLR(optimizer, lambda t: 0.9),
    "StepLR": lambda optimizer: schedulers.StepLR(optimizer, 3),
    "MultiStepLR": lambda optimizer: schedulers.MultiStepLR(optimizer, [2, 5]),
    "ConstantLR": lambda optimizer: schedulers.ConstantLR(optimizer, total_iters=6),
    "ExponentialLR": lambda optimizer: schedulers.ExponentialLR(optimizer, 0.9),
    "CosineAnnealingLR": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 5, eta_min=0.003),
    "CosineAnnealingWarmRestarts": lambda optimizer: schedulers.CosineAnnealingWarmRestarts(optimizer, 3),
    "LinearLR": lambda optimizer: schedulers.LinearLR(optimizer, total_iters=6),
    "PolynomialLR": lambda optimizer: schedulers.PolynomialLR(optimizer, total_iters=7, power=2),
    "CyclicLR": lambda optimizer: schedulers.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, **cyclic(optimizer)),
    "OneCycleLR": lambda optimizer: schedulers.OneCycleLR(optimizer, 0.2, total_steps=STEPS + 1, **cyclic(optimizer)),
    "ReduceLROnPlateau": lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, patience=0, min_lr=[0.001]),
    "SequentialLR": lambda optimizer: schedulers.SequentialLR(
        optimizer,
        [schedulers.LinearLR(optimizer, total_iters=4), schedulers.CosineAnnealingLR(optimizer, 4)],
        milestones=[4],
    ),
    "ChainedScheduler": lambda optimizer: schedulers.ChainedScheduler(
        [schedulers.LinearLR(optimizer, total_iters=4), schedulers.ExponentialLR(optimizer, 0.9)]
    ),
    "SWALR": lambda optimizer: swa_utils.SWALR(optimizer, swa_lr=0.02, anneal_epochs=5),
}

# More than one class deep, beside what is exported.
NESTED_SCHEDULERS = {
    "Sequential in Sequential": lambda optimizer: schedulers.SequentialLR(
        optimizer,
        [SCHEDULERS["SequentialLR"](optimizer), SCHEDULERS["ExponentialLR"](optimizer)],
        milestones=[5],
    ),
    "Sequential in Chained": lambda optimizer: schedulers.ChainedScheduler(
        [SCHEDULERS["SequentialLR"](optimizer), SCHEDULERS["MultiStepLR"](optimizer)]
    ),
}

ABSTRACT_SCHEDULERS = {"LRScheduler"}


def exported_schedulers():
    """The concrete schedulers that this torch has."""
    return {*schedulers.__all__, "SWALR"} - ABSTRACT_SCHEDULERS


def ignore_warnings_of_torch(test):
    """Ignore the warnings that torch and Lightning give for some recipes, with this package and without."""
    for start in ("A `OneCycleLR` scheduler is using 'interval'. 'epoch'", "Detected call of `lr_scheduler.step"):
        test = pytest.mark.filterwarnings(f"ignore:{start}")(test)
    return test


# What each optimizer is made with; all take the parameters first.
OPTIMIZERS = {
    "ASGD": {"lr": 0.1},
    "Adadelta": {"lr": 1.0},
    "Adafactor": {"lr": 0.05},
    "Adagrad": {"lr": 0.1},
    "Adam": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01},
    "Adamax": {"lr": 0.01},
    "LBFGS": {"lr": 0.1},
    "Muon": {"lr": 0.05},
    "NAdam": {"lr": 0.01},
    "RAdam": {"lr": 0.01},
    "RMSprop": {"lr": 0.01, "momentum": 0.9, "centered": True},
    "Rprop": {"lr": 0.01},
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    "SparseAdam": {"lr": 0.01},
}

# Why one of them cannot have an lr for each component of an ordinary network; each has a test of its own.
SPECIAL = {
    "LBFGS": "takes one param group only",
    "Rprop": "follows its lr in the first step only",
    "SparseAdam": "takes sparse gradients only",
}


def exported_optimizers():
    """The optimizers that this torch has."""
    found = (getattr(torch.optim, name) for name in torch.optim.__all__)
    return {kind.__name__ for kind in found if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)} - {
        "Optimizer"
    }


ORDINARY = sorted(exported_optimizers() - SPECIAL.keys())


def variants(name):
    """The implementations that an optimizer has here: a loop, foreach, fused, with the lr in a tensor."""
    known = inspect.signature(getattr(torch.optim, name)).parameters
    flags = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    found = {label: flag for label, flag in flags.items() if flag.keys() <= known.keys()} or {"only": {}}
    if "capturable" in known and torch.cuda.is_available():
        found["capturable"] = {"capturable": True}
    return found


def make(name, **more):
    """A function of the parameters; Muon takes matrices only."""

    def optimizer(params):
        params = [weight for weight in params if name != "Muon" or weight.ndim == 2]
        return getattr(torch.optim, name)(params, **OPTIMIZERS[name] | more)

    return optimizer
