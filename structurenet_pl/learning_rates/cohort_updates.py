"""Scales the updates of slow cohorts, because a param group has one lr for all entries of a tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor

from structurenet_pl.learning_rates.factor_matrix import FactorMatrix
from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.optim.probe import update_can_be_scaled
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.optim.wrappers import with_inner
from structurenet_pl.structure.cohorts import Block, block_count, blocks, generation_of_entries
from structurenet_pl.structure.sharded_tensors import generations_of_shard, local_entries

# of one tensor; with more, as after old and new entries were shuffled, the whole tensor is scaled entry by entry
MAX_BLOCKS = 32


class CohortUpdates:
    r"""Scales the updates of slow cohorts after each step of an optimizer.

    .. math:: w \leftarrow w_{before} + s \cdot (w_{after} - w_{before})

    A piece has the lr of its fastest cohort; :math:`s` is the product of the factors of another cohort over that of the
    fastest. For optimizers that compute each entry by itself (SGD, Adam and their kin) this equals a ``Parameter`` with
    an lr of its own for each cohort, to rounding. For optimizers that use a norm over the tensor (Adafactor, LAMB) it
    is the definition.

    With :math:`s = 0` the old value is restored, also if the update was inf or nan. The optimizer state of such entries
    goes on, unlike that of a frozen component.

    The table calls this object from its own hooks: a cohort may become slow within a step, by a factor that reads
    gradients, and hooks cannot be registered there. Nothing is copied while no cohort is slow.

    Args:
        groups: The pieces of the optimizer.
        matrix: The factors of the pieces and cohorts.

    Attributes:
        kept: The entries whose update is going to be scaled, with their old values and shares, from the moment of a
            step when gradients are known to its end; else None.
    """

    def __init__(self, groups: SplitGroups, matrix: FactorMatrix) -> None:
        self.kept: list[tuple[Tensor, Tensor, float | Tensor]] | None = None
        self._groups = groups
        self._matrix = matrix
        self._cohorts: Mapping[int, object] = {}  # of the matrix, when the blocks were listed
        self._blocks: list[tuple[int, Tensor, Block, int]] = []  # row, tensor, block and its generation
        self._shuffled: list[tuple[int, Tensor, Tensor]] = []  # row, tensor with many blocks, generation of each entry
        self._planned: Mapping[int, Mapping[int, float]] = {}
        self._parts: list[tuple[Tensor, Block, float | Tensor]] = []
        self._is_checked = False

    def update(self) -> None:
        """Follow the matrix, which has new values.

        Raises:
            MisconfigurationException: If a cohort is slow and the optimizer keeps weights in its state.
        """
        if self._matrix.slow and not self._is_checked:
            self._check_optimizer()
            self._is_checked = True
        if self.kept is not None:  # a later hook before the step has evaluated factors that read gradients
            self.keep()

    def keep(self) -> None:
        """Copy the entries whose update is going to be scaled."""
        if self._planned is not self._matrix.slow:
            self._plan()
        elif self.kept:
            return  # an optimizer may call its closure twice, and move the weights in between
        parts = [
            (local_entries(tensor.detach())[block], share)
            for tensor, block, share in self._parts
            if tensor.grad is not None
        ]
        self.kept = [(entries, entries.clone(), share) for entries, share in parts]

    def scale(self) -> None:
        """Scale the updates of these entries."""
        with torch.no_grad():
            for entries, before, share in self.kept or ():
                if isinstance(share, Tensor):
                    scaled = torch.lerp(before, entries, share)
                    # as below; and where the share is 1, lerp would round
                    scaled = torch.where(share == 0, before, torch.where(share == 1, entries, scaled))
                    entries.copy_(scaled)
                elif share:
                    entries.lerp_(before, 1 - share)
                else:  # lerp would give nan where the update is inf
                    entries.copy_(before)

    def _check_optimizer(self) -> None:
        for part in with_inner(self._groups.optimizer):
            if not update_can_be_scaled(part):
                raise MisconfigurationException(
                    f"{type(part).__name__} keeps a copy of the weights in its state, so entries of one tensor cannot "
                    "have different learning rates: use an optimizer without such a copy, or factors that are equal "
                    "for old and new entries of a widened component."
                )

    def _plan(self) -> None:
        """List the blocks of all tensors with a share below 1."""
        self._planned = slow = self._matrix.slow
        if self._cohorts is not self._matrix.cohorts:
            self._list_blocks()
        # a row or a generation without a share: all cohorts are equal, or the module has another tensor in the place of
        # this one, and did not tell the optimizer
        parts = [(tensor, block, slow.get(row, {}).get(born, 1.0)) for row, tensor, block, born in self._blocks]
        self._parts = [(tensor, block, share) for tensor, block, share in parts if share != 1]
        for row, tensor, born_in in self._shuffled:
            if row in slow:
                self._parts.append((tensor, (), _share_of_entries(tensor, born_in, slow[row])))

    def _list_blocks(self) -> None:
        """List the blocks of all tensors of components with cohorts; they stay the same until the next growth."""
        self._cohorts, self._blocks, self._shuffled = self._matrix.cohorts, [], []
        pieces, structure = self._groups.optimizer.param_groups, self._groups.structure
        for row in self._cohorts:
            component = structure.components[self._groups.group_infos[pieces[row]["name"]].component]
            for tensor in pieces[row]["params"]:
                if tensor not in structure.generations:  # all entries were born with the component
                    self._blocks.append((row, tensor, (), component.born.generation))
                    continue
                generations = generations_of_shard(tensor, structure.generations[tensor])
                if block_count(generations) > MAX_BLOCKS:
                    self._shuffled.append((row, tensor, generation_of_entries(local_entries(tensor), generations)))
                else:
                    self._blocks += [(row, tensor, block, generation) for block, generation in blocks(generations)]


def _share_of_entries(tensor: Tensor, born_in: Tensor, shares: Mapping[int, float]) -> Tensor:
    """The share of each entry of a tensor on this process."""
    result = torch.ones_like(local_entries(tensor))
    for generation, share in shares.items():
        result[born_in == generation] = share
    return result
