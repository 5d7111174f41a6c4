"""Scales the updates of slow cohorts, because a param group has one lr for all entries of a tensor."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from structurenet_pl.learning_rates.factor_matrix import FactorMatrix
from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.optim.probe import update_can_be_scaled
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.optim.wrappers import after_closure, hookable_optimizers, with_inner
from structurenet_pl.structure.cohorts import Block, blocks


class CohortUpdates:
    r"""Scales the updates of slow cohorts after each step of an optimizer.

    .. math:: w \leftarrow w_{before} + s \cdot (w_{after} - w_{before})

    A piece has the lr of its fastest cohort; :math:`s` is the product of the factors of another cohort over that of the
    fastest. For optimizers that compute each entry by itself (SGD, Adam and their kin) this equals a ``Parameter`` with
    an lr of its own for each cohort, to rounding. For optimizers that use a norm over the tensor (Adafactor, LAMB) it
    is the definition.

    With :math:`s = 0` the old value is restored, also if the update was inf or nan. The optimizer state of such entries
    goes on, unlike that of a frozen component.

    Hooks are registered while a cohort is slow only.

    Args:
        groups: The pieces of the optimizer.
        matrix: The factors of the pieces and cohorts.
    """

    def __init__(self, groups: SplitGroups, matrix: FactorMatrix) -> None:
        self._groups = groups
        self._matrix = matrix
        self._hooks: list[RemovableHandle] = []
        self._planned: dict[int, dict[int, float]] = {}
        self._parts: list[tuple[Tensor, Block, float]] = []
        self._kept: list[tuple[Tensor, Tensor, float]] = []

    def update(self) -> None:
        """Register hooks if a cohort is slow, else remove them.

        Raises:
            MisconfigurationException: If a cohort is slow and the optimizer keeps weights in its state.
        """
        if bool(self._matrix.slow) == bool(self._hooks):
            return
        if self._hooks:
            self.remove()
            return
        for part in with_inner(self._groups.optimizer):
            if not update_can_be_scaled(part):
                raise MisconfigurationException(
                    f"{type(part).__name__} keeps a copy of the weights in its state, so entries of one tensor cannot "
                    "have different learning rates: use an optimizer without such a copy, or factors that are equal "
                    "for old and new entries of a widened component."
                )
        stepping = hookable_optimizers(self._groups.optimizer)[0]
        # torch.compile cannot trace the hooks: with disable it leaves them out of the graph, and calls them
        self._hooks = [
            stepping.register_step_pre_hook(torch.compiler.disable(self._keep_before_update)),
            stepping.register_step_post_hook(torch.compiler.disable(self._scale_after_update)),
        ]

    def remove(self) -> None:
        """Remove the hooks."""
        while self._hooks:
            self._hooks.pop().remove()

    def _keep_before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        # after the closure, in which factors that need gradients are evaluated
        return after_closure(args, kwargs, self._keep)

    def _scale_after_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        with torch.no_grad():
            for entries, before, share in self._kept:
                if share:
                    entries.lerp_(before, 1 - share)
                else:  # lerp would give nan where the update is inf
                    entries.copy_(before)
        self._kept = []

    def _keep(self) -> None:
        """Copy the entries whose update is going to be scaled."""
        if self._planned is not self._matrix.slow:
            self._plan()
        kept = [(tensor.detach()[block], share) for tensor, block, share in self._parts if tensor.grad is not None]
        self._kept = [(entries, entries.clone(), share) for entries, share in kept]

    def _plan(self) -> None:
        """List the blocks of all tensors with a share below 1."""
        self._planned = self._matrix.slow
        pieces, structure = self._groups.optimizer.param_groups, self._groups.structure
        self._parts = []
        for row, shares in self._planned.items():
            component = structure.components[self._groups.group_infos[pieces[row]["name"]].component]
            for tensor in pieces[row]["params"]:
                whole = [((), component.born.generation)]  # all entries were born with the component
                generations = structure.generations.get(tensor)
                for block, generation in whole if generations is None else blocks(generations):
                    if shares[generation] != 1:
                        self._parts.append((tensor, block, shares[generation]))
