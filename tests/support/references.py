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


def timm_layer_decay():
    """timm's ``param_groups_layer_decay``, None if timm is not installed."""
    root = find_timm()
    if root is None:
        return None
    for name in ("models", "layers"):  # as packages, they import torchvision
        package = types.ModuleType(f"timm.{name}")
        package.__path__ = [str(root / name)]
        sys.modules.setdefault(package.__name__, package)
    config = importlib.import_module("timm.layers.config")
    sys.modules["timm.layers"].use_reentrant_ckpt = config.use_reentrant_ckpt
    sys.modules["timm.models"].group_parameters = importlib.import_module("timm.models._manipulate").group_parameters
    return importlib.import_module("timm.optim._param_groups").param_groups_layer_decay


def layer_decay(name, blocks, decay, norm):
    """The factor of a vision transformer's parameter: embedding 0, blocks 1 to n, head n + 1; `norm` is given."""
    first, _, rest = name.partition(".")
    last = blocks + 1
    layers = {"cls_token": 0, "pos_embed": 0, "patch_embed": 0, "norm": norm, "head": last}
    return decay ** (last - (int(rest.partition(".")[0]) + 1 if first == "blocks" else layers[first]))


def loraplus_groups(module, lr, ratio):
    """The param groups of peft's ``create_loraplus_optimizer``: lr for A, ratio times lr for B, no weight decay."""
    trained = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    of_a, of_b = ([weight for name, weight in trained if ("lora_B" in name) == of_b] for of_b in (False, True))
    return [{"params": of_a, "lr": lr, "weight_decay": 0.0}, {"params": of_b, "lr": lr * ratio, "weight_decay": 0.0}]


def freeze_out_saving(growth, blocks, t_0, power):
    """The estimate in FreezeOut's repository for its DenseNet, but for the factor 1.3 of the linear spacing.

    Three stages of images of 32, 16 and 8 pixels. The forward pass is done in whole, the backward pass of a layer for
    its own share of the run.
    """
    costs, channels = [3 * 2 * growth * 32**2 * 9], 2
    for pixels in (32**2, 16**2, 8**2):
        for _ in range(blocks):
            costs.append(channels * 4 * growth**2 * pixels + 36 * growth**2 * pixels)
            channels += 1
        channels //= 2
    shares = [(t_0 + (1 - t_0) * index / len(costs)) ** power for index in range(len(costs))]
    backward = sum(cost * share for cost, share in zip(costs, shares, strict=True))
    return costs, 1 - (sum(costs) + backward) / (2 * sum(costs))


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
