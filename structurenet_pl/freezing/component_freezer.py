"""Freezes and thaws components: their gradients, their norm layers and their optimizer state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import nn

from structurenet_pl.distributed.ddp import rewrap_after_freezing
from structurenet_pl.distributed.supported_strategies import reason_against_structural_change
from structurenet_pl.freezing.norm_layers import HeldNorms, norm_layers, release_copies
from structurenet_pl.freezing.state_offload import StateOffload
from structurenet_pl.freezing.training_work import TrainingWork
from structurenet_pl.lightning import Trainer, rank_zero_warn
from structurenet_pl.structure.partition import Structure, parameter_count

FROZEN_MARK = "_frozen_by_structurenet_pl"


class FreezeOptions(Protocol):
    """How a factor wants a component frozen."""

    norm: Literal["eval", "train"]
    release_state: bool


@dataclass(frozen=True)
class Frozen:
    """The components that are frozen now.

    Args:
        components: Names of the components.
        parameters: Share of the module's parameters that these components hold.
        work: Share of the multiply-adds of a training step that is saved, None before a batch has been counted.
    """

    components: frozenset[str] = frozenset()
    parameters: float = 0.0
    work: float | None = None


class ComponentFreezer:
    """Freezes and thaws components between batches, when no gradient is being accumulated.

    It remembers only the tensors that it has frozen itself, and never thaws a tensor that the user has frozen.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.frozen = Frozen()
        self.begun = False  # set by the first update; before it, the clock of a resumed run is not yet restored
        self._last_update: tuple[object, ...] = ()  # the arguments of the last update, empty if it must run again
        self._frozen_tensors: set[nn.Parameter] = set()  # that this object has frozen
        self._ddp_is_stale = False  # whether tensors were thawed and DDP was not wrapped since
        self._norms = HeldNorms()
        self._offload = StateOffload()
        self._work = TrainingWork()
        self._warned: set[str] = set()

    def update(self, structure: Structure, wanted: Mapping[str, Sequence[FreezeOptions]]) -> None:
        """Freeze the wanted components, and thaw those that no factor wants frozen any more.

        Args:
            structure: The components.
            wanted: The options of each factor that wants a component frozen, by component.
        """
        self.begun = True
        trainer, module = self._trainer, self._trainer.lightning_module
        # Lightning sets _skip_backward for the epoch in which SWA computes the statistics of all norm layers anew
        averaging = trainer.fit_loop._skip_backward
        # Lightning fills _param_requires_grad_state while an optimizer is toggled; the flags are not the real ones then
        if module._param_requires_grad_state or (wanted, structure, averaging) == self._last_update:
            return
        self._last_update = (wanted, structure, averaging)
        if not (wanted or self.frozen.components or self._ddp_is_stale):
            return
        if wanted and (reason := reason_against_structural_change(trainer)) is not None:
            self._warn_once(
                f"freezing is by lr 0 under {reason}, which cannot follow a change of requires_grad: no work is saved"
            )
            return
        names = frozenset(wanted.keys() - self._components_to_spare(structure, wanted))
        if names - self.frozen.components:
            self._work.count_next_batch(module)
        changed = self._set_frozen({tensor for name in names for tensor in structure.parameters[name].values()})
        eval_names = {
            name for name in names if not averaging and any(options.norm == "eval" for options in wanted[name])
        }
        self._norms.hold([layer for layer, name in norm_layers(module, structure).items() if name in eval_names])
        offloaded = {name for name in names if any(options.release_state for options in wanted[name])}
        tensors = {tensor for name in offloaded for tensor in structure.parameters[name].values()}
        self._offload.offload_only(trainer.optimizers, tensors)
        _mark_frozen(module, self._frozen_tensors)
        if changed or self._ddp_is_stale:
            rewrap_after_freezing(trainer, names)
        self._ddp_is_stale = False
        self.frozen = self._measure_frozen(structure, names)

    def end_batch(self, structure: Structure) -> None:
        """Update the share of saved work at the end of a batch, if the batch was counted."""
        if self._work.end_batch(self._trainer.lightning_module, structure):
            self.frozen = self._measure_frozen(structure, self.frozen.components)

    def prepare_growth(self) -> None:
        """Give parameters the flags of the user until the next ``update``; remove hooks that copies would keep."""
        self._work.stop()
        if self.frozen.components:
            module = self._trainer.lightning_module
            self._set_frozen(set())
            _mark_frozen(module, set())
            self._norms.release(module.training)
            self._offload.offload_only([], set())
            self._ddp_is_stale = True
        self._last_update, self.frozen = (), Frozen()

    def end_fit(self, module: nn.Module) -> None:
        """Thaw all components at the end of a fit: all flags are the user's again, and norm layers obey ``train()``.

        ``frozen`` stays, for reports after the fit.
        """
        if self._frozen_tensors:
            self._set_frozen(set())
            _mark_frozen(module, set())
        self._norms.release(module.training)
        self._norms = HeldNorms()
        self._offload.offload_only([], set())
        self._work.stop()

    def _measure_frozen(self, structure: Structure, names: frozenset[str]) -> Frozen:
        if not names:
            return Frozen()
        frozen = [tensor for tensor, name in structure.owner.items() if name in names]
        trained = {name for tensor, name in structure.owner.items() if tensor.requires_grad}
        parameter_share = parameter_count(frozen) / parameter_count(structure.owner)
        return Frozen(names, parameter_share, self._work.saved_share(structure, trained))

    def _set_frozen(self, frozen: set[nn.Parameter]) -> bool:
        """Freeze these tensors, and thaw all others that this object has frozen; return whether a flag changed."""
        thawed = self._frozen_tensors - frozen
        # Lightning restores the flags in _param_requires_grad_state when it untoggles an optimizer, so a thaw
        # while an optimizer is toggled has to change these flags, too
        toggled = self._trainer.lightning_module._param_requires_grad_state
        for tensor in thawed:
            tensor.requires_grad = True
            if tensor in toggled:
                toggled[tensor] = True
        stopped = {tensor for tensor in frozen if tensor.requires_grad}
        for tensor in stopped:
            tensor.requires_grad = False  # not requires_grad_(): uninitialised parameters of lazy modules refuse it
            tensor.grad = None  # otherwise the optimizer would go on to step with the last gradient
        self._frozen_tensors = (self._frozen_tensors & frozen) | stopped
        return bool(thawed or stopped)

    def _components_to_spare(self, structure: Structure, wanted: Mapping[str, object]) -> set[str]:
        """The last component of each optimizer whose components are all to be frozen.

        A loss without a single trainable parameter has no gradient, and ``backward()`` would raise.
        """
        spared = set()
        for optimizer in self._trainer.optimizers:
            trainable = {
                structure.owner[tensor]
                for group in optimizer.param_groups
                for tensor in group["params"]
                if tensor in structure.owner and (tensor.requires_grad or tensor in self._frozen_tensors)
            }
            if trainable and trainable <= wanted.keys():
                last = [name for name in structure.components if name in trainable][-1]
                spared.add(last)
                self._warn_once(
                    f"all components of {type(optimizer).__name__} are to be frozen, but without a gradient the "
                    f"backward pass would raise: {last!r} has lr 0 instead. Let late components train, or end the "
                    "training there."
                )
        return spared

    def _warn_once(self, message: str) -> None:
        """Warn, unless this message was given in this fit before."""
        if message not in self._warned:
            self._warned.add(message)
            rank_zero_warn(message)


def thaw_leftovers(module: nn.Module) -> None:
    """Thaw tensors that an earlier fit has left frozen.

    A copy that was made in the middle of a fit, or a fit that ended by an exception, leaves the marks of
    ``_mark_frozen`` in the module.
    """
    release_copies(module)
    for part in module.modules():
        for name, tensor in vars(part).pop(FROZEN_MARK, {}).items():
            # pruning renames a parameter, widening replaces it: thaw the marked tensor and the one of that name.
            # _parameters, because getattr would give a parametrized tensor, which is no parameter
            for left in (tensor, part._parameters.get(name)):
                if left is not None:
                    left.requires_grad = True


def _mark_frozen(module: nn.Module, frozen: set[nn.Parameter]) -> None:
    """Note the frozen tensors in the ``__dict__`` of their modules, which copies of the module carry along.

    ``_parameters`` gives the parameters of a module alone, as ``named_parameters(recurse=False)`` does, but also those
    that stand under two names.
    """
    for part in module.modules():
        vars(part).pop(FROZEN_MARK, None)
        if marked := {name: tensor for name, tensor in part._parameters.items() if tensor in frozen}:
            vars(part)[FROZEN_MARK] = marked
