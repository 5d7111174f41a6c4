"""LARSScaler: scale the lr of a component by the ratio of its weight norm to its gradient norm."""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.lightning import LightningModule, Trainer, rank_zero_warn
from structurenet_pl.optim.probe import normalises_gradients
from structurenet_pl.optim.weight_decay import coupled_weight_decay
from structurenet_pl.structure.arguments import check_at_least, check_positive
from structurenet_pl.structure.events import Component
from structurenet_pl.structure.sharded_tensors import local_entries, norms_of_whole


class LARSScaler(LRFactor):
    r"""Scale the lr of a component by the ratio of its weight norm to its gradient norm.

    .. math:: f = \frac{\tau \lVert w \rVert}{\lVert g \rVert + \lambda \lVert w \rVert + \varepsilon}

    where :math:`w` are the weights and :math:`g` the gradients. The ratio is 1 if a norm is 0 or not finite.
    :math:`\lambda` is the weight decay that the optimizer adds to the gradient; it is 0 for an optimizer with decoupled
    weight decay (AdamW).

    ``mode="lr"``: the ratio is the factor of a component. The norms are over all tensors of the component that have a
    gradient. This mode works with any optimizer. An optimizer that normalises gradients itself (Adam) needs ``clip``,
    since a nearly vanishing gradient would otherwise give a huge step. All norms together cost one synchronisation with
    the device per step.

    ``mode="grad"``: the factor is 1, and the gradient of each tensor is scaled by the ratio of this tensor instead,
    without a synchronisation. It becomes :math:`f (g + \lambda w) - \lambda w`, so that plain ``torch.optim.SGD`` adds
    :math:`f (g + \lambda w)` to its momentum. Up to rounding this is the update of the paper, as long as the lr of the
    group is constant. When the lr changes, the paper rescales the momentum by the ratio of the new lr to the old lr.
    This callback does not, like all other implementations that we know of. Parameters that the optimizer does not step
    are not changed.

    Gradients are read (and in ``"grad"`` mode scaled) once before each update: after the last of several accumulated
    batches, and after a gradient scaler has unscaled them. The Trainer clips gradients later: plain gradients in
    ``"lr"`` mode, scaled gradients in ``"grad"`` mode. Do not reuse a clipping bound in ``"grad"`` mode that was tuned
    without LARS.

    With the default :math:`\tau` the base lr must be much larger than for SGD: 12 to 50 times in
    ``examples/evidence``, where accuracy was .05 to .44 lower, and ``trust_coefficient=0.02`` did better. Tensors that
    ``skip_1d`` leaves alone get this base lr itself: if they diverge, take ``skip_1d=False``, or a larger :math:`\tau`.

    Args:
        trust_coefficient: Trust coefficient :math:`\tau`, > 0. The seed's formula has none; 1.0 gives that formula.
        eps: Small constant :math:`\varepsilon` in the denominator, >= 0.
        mode: ``"lr"`` scales the lr of components, ``"grad"`` the gradients of tensors.
        clip: Upper bound of the ratio, > 0; None for no bound.
        skip_1d: Whether to leave tensors with one dimension (biases, norms) out of the norms and not to scale them.
        where: Roles or name patterns of the components that the factor acts on; None for all components.

    Raises:
        ValueError: If ``trust_coefficient`` or ``clip`` is not positive, ``eps`` is negative, or ``mode`` is unknown.

    Example:
        >>> from structurenet_pl import Component, LARSScaler, Moment, Norms
        >>> now = Moment(norms=lambda component, skip_1d: Norms(weight=2.0, grad=4.0, decay=0.0))
        >>> LARSScaler(trust_coefficient=0.01, eps=0.0).factor(Component("stem"), now)
        0.005

    References:
        Seed document, strategy 8 (``structurenet_pl.strategies``).
        You et al., [Large Batch Training of Convolutional Networks](https://arxiv.org/abs/1708.03888), 2017,
        equation 6 and algorithm 1.
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
        check_positive("trust_coefficient", trust_coefficient)
        check_at_least(0, {"eps": eps})
        if clip is not None:
            check_positive("clip", clip, "for no bound, leave it out")
        self.trust_coefficient = trust_coefficient
        self.eps = eps
        self.mode = mode
        self.clip = clip
        self.skip_1d = skip_1d and mode == "lr"  # no groups of their own where the lr is not scaled
        self._spares_1d = skip_1d

    def factor(self, component: Component, now: Moment) -> float:
        """Return the trust ratio of the component; 1 in ``"grad"`` mode."""
        if self.mode == "grad":
            return 1.0
        weight, grad, decay = now.norms(component, self.skip_1d)
        if not (0 < weight < math.inf and 0 < grad < math.inf):
            return 1.0
        ratio = self.trust_coefficient * weight / (grad + decay + self.eps)
        return ratio if self.clip is None else min(ratio, self.clip)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn about optimizers that normalise gradients themselves."""
        normalising = ", ".join(
            type(optimizer).__name__ for optimizer in trainer.optimizers if normalises_gradients(optimizer)
        )
        if self.mode == "lr" and self.clip is None and normalising:
            rank_zero_warn(
                f"LARSScaler divides by the norm of the gradients, and {normalising} normalises gradients, too: if "
                "they nearly vanish, the lr has no bound. Use SGD, or bound the factor with clip=1.0."
            )
        if self.mode == "grad" and normalising:
            rank_zero_warn(
                f"LARSScaler(mode='grad') scales gradients for SGD, but {normalising} normalises gradients, so the "
                "scaling has no effect. Use SGD, or mode='lr'."
            )

    @torch.no_grad()
    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Scale the gradients in ``"grad"`` mode; no other place in the package changes gradients."""
        if self.mode == "lr":
            return
        driver = cast(Driver, Driver.of(trainer))  # the driver itself calls this hook, so there is one
        acting, owner = {component.name for component in driver.factors.acting_of(self)}, driver.structure.owner
        # few passes for many small groups: one for all tensors that differ in nothing but their ratios
        alike: dict[tuple[float, bool, torch.device, torch.dtype], list[Tensor]] = {}
        for group in optimizer.param_groups:
            decay, maximize = coupled_weight_decay(optimizer, group), group.get("maximize", False)
            for weight in group["params"]:
                is_scaled = owner.get(weight) in acting and (weight.ndim > 1 or not self._spares_1d)
                if is_scaled and weight.grad is not None:
                    alike.setdefault((decay, maximize, weight.device, weight.dtype), []).append(weight)
        for (decay, maximize, *_), weights in alike.items():
            self._scale_gradients(weights, decay, maximize)

    def _scale_gradients(self, parameters: list[Tensor], decay: float, maximize: bool) -> None:
        """Scale gradients in place, each by the trust ratio of its tensor."""
        weights = [local_entries(parameter) for parameter in parameters]
        grads = [local_entries(_gradient_values(parameter)) for parameter in parameters]
        # torch's _foreach functions are private, but torch's own optimizers use them: one kernel for all tensors.
        # Nothing here may read a value on the host (such as float() or an `if` on a tensor), for it would wait for the
        # device in each step.
        norms = torch.stack(torch._foreach_norm(weights + grads))
        weight_norms, grad_norms = norms_of_whole(norms.view(2, -1), parameters).unbind()
        ratios = self.trust_coefficient * weight_norms / (grad_norms + decay * weight_norms + self.eps)
        if self.clip is not None:
            ratios = ratios.clamp(max=self.clip)
        known = (weight_norms > 0) & (grad_norms > 0) & weight_norms.isfinite() & grad_norms.isfinite()
        ratios = torch.where(known, ratios, 1.0)
        torch._foreach_mul_(grads, ratios.unbind())
        if decay:  # SGD adds the decay later, unscaled: add (f - 1) times the decay here, so that the sum is scaled
            sign = -1.0 if maximize else 1.0  # SGD negates the gradient before it adds the decay
            shares = ((ratios - 1) * (sign * decay)).unbind()
            torch._foreach_addcmul_(grads, weights, shares)  # no copy of the weights, as a product would be


def _gradient_values(weight: Tensor) -> Tensor:
    """Return the tensor that holds the values of a gradient, for changes in place; of a sparse gradient its values."""
    grad = cast(Tensor, weight.grad)
    if not grad.is_sparse:
        return grad
    weight.grad = grad.coalesce()  # sums duplicate indices; without this, values() raises an error
    return weight.grad.values()
