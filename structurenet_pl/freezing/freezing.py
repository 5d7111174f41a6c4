"""Frozen components: no gradient, no backward pass, norm layers that stand still; and their thaw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import nn

from structurenet_pl.distributed.processes import obstacle, wrap_anew
from structurenet_pl.freezing.flops import Flops
from structurenet_pl.freezing.norm_layers import HeldNorms, norm_layers, release_copies
from structurenet_pl.freezing.state_offload import StateOffload
from structurenet_pl.lightning import Trainer, rank_zero_warn
from structurenet_pl.structure.partition import Structure, parameter_count

FROZEN_MARK = "_frozen_by_structurenet_pl"


class Freezer(Protocol):
    """What wants a component frozen says how."""

    norm: Literal["eval", "train"]
    release_state: bool


@dataclass(frozen=True)
class Frozen:
    """What is frozen now.

    Args:
        components: Names of the components.
        parameters: Share of the module's parameters that stand in them.
        work: Share of the multiply-adds of a training step that is saved, None where it has not been counted.
    """

    components: frozenset[str] = frozenset()
    parameters: float = 0.0
    work: float | None = None


class Freezing:
    """Brings components to rest and lets go of them, at moments when no gradient is under way.

    Nothing is remembered but what it has frozen itself: what the user has frozen is never thawed.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.frozen = Frozen()
        self.begun = False  # before the training starts, the clock may be yet to be restored
        self._settled: tuple[object, ...] = ()
        self._tensors: set[nn.Parameter] = set()
        self._loose = False  # whether something was thawed that has not been settled since
        self._norms = HeldNorms()
        self._parking = StateOffload()
        self._work = Flops()
        self._warned: set[str] = set()

    def update(self, structure: Structure, wanted: Mapping[str, Sequence[Freezer]]) -> None:
        """Freeze what is wanted, and thaw what was frozen for somebody who does not want it any more.

        Args:
            structure: The components.
            wanted: Who wants which of them frozen.
        """
        self.begun = True
        trainer, module = self._trainer, self._trainer.lightning_module
        averaging = trainer.fit_loop._skip_backward  # the epoch in which SWA computes the statistics of all norms anew
        if module._param_requires_grad_state or (wanted, structure, averaging) == self._settled:
            return  # an optimizer is toggled, so flags are not what they are; or there is nothing new
        self._settled = (wanted, structure, averaging)
        if not (wanted or self.frozen.components or self._loose):
            return
        if wanted and (found := obstacle(trainer)) is not None:
            self._warn(f"freezing is by lr 0 under {found}, which would not follow it: the work is not saved")
            return
        names = frozenset(wanted.keys() - self._spared(structure, wanted))
        if names - self.frozen.components:
            self._work.watch(module)
        changed = self._switch({tensor for name in names for tensor in structure.parameters[name].values()})
        still = {name for name in names if not averaging and any(one.norm == "eval" for one in wanted[name])}
        self._norms.hold([layer for layer, name in norm_layers(module, structure).items() if name in still])
        released = {name for name in names if any(one.release_state for one in wanted[name])}
        tensors = {tensor for name in released for tensor in structure.parameters[name].values()}
        self._parking.park(trainer.optimizers, tensors)
        _mark(module, self._tensors)
        if changed or self._loose:
            wrap_anew(trainer, names)
        self._loose = False
        self.frozen = self._shares(structure, names)

    def count_work(self, structure: Structure) -> None:
        """A batch is over: note how much work each component was, if it was one to be counted."""
        if self._work.count(self._trainer.lightning_module, structure):
            self.frozen = self._shares(structure, self.frozen.components)

    def thaw(self) -> None:
        """Thaw everything until it is settled anew."""
        if self.frozen.components:
            module = self._trainer.lightning_module
            self._switch(set())
            _mark(module, set())
            self._norms.release(module.training)
            self._parking.park([], set())
            self._loose = True
        self._settled, self.frozen = (), Frozen()

    def end_fit(self, module: nn.Module) -> None:
        """The fit is over: what it has frozen is thawed, so that all flags are the user's; norms follow ``train()``."""
        if self._tensors:
            self._switch(set())
            _mark(module, set())
        self._norms.release(module.training)
        self._norms = HeldNorms()
        self._parking.park([], set())
        self._work.stop()

    def _shares(self, structure: Structure, names: frozenset[str]) -> Frozen:
        if not names:
            return Frozen()
        resting = [tensor for tensor, name in structure.owner.items() if name in names]
        trained = {name for tensor, name in structure.owner.items() if tensor.requires_grad}
        return Frozen(
            names, parameter_count(resting) / parameter_count(structure.owner), self._work.saved(structure, trained)
        )

    def _switch(self, frozen: set[nn.Parameter]) -> bool:
        """Have these without gradients, and those of earlier times with; tell if there was any difference."""
        thawed = self._tensors - frozen
        toggled = self._trainer.lightning_module._param_requires_grad_state  # what untoggling brings back
        for tensor in thawed:
            tensor.requires_grad = True
            if tensor in toggled:
                toggled[tensor] = True
        stopped = {tensor for tensor in frozen if tensor.requires_grad}
        for tensor in stopped:
            tensor.requires_grad = False  # the method is refused by those of lazy modules
            tensor.grad = None  # or the optimizer would go on with it
        self._tensors = (self._tensors & frozen) | stopped
        return bool(thawed or stopped)

    def _spared(self, structure: Structure, wanted: Mapping[str, object]) -> set[str]:
        """The last component of each optimizer that would have none left: without any, backward would raise."""
        spared = set()
        for optimizer in self._trainer.optimizers:
            trainable = {
                structure.owner[tensor]
                for group in optimizer.param_groups
                for tensor in group["params"]
                if tensor in structure.owner and (tensor.requires_grad or tensor in self._tensors)
            }
            if trainable and trainable <= wanted.keys():
                last = [name for name in structure.components if name in trainable][-1]
                spared.add(last)
                self._warn(
                    f"all components of {type(optimizer).__name__} are to be frozen, but without a gradient the "
                    f"backward pass would raise: {last!r} has lr 0 instead. Let late components train, or end the "
                    "training there."
                )
        return spared

    def _warn(self, message: str) -> None:
        """Say it once in a fit."""
        if message not in self._warned:
            self._warned.add(message)
            rank_zero_warn(message)


def thaw_leftovers(module: nn.Module) -> None:
    """Thaw what was frozen by us when a module was copied, or a process broke off, in the middle of a fit."""
    release_copies(module)
    for part in module.modules():
        for name, tensor in vars(part).pop(FROZEN_MARK, {}).items():
            for left in (tensor, part._parameters.get(name)):  # pruning renames it, widening may replace it
                if left is not None:
                    left.requires_grad = True


def _mark(module: nn.Module, frozen: set[nn.Parameter]) -> None:
    """Note what we have frozen where copies of the module carry it along."""
    for part in module.modules():
        vars(part).pop(FROZEN_MARK, None)
        if marked := {name: tensor for name, tensor in part._parameters.items() if tensor in frozen}:
            vars(part)[FROZEN_MARK] = marked
