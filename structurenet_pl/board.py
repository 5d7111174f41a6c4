"""The one writer of learning rates: base lr × product of factors, for one optimizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.optim import Optimizer

from structurenet_pl.factors import product
from structurenet_pl.lightning import rank_zero_warn
from structurenet_pl.surgery.checkpoints import split_state
from structurenet_pl.surgery.param_groups import Slot
from structurenet_pl.surgery.replacement import faces
from structurenet_pl.surgery.schedulers import own

STEPS = ("step", "step_update")  # step_update is timm's


@dataclass(frozen=True)
class Rates:
    """What stands in the param groups of an optimizer at one moment, by name of the group.

    Args:
        bases: Base lrs.
        factors: Factors by label.
        lrs: Effective lrs.
    """

    bases: Mapping[str, float | Tensor]
    factors: Mapping[str, Mapping[str, float]]
    lrs: Mapping[str, float | Tensor]


class Board:
    """Keeps ``group["lr"]`` at base lr × product of factors, and the base lr where schedulers and checkpoints see it.

    The effective lr stands in the groups whenever anybody looks. Around every step of a bound scheduler the base lr
    stands there instead, and what the scheduler leaves is the new base. Whatever else writes an lr sets the base, too.
    A state dict of the optimizer holds base lrs, so it can be loaded by anyone.

    Args:
        optimizer: Its groups have unique names.
        slots: What each of the groups stands for, by name.
    """

    def __init__(self, optimizer: Optimizer, slots: Mapping[str, Slot]) -> None:
        self._optimizer = ref(optimizer)  # weak: a board lives as long as its optimizer, not the other way round
        self._standing: list[Any] | None = None
        self.slots = dict(slots)
        self._factors: dict[str, Mapping[str, float]] = {}
        self._product: dict[str, float] = {}
        self._base: dict[str, float | Tensor] = {}
        self._seen: dict[str, tuple[float | Tensor, int]] = {}
        self._nesting = 0
        self._stale = False
        self._warned = False
        self._hooks = []
        for face in faces(optimizer):
            self._hooks.append(face.register_state_dict_post_hook(self._save_base))
            self._hooks.append(face.register_load_state_dict_post_hook(self._load_base))
            self._hooks.append(face.register_step_post_hook(self._look_back))
            self._hooks.append(face.register_load_state_dict_pre_hook(self._split_foreign))
        _BOARDS[optimizer] = self
        self._load_base(optimizer)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer whose lrs it writes."""
        return cast(Optimizer, self._optimizer())

    @property
    def slots(self) -> dict[str, Slot]:
        """What each of the groups stands for, by name."""
        return self._slots

    @slots.setter
    def slots(self, slots: dict[str, Slot]) -> None:
        self._slots = slots
        self._standing = None

    @property
    def names(self) -> list[str | None]:
        """The names of the groups, in their order."""
        return [group.get("name") for group in self.optimizer.param_groups]

    def release(self) -> None:
        """Leave the base lrs behind, and the optimizer to others."""
        self._adopt()
        self._write_base()
        for hook in self._hooks:
            hook.remove()
        del _BOARDS[self.optimizer]

    def rates(self) -> Rates:
        """What stood in the groups at the last refresh; it stays as it is when that changes."""
        return Rates(dict(self._base), dict(self._factors), {name: lr for name, (lr, _) in self._seen.items()})

    def factors(self, name: str) -> Mapping[str, float]:
        """The factors of a group, by label."""
        return self._factors.get(name, {})

    def refresh(self, factors: Mapping[str, Mapping[str, float]]) -> None:
        """Set every effective lr from its base and the factors.

        Args:
            factors: New values by group and label; labels that are not mentioned keep theirs.
        """
        self._adopt()
        for name, values in factors.items():
            self._factors[name] = {**self._factors.get(name, {}), **values}
            self._product[name] = product(self._factors[name])
        if self._stale or factors:
            self._write_effective()

    def bind(self, scheduler: Any) -> None:
        """Let a scheduler see nothing but base lrs, now and whoever steps it."""
        kind = type(scheduler)
        if vars(kind).get("board") is self:
            return
        kind = vars(kind).get("unbound", kind)
        methods = {name: _on_base(self, getattr(kind, name)) for name in STEPS if callable(getattr(kind, name, None))}
        scheduler.__class__ = type(
            kind.__name__,
            (kind,),
            {
                **methods,
                "board": self,
                "unbound": kind,
                "__module__": kind.__module__,
                "__qualname__": kind.__qualname__,
                "__doc__": kind.__doc__,
                "__reduce_ex__": _reduce_unbound,
            },
        )

    @contextmanager
    def base_lrs(self) -> Iterator[None]:
        """Within, the groups hold base lrs; what they hold at the end is the new base."""
        if self._nesting == 0:
            self._adopt()
            self._write_base()
        self._nesting += 1
        try:
            yield
        finally:
            self._nesting -= 1
            if self._nesting == 0:
                self._read_base()
                self._write_effective()

    def _groups(self) -> Iterator[dict[str, Any]]:
        """The groups that are ours; others may have been added by somebody else, and keep their lr."""
        seen = set()  # somebody else's group may have the name of one of ours
        for group in self.optimizer.param_groups:
            if (name := group.get("name")) in self.slots and name not in seen and group.get("lr") is not None:
                seen.add(name)
                yield group

    def _adopt(self) -> None:
        """Take as base what somebody else has written."""
        if self._nesting or (self._standing is not None and self._standing == self._lrs()):
            return
        written = [group for group in self._groups() if not _untouched(group["lr"], self._seen.get(group["name"]))]
        self._warn_of_pieces([group["name"] for group in written if group["name"] in self._seen])
        for group in written:
            name = group["name"]
            self._stale = True
            if name in self._seen and not self._warned and self._product.get(name, 1.0) != 1.0:
                self._warned = True
                rank_zero_warn(
                    f"the lr of param group {name!r} was set to {float(group['lr']):g} from outside. It is taken as "
                    "the new base lr, and the factors multiply it. If it was meant to change what stood there "
                    "(`group['lr'] *= ...`), write an LRFactor instead."
                )
            self._base[name] = own(group["lr"])
            self._seen[name] = _stamp(group["lr"])

    def _lrs(self) -> list[Any]:
        return [group.get("lr") for group in self.optimizer.param_groups]

    def _warn_of_pieces(self, written: Sequence[str]) -> None:
        """Say if somebody has written to the first piece of a group of the user's, and to no other."""
        if len(written) != 1 or self._warned:
            return
        pieces = [slot.name for slot in self.slots.values() if slot.origin == self.slots[written[0]].origin]
        if len(pieces) > 1 and written[0] == pieces[0]:
            self._warned = True
            rank_zero_warn(
                f"the lr of param group {written[0]!r} was set from outside, but not that of {pieces[1:]}: your param "
                "group is split by component. If it was meant as a whole, write to all of optimizer.param_groups."
            )

    def _look_back(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Say if the lr was written again between the last refresh and the update."""
        if torch.compiler.is_compiling() or self._warned or self._nesting:
            return
        for group in self._groups():
            if self._product.get(group["name"], 1.0) != 1.0 and not _untouched(group["lr"], self._seen[group["name"]]):
                self._warned = True
                rank_zero_warn(
                    f"the lr of param group {group['name']!r} was written during the step, after the factors had been "
                    f"applied, so they had no effect: by {type(optimizer).__name__}.step() itself, or by "
                    "on_before_optimizer_step or configure_gradient_clipping of the module. Write it in "
                    "optimizer_step or on_train_batch_start of the module, or in an LR scheduler."
                )
                return

    def _read_base(self) -> None:
        for group in self._groups():
            self._base[group["name"]] = own(group["lr"])

    def _write_base(self) -> None:
        for group in self._groups():
            self._write(group, self._base[group["name"]])

    def _write_effective(self) -> None:
        self._stale = False
        for group in self._groups():
            self._write(group, self._base[group["name"]] * self._product.get(group["name"], 1.0))
            self._seen[group["name"]] = _stamp(group["lr"])
        lrs = self._lrs()  # a shortcut: lists of floats are compared quickly; a tensor may be written in place
        self._standing = None if any(isinstance(lr, Tensor) for lr in lrs) else lrs

    def _write(self, group: dict[str, Any], value: float | Tensor) -> None:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)  # in place, for compiled and capturable optimizers
        else:
            group["lr"] = value

    def _save_base(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        self._adopt()
        groups = [
            {**group, "lr": own(self._base.get(group.get("name"), group["lr"]))} for group in state["param_groups"]
        ]
        return {**state, "param_groups": groups}

    def _split_foreign(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
        """Take a state dict with the user's own groups, too: one that was made before the fit, or without us."""
        if len(state["param_groups"]) == len(optimizer.param_groups):
            return None
        return split_state(state, optimizer, self.slots, {})

    def _load_base(self, optimizer: Optimizer) -> None:
        self._seen.clear()
        self._standing = None
        self._adopt()
        self._write_effective()


def _on_base(board: Board, method: Callable[..., Any]) -> Callable[..., Any]:
    def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        with board.base_lrs():
            return method(scheduler, *args, **kwargs)

    return step


def _reduce_unbound(scheduler: Any, protocol: Any) -> tuple[Any, ...]:
    """Copies and pickles are of the scheduler's own class."""
    return _rebuild, (type(scheduler).unbound, vars(scheduler).copy())


def _rebuild(kind: Any, state: dict[str, Any]) -> Any:
    scheduler = kind.__new__(kind)
    vars(scheduler).update(state)
    return scheduler


def _stamp(lr: float | Tensor) -> tuple[float | Tensor, int]:
    """What tells whether an lr has been written since."""
    return own(lr), lr._version if isinstance(lr, Tensor) else 0


def _untouched(lr: float | Tensor, stamp: tuple[float | Tensor, int] | None) -> bool:
    """Whether an lr is what was stamped. A tensor is read from its device only if it has been written.

    The same value is no write: schedulers write back what they find when they are made.
    """
    if stamp is None:
        return False
    return (isinstance(lr, Tensor) and lr._version == stamp[1]) or bool(lr == stamp[0])


_BOARDS: WeakKeyDictionary[Optimizer, Board] = WeakKeyDictionary()


def board_of(optimizer: Optimizer) -> Board | None:
    """The board that writes the lrs of an optimizer, from an earlier fit perhaps."""
    return _BOARDS.get(optimizer)
