"""New parameters beside a tensor-parallel plan: all processes must compute the same gradients for them."""

import torch
from torch import nn

from structurenet_pl.lightning import MisconfigurationException


def compare_first_gradients(name: str, parameter: nn.Parameter) -> None:
    """Compare the first gradient of a new parameter between the processes, in the backward pass.

    Processes of one plan train on the same data. Between the layers of the plan each of them holds a part of the
    activations only. A parameter that was put there gets another gradient on each process, and nobody reduces these.

    Args:
        name: Name of the parameter.
        parameter: The parameter, of which each process holds a copy.

    Raises:
        MisconfigurationException: In the backward pass, on every process, if the gradients differ.
    """

    def compare(parameter: torch.Tensor) -> None:
        handle.remove()
        # a hook that runs before this one may have taken the gradient away, and the other processes wait for this one
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        ends = torch.stack([gradient, -gradient])
        largest, negated_smallest = ends  # views, which all_reduce changes in place
        torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
        # kernels of a GPU may sum in another order on each process; gradients of other parts differ far more
        tolerance = torch.finfo(gradient.dtype).eps ** 0.5
        if (largest + negated_smallest).norm() > tolerance * ends.amax(0).norm():
            raise MisconfigurationException(
                f"the gradients of the new parameter {name!r} differ between processes of a tensor-parallel plan: it "
                "stands between layers of the plan, where each process holds a part of the activations, so its copies "
                "would drift apart. Grow parts whose inputs are whole, before or behind the layers of the plan, or "
                "grow before configure_model applies the plan."
            )

    handle = parameter.register_post_accumulate_grad_hook(compare)
