"""What our numbers are compared with: transcriptions of formulae, and a peer where it is installed."""

import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

import torch


@torch.no_grad()
def paper_lars(weights, gradients, lr, momentum, decay, trust, steps):
    """Algorithm 1 of arXiv 1708.03888, line by line, in place, on float64 weights."""
    velocities = [torch.zeros_like(weight) for weight in weights]
    for step in range(steps):
        with torch.enable_grad():
            grads = gradients(step)
        for weight, grad, velocity in zip(weights, grads, velocities, strict=True):
            local_lr = trust * weight.norm() / (grad.norm() + decay * weight.norm())
            velocity.copy_(momentum * velocity + lr * local_lr * (grad + decay * weight))
            weight -= velocity


class Lars(torch.optim.Optimizer):
    """What timm's Lars does with `always_adapt=True`, written down from its documentation of the update."""

    def __init__(self, params, lr, momentum, weight_decay, trust_coeff, eps, always_adapt):
        settings = {"lr": lr, "momentum": momentum, "decay": weight_decay, "trust": trust_coeff, "eps": eps}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                norm, decay = weight.norm(), group["decay"]
                ratio = group["trust"] * norm / (weight.grad.norm() + norm * decay + group["eps"])
                scaled = ratio * (weight.grad + decay * weight)
                buffer = self.state[weight].setdefault("buffer", torch.zeros_like(weight))
                buffer.copy_(group["momentum"] * buffer + scaled)
                weight -= group["lr"] * buffer
        return loss


def find_timm():
    """Where timm is, None if nowhere. As a whole it needs torchvision, which has no CPU build.

    After the call ``timm.scheduler`` and the files of ``timm.optim`` can be imported.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None:
        return None
    root = Path(spec.origin).parent
    for name, path in {"timm": root, "timm.optim": root / "optim"}.items():
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        package.__spec__ = importlib.machinery.ModuleSpec(name, None, origin=str(path / "__init__.py"))
        sys.modules.setdefault(name, package)
    return root


def timm_optimizers():
    """The optimizers of timm by name, none if it is not installed."""
    root = find_timm()
    files = sorted(root.glob("optim/[a-z]*.py")) if root else []
    modules = [importlib.import_module(f"timm.optim.{file.stem}") for file in files if file.stem != "optim_factory"]
    return {
        f"{module.__name__.rpartition('.')[-1]}.{kind.__name__}": kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind.__module__ == module.__name__
    }


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
