"""What our numbers are compared with: transcriptions of formulae, and a peer where it is installed."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import torch


def paper_lars(weights, grads, lr, momentum, decay, trust, steps):
    """Algorithm 1 of arXiv 1708.03888 in float64, on gradients given for each step."""
    weights = [weight.double() for weight in weights]
    buffers = [torch.zeros_like(weight) for weight in weights]
    for step in range(steps):
        for index, weight in enumerate(weights):
            grad = grads(step, index, weight).double()
            rate = trust * weight.norm() / (grad.norm() + decay * weight.norm())
            buffers[index] = momentum * buffers[index] + lr * rate * (grad + decay * weight)
            weights[index] = weight - buffers[index]
    return weights


def timm_lars():
    """timm's Lars; timm as a whole needs torchvision, which has no CPU build, so only this module is loaded."""
    spec = importlib.util.find_spec("timm")
    if spec is None:
        return None
    root = Path(spec.origin).parent
    for name, path in {"timm": root, "timm.optim": root / "optim"}.items():
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules.setdefault(name, package)
    return importlib.import_module("timm.optim.lars").Lars


def seed_combined(born, role, index, n_scaffold, epoch, base_lr=1e-3):
    """The seed's `create_optimal_lr_schedule` for one component, in plain Python.

    Decided where the seed contradicts itself: age is the component's own, the warm-up starts at 1/5 and not at 0, and a
    newborn patch has both factors.
    """
    lr = base_lr
    if role == "scaffold":
        age_factor = 0.1 ** ((epoch - born) // 20)
        depth_factor = 0.1 ** (index / n_scaffold)
        lr = lr * age_factor * depth_factor
    if role == "patch":
        lr = lr * 0.5
    if born > 0:
        lr = lr * min(1.0, (epoch - born + 1) / 5)
    return lr
