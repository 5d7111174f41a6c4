"""What a module was before it grew, remembered in order to go back, without the tensors that growth takes out of it."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Set
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, starmap
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from structurenet_pl.devices import bring, whereabouts
from structurenet_pl.snapshots import ABSENT, Contents, Snapshot, put_back
from structurenet_pl.successors import shape_of


@dataclass(frozen=True, eq=False)
class Left:
    """A tensor or module that growth has taken out.

    Args:
        original: Itself, as long as somebody else holds it.
        copy: A copy that takes its place then, of a module as it was at the founding, whose parameters and persistent
            buffers have no memory.
    """

    original: ref[Any]
    copy: Any

    def now(self) -> Any:
        """What stands for it."""
        original = self.original()
        return self.copy if original is None else original


class Founding:
    """What a module referred to before its first growth, where growth has changed it since.

    It holds no tensor that growth has taken out of the module and that a state dict brings: see :class:`Left`. A module
    that cannot be copied is held as it is.

    Args:
        module: Before its first growth.
        snapshot: Of the module.
    """

    def __init__(self, module: nn.Module, snapshot: Snapshot) -> None:
        self._shapes = {name: shape_of(tensor) for name, tensor in module.named_parameters()}
        self._dtype = whereabouts(snapshot.data)[1]
        self._parts = WeakSet(snapshot.parts)
        self._changed: MutableMapping[nn.Module, dict[str, tuple[Any, Contents]]] = WeakKeyDictionary()
        self._kinds: MutableMapping[nn.Module, type[nn.Module]] = WeakKeyDictionary()
        self._reshaped: MutableMapping[Tensor, Tensor] = WeakIdKeyDictionary()
        self._left: MutableMapping[Any, Left] = WeakIdKeyDictionary()
        self._hollow: MutableMapping[Tensor, Tensor] = WeakIdKeyDictionary()

    def note(self, before: Snapshot, module: nn.Module) -> None:
        """Remember what a growth has changed, unless an earlier one had."""
        left = False
        for state in before.changed():
            if (part := state.part) not in self._parts:
                continue
            if state.kind is not type(part):
                self._kinds.setdefault(part, state.kind)
            for key, item, contents in state.changed():
                self._changed.setdefault(part, {}).setdefault(key, (item, contents))
                left = left or _can_leave(item) or any(starmap(_lacks, contents))
        for tensor, data in zip(before.tensors, before.data, strict=True):
            if shape_of(tensor) != shape_of(data) and tensor not in self._reshaped:
                self._reshaped[tensor] = self._emptied(tensor, data) if _is_parameter(tensor) else data
        if left:
            self._let_go(module)

    def is_whole(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether a state dict holds all parameters as they were then, and so is not just a part of a later one."""
        return holds(state_dict, self._shapes)

    @property
    def names(self) -> Set[str]:
        """The names of its parameters then."""
        return self._shapes.keys()

    def restore(self, module: nn.Module) -> None:
        """Bring the module back to the structure it was founded with; the values of its tensors are what they are.

        Args:
            module: It may have been moved or cast since; what its growth had taken out follows.
        """
        device, dtype = whereabouts(module.parameters())
        for hollow in list(self._hollow.values()):
            hollow.data = torch.empty(hollow.shape, dtype=hollow.dtype, device=device)
        self._put_back(list(self._changed))
        for tensor, data in self._reshaped.items():
            tensor.data = data.data
        bring(chain(module.parameters(), module.buffers()), device, dtype if self._dtype else None)

    def _put_back(self, parts: Iterable[nn.Module]) -> None:
        for part in parts:
            for key, (item, contents) in self._changed.get(part, {}).items():
                if item is ABSENT:
                    vars(part).pop(key, None)
                else:
                    vars(part)[key] = _now(item)
                    put_back((container, _each(held, _now)) for container, held in contents)
            part.__class__ = self._kinds.get(part, type(part))

    def _let_go(self, module: nn.Module) -> None:
        """Hold no longer what is no part of the module."""
        alive = {id(one): one for one in chain(module.modules(), module.parameters(), module.buffers())}

        def let_go(item: Any) -> Any:
            if not _can_leave(item) or id(item) in alive:
                return item
            if item not in self._left:
                self._left[item] = Left(ref(item), self._copied(item, alive))
            return self._left[item]

        for changed in list(self._changed.values()):
            for key, (item, contents) in changed.items():
                changed[key] = let_go(item), [(container, _each(held, let_go)) for container, held in contents]

    def _copied(self, item: Any, alive: Mapping[int, Any]) -> Any:
        if isinstance(item, Tensor):
            return self._emptied(item, item) if _is_parameter(item) else item
        snapshot = Snapshot(item)
        try:
            self._put_back([part for part in item.modules() if part in self._changed])
            saved = [one for one in item.state_dict(keep_vars=True).values() if isinstance(one, Tensor)]
            hollow = {id(tensor): self._emptied(tensor, tensor) for tensor in chain(item.parameters(), saved)}
            return deepcopy(item, {**alive, **hollow})
        except Exception:  # in whatever way an attribute of somebody's module refuses to be copied
            return item
        finally:
            snapshot.restore()

    def _emptied(self, tensor: Tensor, data: Tensor) -> Tensor:
        """A tensor of the same kind and shape without memory."""
        if shape_of(data) is None:
            return data
        if tensor not in self._hollow:
            hollow = data.new_empty(()).expand(data.shape)  # a single entry, and only that can be given memory later
            hollow = nn.Parameter(hollow, tensor.requires_grad) if _is_parameter(tensor) else hollow
            self._hollow[tensor] = self._hollow[hollow] = hollow
        return self._hollow[tensor]


def holds(state_dict: Mapping[str, Tensor], shapes: Mapping[str, torch.Size | None]) -> bool:
    """Whether a state dict holds tensors of these names and shapes; None fits any shape."""
    return all(name in state_dict and shape in (None, shape_of(state_dict[name])) for name, shape in shapes.items())


def _can_leave(item: Any) -> bool:
    return isinstance(item, Tensor | nn.Module)


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _now(item: Any) -> Any:
    return item.now() if isinstance(item, Left) else item


def _each(held: Any, change: Callable[[Any], Any]) -> Any:
    """What a container held, with each item changed."""
    return {key: change(item) for key, item in held.items()} if isinstance(held, dict) else list(map(change, held))


def _lacks(container: Any, held: Any) -> bool:
    """Whether a container holds a tensor or module no longer."""
    now, before = (one.values() if isinstance(one, dict) else one for one in (container, held))
    return not {id(item) for item in before if _can_leave(item)} <= set(map(id, now))
