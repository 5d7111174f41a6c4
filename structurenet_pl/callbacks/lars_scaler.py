"""Steps in proportion to the weights."""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.lightning import LightningModule, Trainer, rank_zero_warn
from structurenet_pl.optim.probe import normalises_gradients
from structurenet_pl.optim.weight_decay import coupled_weight_decay
from structurenet_pl.structure.events import Component


class LARSScaler(LRFactor):
    r"""Scale steps by the ratio of weight norm to gradient norm.

    .. math:: f = \frac{\tau \lVert w \rVert}{\lVert g \rVert + \lambda \lVert w \rVert + \varepsilon}

    1 where a norm is 0 or not finite. :math:`\lambda` is the weight decay that the optimizer adds to the gradient, 0
    where it acts apart from it (AdamW).

    With ``mode="lr"`` this is the factor of a component, over all its tensors that have a gradient, and works with any
    optimizer; one that normalises gradients itself (Adam) wants ``clip``, or a gradient that nearly vanishes makes the
    step huge. All norms cost one synchronisation with the device in a step.

    With ``mode="grad"`` the factor is 1; gradients are scaled instead, tensor by tensor and without a synchronisation:
    each becomes :math:`f (g + \lambda w) - \lambda w`, so that what plain ``torch.optim.SGD`` adds to its momentum is
    :math:`f (g + \lambda w)`. That is the update of the paper to rounding while the lr of the group stands still. When
    it changes, the paper rescales what the momentum has gathered by the new lr in proportion to the old, and this does
    not, as no other implementation that we know of does. Parameters that the optimizer does not step are left alone.

    Gradients are read (and in ``"grad"`` mode scaled) once before each update: with accumulation when the last batch
    has been added, with a gradient scaler after unscaling. Clipping by the Trainer comes later: in ``"lr"`` mode it
    sees plain gradients, in ``"grad"`` mode the scaled ones, so leave a bound out there that was tuned without LARS.

    Args:
        trust_coefficient: :math:`\tau`, > 0. With 1.0 it is the seed's formula, which has none.
        eps: :math:`\varepsilon`, >= 0.
        mode: ``"lr"``: scale the learning rate of components; ``"grad"``: scale the gradients of tensors.
        clip: Upper bound of the ratio, > 0; None for no bound.
        skip_1d: Whether tensors of one dimension (biases, norms) stand outside the norms and are left alone.
        where: Roles or name patterns of the components that it acts on; None for all.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from structurenet_pl import Component, LARSScaler, Moment, Norms
        >>> now = Moment(norms=lambda component, skip_1d: Norms(weight=2.0, grad=4.0, decay=0.0))
        >>> LARSScaler(trust_coefficient=0.01, eps=0.0).factor(Component("stem"), now)
        0.005

    References:
        Seed document, strategy 8. You et al., `Large Batch Training of Convolutional Networks
        <https://arxiv.org/abs/1708.03888>`_, 2017, equation 6 and algorithm 1.
    """

    needs_gradients = True

    def __init__(
        self,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        mode: Literal["lr", "grad"] = "lr",
        clip: float | None = None,
        skip_1d: bool = True,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if trust_coefficient <= 0:
            raise ValueError(f"trust_coefficient must be > 0, got {trust_coefficient}")
        if eps < 0:
            raise ValueError(f"eps must be >= 0, got {eps}")
        if mode not in ("lr", "grad"):
            raise ValueError(f"mode must be 'lr' or 'grad', got {mode!r}")
        if clip is not None and clip <= 0:
            raise ValueError(f"clip must be > 0, or None for no bound; got {clip}")
        self.trust_coefficient = trust_coefficient
        self.eps = eps
        self.mode = mode
        self.clip = clip
        self.skip_1d = skip_1d

    def factor(self, component: Component, now: Moment) -> float:
        """The trust ratio of the component."""
        if self.mode == "grad":
            return 1.0
        weight, grad, decay = now.norms(component, self.skip_1d)
        if not (0 < weight < math.inf and 0 < grad < math.inf):
            return 1.0
        ratio = self.trust_coefficient * weight / (grad + decay + self.eps)
        return ratio if self.clip is None else min(ratio, self.clip)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where scaled gradients do not do what they are for."""
        others = [type(optimizer).__name__ for optimizer in trainer.optimizers if normalises_gradients(optimizer)]
        if self.mode == "lr" and self.clip is None and others:
            rank_zero_warn(
                f"LARSScaler divides by the norm of the gradients, and {', '.join(others)} normalises them, too: where "
                "they nearly vanish the lr has no bound. Use SGD, or bound the factor with clip=1.0."
            )
        if self.mode == "grad" and others:
            rank_zero_warn(
                f"LARSScaler(mode='grad') scales gradients for SGD; {', '.join(others)} normalises them itself, so "
                "the scale is lost. Use mode='lr' there."
            )

    @torch.no_grad()
    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Scale the gradients in ``"grad"`` mode: the one place in the package that touches them."""
        if self.mode == "lr":
            return
        driver = cast(Driver, Driver.of(trainer))
        acting = {component.name for component in driver.factors.acting_of(self)}
        for group in optimizer.param_groups:
            weights = [
                weight
                for weight in group["params"]
                if weight.grad is not None
                and driver.structure.owner.get(weight) in acting
                and (weight.ndim > 1 or not self.skip_1d)
            ]
            if weights:
                grads = [_values(weight) for weight in weights]
                self._scale(weights, grads, coupled_weight_decay(optimizer, group), group.get("maximize", False))

    def _scale(self, weights: list[Tensor], grads: list[Tensor], decay: float, maximize: bool) -> None:
        weight_norms = torch.stack(torch._foreach_norm(weights))
        grad_norms = torch.stack(torch._foreach_norm(grads))
        ratios = self.trust_coefficient * weight_norms / (grad_norms + decay * weight_norms + self.eps)
        if self.clip is not None:
            ratios = ratios.clamp(max=self.clip)
        known = (weight_norms > 0) & (grad_norms > 0) & weight_norms.isfinite() & grad_norms.isfinite()
        ratios = torch.where(known, ratios, 1.0)
        torch._foreach_mul_(grads, ratios.unbind())
        if decay:
            sign = -1.0 if maximize else 1.0  # SGD turns the gradient around before it adds the decay
            shares = ((ratios - 1) * (sign * decay)).unbind()
            torch._foreach_add_(grads, torch._foreach_mul(weights, shares))


def _values(weight: nn.Parameter) -> Tensor:
    """The numbers of a gradient, to be changed in place; of a sparse one those that are there."""
    grad = cast(Tensor, weight.grad)
    if not grad.is_sparse:
        return grad
    weight.grad = grad.coalesce()
    return weight.grad.values()
