"""Averaged copies of a module, which weight averaging callbacks keep, grow with the module."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from itertools import chain
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode

from structurenet_pl.distributed.communication import broadcast_from_rank_0
from structurenet_pl.lightning import Callback, MisconfigurationException
from structurenet_pl.structure.embed import embed
from structurenet_pl.structure.grow import Change
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.tensor_mapping import common_device_and_dtype, move_tensors

# The private attribute in which Lightning's WeightAveraging, EMAWeightAveraging and StochasticWeightAveraging keep the
# averaged copy. They have no public one, and without it the copy would keep the old structure.
AVERAGE_ATTRIBUTE = "_average_model"


class AveragedCopies:
    """The averaged copies of a growable module, as they are before a growth.

    A growth method is called once, for the module, and never for a copy. Instead, each copy is replaced by a new copy
    of the grown module, in which averages replace the values of the tensors that already existed.

    Args:
        callbacks: The callbacks of the Trainer, from either Lightning.
        module: The module before it grows.
    """

    def __init__(self, callbacks: Iterable[Callback], module: nn.Module) -> None:
        self._places = [place for place in map(_place_of_copy, callbacks) if place is not None]
        self._old_tensors = _tensors(module) if self._places else {}
        self._old_modules = dict(module.named_modules()) if self._places else {}

    def __iter__(self) -> Iterator[Growable]:
        return (getattr(*place) for place in self._places)

    def apply(self, module: Growable, change: Change | None = None) -> None:
        """Replace each averaged copy by a copy of the grown module; if that raises, all copies stay as they were.

        Entries that existed before keep their averages. New entries start with their values in the module. Where a
        Net2Net helper has copied values to new tensors, their averages are copied likewise, so that the averaged
        network computes the same function as before. A buffer of another shape starts with its value in the module,
        because no growth event says where its entries came from.

        Args:
            module: The module after it has grown.
            change: What the growth has changed; None if that is unknown, so that tensors are matched by name.

        Raises:
            MisconfigurationException: If an attribute of the module cannot be copied, or is a function that refers to
                the module.
        """
        grown_copies = [self._grown_copy(copy, module, change) for copy in self]
        for (holder, name), grown in zip(self._places, grown_copies, strict=True):
            # as DDP does with the module: a growth method may have chosen at random, differently on each rank
            broadcast_from_rank_0(grown)
            setattr(holder, name, grown)

    def _grown_copy(self, copy: Growable, module: Growable, change: Change | None) -> Growable:
        """A copy of the grown module, with the averages of an averaged copy."""
        old_averages = _values_by_name(self._old_tensors, _tensors(copy))
        averages = self._averages(old_averages, module, change)
        grown = _copied(module, {id(tensor): average for tensor, average in averages.items()}, copy)
        tensors = _tensors(module)
        for name, tensor in _tensors(grown).items():
            average = averages.get(tensors[name], tensor)
            if tensor is not average:  # a submodule with its own __deepcopy__ has not read the memo
                tensor.data = average.detach().to(tensor).clone()
        # averages may be kept on another device or in another precision than the module
        move_tensors(chain(grown.parameters(), grown.buffers()), *common_device_and_dtype(old_averages.values()))
        old_copies = _values_by_name(self._old_modules, dict(copy.named_modules()))
        for live, part in zip(module.modules(), grown.modules(), strict=True):
            part.training = old_copies.get(live, copy).training
        return grown

    def _averages(
        self, old_averages: Mapping[Tensor, Tensor], module: Growable, change: Change | None
    ) -> dict[Tensor, Tensor]:
        """The average for each tensor of the grown module that has one.

        Args:
            old_averages: The average for each tensor of the module before it grew.
            module: The module after it has grown.
            change: What the growth has changed, None if that is unknown.
        """
        tensors = _tensors(module)
        alive, averages = set(tensors.values()), {}
        for name, tensor in tensors.items():
            # the change says which parameters continue which; buffers can be matched by name only
            by_name = change is None or not isinstance(tensor, nn.Parameter)
            before = self._old_tensors.get(name) if by_name and tensor not in old_averages else tensor
            if before is not None and before in old_averages and (before is tensor or before not in alive):
                averages[tensor] = old_averages[before]
        if change is not None:
            for old, average in old_averages.items():
                averages |= _average_of_successor(old, average, change)
            for new, copied in change.copied.items():
                before = copied.old()
                if before is not None and before in old_averages:
                    average = old_averages[before]
                    # a helper may add to the values that it copies, such as noise: the average gets the same addition
                    added = (new - copied.of(before)).detach().to(average)
                    averages[new] = _same_kind(average, copied.of(average) + added)
        return {tensor: average for tensor, average in averages.items() if tensor.shape == average.shape}


def averaged_copies(callbacks: Iterable[Callback]) -> list[Growable]:
    """The averaged copies of a growable module that callbacks keep."""
    return [getattr(*place) for place in map(_place_of_copy, callbacks) if place is not None]


def _place_of_copy(callback: Callback) -> tuple[Any, str] | None:
    """The object that holds the averaged copy of a callback, and the name of its attribute; None without a copy."""
    average = getattr(callback, AVERAGE_ATTRIBUTE, None)
    # WeightAveraging keeps the copy inside an AveragedModel, StochasticWeightAveraging keeps it directly
    holder, name = (average, "module") if isinstance(average, AveragedModel) else (callback, AVERAGE_ATTRIBUTE)
    return (holder, name) if isinstance(getattr(holder, name, None), Growable) else None


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _values_by_name(keys: Mapping[str, Any], values: Mapping[str, Any]) -> dict[Any, Any]:
    """A mapping between the entries of two mappings that have the same name."""
    return {key: values[name] for name, key in keys.items() if name in values}


def _average_of_successor(old: Tensor, average: Tensor, change: Change) -> dict[Tensor, Tensor]:
    """The parameter that continues an old one, and its average; empty if there is none."""
    successor = change.successors.get(old) if isinstance(old, nn.Parameter) else None
    if successor is None:
        return {}
    start = successor.tensor.detach().to(average)
    return {successor.tensor: _same_kind(average, embed(average, successor, (True,) * average.ndim, start))}


def _same_kind(average: Tensor, value: Tensor) -> Tensor:
    """The value as a parameter if the average is a parameter, else as a plain tensor."""
    value = value.detach()
    return nn.Parameter(value, average.requires_grad) if isinstance(average, nn.Parameter) else value


def _copied(module: Growable, memo: dict[int, Any], old_copy: Growable) -> Growable:
    """A copy of a module that shares nothing with the module.

    Args:
        module: The grown module.
        memo: The tensors of the copy that replace tensors of the module, by the ``id`` of the latter.
        old_copy: The averaged copy before the growth; functions that it shares with the module may stay shared.

    Raises:
        MisconfigurationException: If an attribute of the module cannot be copied, or only in part.
    """
    problem = f"the averaged copy of {type(module).__name__} cannot follow its growth"
    try:
        with _CopyWithoutGraph():
            copy = deepcopy(module, memo)
    except Exception as error:  # an attribute of a user's module may raise anything
        raise MisconfigurationException(
            f"{problem}, because copy.deepcopy(module) raises {type(error).__name__}: {error}. Keep what cannot be "
            "copied out of the module, or give its class a __deepcopy__."
        ) from error
    # deepcopy shares functions, so a function that refers to the module would have the copy work on the module
    own = {id(part) for part in chain(module.modules(), module.parameters(), module.buffers())}
    attributes = chain.from_iterable(vars(part).values() for part in old_copy.modules())
    known = {id(function) for value in attributes for function in _functions(value)}
    for path, part in copy.named_modules():
        for name, value in vars(part).items():
            functions = [function for function in _functions(value) if id(function) not in known]
            if any(id(item) in own for function in functions for item in _objects_in_closure(function)):
                raise MisconfigurationException(
                    f"{problem}, because {'.'.join(filter(None, (path, name)))!r} is a function defined around the "
                    "module or a part of it, and the copy would go on using that module: make it a method."
                )
    return copy


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions in an attribute: a function, or a list or dict of functions."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return (item for item in values if isinstance(item, FunctionType))


def _objects_in_closure(function: FunctionType) -> Iterator[Any]:
    """The objects to which a function refers by its closure, and by defaults of its arguments."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # the cell is empty
            content = cell.cell_contents
            yield content.__self__ if isinstance(content, MethodType) else content


class _CopyWithoutGraph(TorchFunctionMode):
    """Has ``deepcopy`` detach tensors with a graph, such as a loss in an attribute, which torch refuses to copy."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            args = (args[0].detach(), *args[1:])
        return function(*args, **(kwargs or {}))
