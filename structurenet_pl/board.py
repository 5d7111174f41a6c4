"""The one writer of learning rates: base lr × product of factors, for one optimizer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.components import Structure
from structurenet_pl.factors import product
from structurenet_pl.foreign_writes import ForeignWrites
from structurenet_pl.state_kinds import state_kinds
from structurenet_pl.successors import Successor
from structurenet_pl.surgery.group_settings import Stamp, put
from structurenet_pl.surgery.param_groups import Group, Newcomers, Slot, own
from structurenet_pl.surgery.split_groups import SplitGroups
from structurenet_pl.surgery.stand_in import UnsplitOptimizer, real
from structurenet_pl.surgery.wrappers import hookable, with_inner


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
    """Splits the param groups of an optimizer by component and keeps each lr at base lr × product of factors.

    The base lr stands in the user's own groups, where schedulers see and write it. What somebody writes to the lr of
    pieces is absolute: written to all pieces of a group alike, it is the new base lr of that group; else it is the base
    lr of those pieces until that of the group changes. A state dict of the optimizer holds the user's groups and base
    lrs, so anyone can load it.

    Args:
        optimizer: Any optimizer that takes several groups.
        structure: Says which tensor belongs to which component.
        split_1d: Whether one-dimensional tensors get groups of their own.
    """

    def __init__(self, optimizer: Optimizer, structure: Structure, split_1d: bool) -> None:
        self._optimizer = ref(optimizer)  # weak: a board lives as long as its optimizer, not the other way round
        self.groups = SplitGroups(optimizer, structure, split_1d)
        self._factors: dict[str, Mapping[str, float]] = {}
        self._product: dict[str, float] = {}
        self._own: dict[str, float | Tensor] = {}  # base lrs of single pieces
        self._bases: list[Stamp | None] = []  # what stood in the user's groups, None for no lr
        self._written: dict[str, Stamp] = {}  # what was written to the pieces
        self._standing: tuple[list[Any], list[list[Any]]] | None = None
        self._own_to_load: Mapping[str, Mapping[str, Any]] = {}
        self._loading: list[Group] = []
        self._foreign = ForeignWrites()
        self._hooks = []
        for one in with_inner(optimizer):
            state_kinds(one)  # while it is as it was made
        for one in hookable(optimizer):
            self._hooks.append(one.register_state_dict_post_hook(self._save))
            self._hooks.append(one.register_load_state_dict_pre_hook(self._prepare_load))
            self._hooks.append(one.register_load_state_dict_post_hook(self._load))
            self._hooks.append(one.register_step_pre_hook(_step_the_real_one))
        self._hooks.append(hookable(optimizer)[0].register_step_post_hook(self._look_back))
        _BOARDS[optimizer] = self
        self.refresh({})

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer whose lrs it writes."""
        return cast(Optimizer, self._optimizer())

    @property
    def slots(self) -> Mapping[str, Slot]:
        """What each of the groups stands for, by name."""
        return self.groups.slots

    @property
    def stand_ins(self) -> dict[int, UnsplitOptimizer]:
        """What schedulers see in place of the optimizer and of those inside it, by the ``id`` of these."""
        return {id(one): UnsplitOptimizer(one, self) for one in with_inner(self.optimizer)}

    @property
    def has_news(self) -> bool:
        """Whether there are groups that have no factors yet."""
        return not self.slots.keys() <= self._factors.keys()

    @property
    def written(self) -> list[Group]:
        """The pieces whose lr is not the effective one that was given to them."""
        return [piece for _, pieces in self._with_lr() for piece in pieces if self._is_written(piece)]

    def user_groups(self, optimizer: Optimizer) -> list[Group]:
        """The user's groups in the optimizer, or in one inside it."""
        return self.groups.user_groups(optimizer)

    def meet(self) -> None:
        """Bring the user's groups and the pieces in line, whichever was written last."""
        self.refresh({})

    def release(self) -> None:
        """Give the user's groups back to the optimizer, with base lrs."""
        self._adopt()
        self.groups.release()
        for hook in self._hooks:
            hook.remove()
        del _BOARDS[self.optimizer]

    def rates(self) -> Rates:
        """What stood in the groups at the last refresh; it stays as it is when that changes."""
        bases = {piece["name"]: own(self._base(group, piece)) for group, some in self._with_lr() for piece in some}
        return Rates(bases, dict(self._factors), {name: stamp.value for name, stamp in self._written.items()})

    def factors(self, name: str) -> Mapping[str, float]:
        """The factors of a group, by label."""
        return self._factors.get(name, {})

    def refresh(self, factors: Mapping[str, Mapping[str, float]]) -> None:
        """Set every effective lr from its base and the factors.

        Args:
            factors: New values by group and label; labels that are not mentioned keep theirs.
        """
        changed = self._adopt()
        for name, values in factors.items():
            self._factors[name] = {**self._factors.get(name, {}), **values}
            self._product[name] = product(self._factors[name])
        if changed or factors:
            self._write()

    def replace(self, successors: Mapping[nn.Parameter, Successor | None], structure: Structure) -> None:
        """Put the successors of tensors in their places, and take out what is gone."""
        self._adopt()
        self.groups.replace(successors, structure)
        for table in (self._factors, self._product, self._own, self._written):
            for name in table.keys() - self.slots.keys():
                del table[name]  # a name may come back, for somebody else
        self._standing = None

    def add(self, newcomers: Sequence[Newcomers]) -> None:
        """Add a piece for each, with the settings of its template and the same base lr."""
        self.groups.add(newcomers)
        for new in newcomers:
            if new.template in self._own:
                self._own[new.slot.name] = own(self._own[new.template])
        self._standing = None

    def remember(self) -> Callable[[], None]:
        """A function that puts groups and lrs back as they are now."""
        self._adopt()
        groups = self.groups.remember()
        names = ("_factors", "_product", "_own", "_written")
        tables = {name: dict(getattr(self, name)) for name in names}

        def undo() -> None:
            groups()
            vars(self).update(tables, _standing=None)

        return undo

    def differing(self) -> dict[str, Group]:
        """What stands in single pieces only, by name of the piece: somebody wrote it there."""
        self._adopt()
        found = self.groups.settings.differing()
        for name, lr in self._own.items():
            found[name] = found.get(name, {}) | {"lr": own(lr)}
        return found

    def load_with(self, more: Mapping[str, Mapping[str, Any]]) -> None:
        """Give single pieces settings of their own, which :meth:`differing` found, when the next state is loaded."""
        self._own_to_load = more

    def as_base(self, piece: Group, value: Any) -> Any:
        """The base lr of a piece, if a value was read from its lr, else the value.

        That is known by identity, as for floats; tensors are copied when they are read.
        """
        stamp = self._written.get(piece["name"])
        if stamp is None or value is not stamp.held:
            return value
        return own(self._base(self.groups.user[self.slots[piece["name"]].origin], piece))

    def _adopt(self) -> bool:
        """Take over what others have written and added; tell if there was anything."""
        if self._stands():
            return False
        self.groups.adopt()
        self.groups.settings.pass_on()
        self._bases += [None] * (len(self.groups.user) - len(self._bases))
        news = {id(group): [piece for piece in pieces if self._is_written(piece)] for group, pieces in self._with_lr()}
        written = [piece for pieces in news.values() for piece in pieces]
        self._foreign.look(written, self._acted_on(written), self.groups.pieces)
        for origin, (group, pieces) in enumerate(self.groups):
            if (lr := group.get("lr")) is None:
                continue
            if (stamp := self._bases[origin]) is not None and not stamp.fits(lr):
                self._forget_own(pieces)
            if written := news[id(group)]:
                if all(bool(piece["lr"] == written[0]["lr"]) for piece in pieces):
                    put(group, "lr", written[0]["lr"])
                    self._forget_own(pieces)
                else:
                    self._own |= {piece["name"]: own(piece["lr"]) for piece in written}
            self._bases[origin] = Stamp.of(group["lr"])
        return True

    def _stands(self) -> bool:
        """Whether nobody has written anything since we have; a shortcut, which tensors have to do without."""
        if self._standing is None:
            return False
        lrs, values = self._standing
        return lrs == self._lrs() and all(
            len(before) == len(group) and all(map(is_, before, group.values()))
            for group, before in zip(self.groups.user, values, strict=False)
        )

    def _lrs(self) -> list[Any]:
        return [piece.get("lr") for piece in self.optimizer.param_groups]

    def _with_lr(self) -> Iterator[tuple[Group, list[Group]]]:
        """The groups that have an lr, and the pieces made of each."""
        return ((group, pieces) for group, pieces in self.groups if group.get("lr") is not None)

    def _base(self, group: Group, piece: Group) -> float | Tensor:
        return self._own[piece["name"]] if piece["name"] in self._own else cast(float | Tensor, group["lr"])

    def _forget_own(self, pieces: Iterable[Group]) -> None:
        for piece in pieces:
            self._own.pop(piece["name"], None)

    def _acted_on(self, pieces: Iterable[Group]) -> list[Group]:
        return [piece for piece in pieces if self._product.get(piece["name"], 1.0) != 1.0]

    def _is_written(self, piece: Group) -> bool:
        stamp = self._written.get(piece["name"])
        return stamp is not None and not stamp.fits(piece["lr"])

    def _look_back(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Say if an lr was written again between the last refresh and the update."""
        if torch.compiler.is_compiling() or self._foreign.told or (self._standing and self._standing[0] == self._lrs()):
            return
        if acted_on := self._acted_on(self.written):
            self._foreign.in_step(acted_on[0], type(optimizer).__name__)

    def _write(self) -> None:
        for group, pieces in self._with_lr():
            for piece in pieces:
                put(piece, "lr", self._base(group, piece) * self._product.get(piece["name"], 1.0))
                self._written[piece["name"]] = Stamp.of(piece["lr"])
        lrs, values = self._lrs(), [list(group.values()) for group in self.groups.user]
        in_place = any(isinstance(value, Tensor) for some in (lrs, *values) for value in some)
        self._standing = None if in_place else (lrs, values)

    def _save(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        self._adopt()
        return self.groups.joined(optimizer, state)

    def _prepare_load(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        self._loading = state["param_groups"]
        return self.groups.split_state(optimizer, state, self._own_to_load)

    def _load(self, optimizer: Optimizer) -> None:
        self.groups.loaded(optimizer, self._loading)
        self._own = {name: own(values["lr"]) for name, values in self._own_to_load.items() if "lr" in values}
        self._own_to_load, self._loading = {}, []
        self._bases = [Stamp.of(group["lr"]) if group.get("lr") is not None else None for group in self.groups.user]
        self._write()


def _step_the_real_one(
    optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A scheduler made on a stand-in has torch call ``step`` with the stand-in, which holds none of the pieces."""
    return None if real(optimizer) is optimizer else ((real(optimizer), *args[1:]), kwargs)


_BOARDS: WeakKeyDictionary[Optimizer, Board] = WeakKeyDictionary()


def board_of(optimizer: Optimizer) -> Board | None:
    """The board that writes the lrs of an optimizer, from an earlier fit perhaps."""
    return _BOARDS.get(optimizer)
