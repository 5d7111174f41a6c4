"""Copies of a module in which its weights are averaged follow its growth."""

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
from structurenet_pl.structure.grow import Change
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.tensor_mapping import common_device_and_dtype, embed, move_tensors

AVERAGE_ATTRIBUTE = "_average_model"  # of WeightAveraging, EMAWeightAveraging and StochasticWeightAveraging


class AveragedCopies:
    """The copies of a growable module that weight averaging keeps, and what each of their tensors is the average of.

    They do not grow by themselves: user code is called once, for the module. They are made anew from what that has
    become, with their averages in the places of the tensors that have survived.

    Args:
        callbacks: Those of the Trainer, whichever Lightning they are from.
        module: As it is before it grows.
    """

    def __init__(self, callbacks: Iterable[Callback], module: nn.Module) -> None:
        self._keepers = [keeper for keeper in map(_keeper, callbacks) if keeper is not None]
        self._tensors = _tensors(module)
        self._modules = dict(module.named_modules())

    def __iter__(self) -> Iterator[Growable]:
        return (getattr(keeper, name) for keeper, name in self._keepers)

    def apply(self, module: Growable, change: Change | None = None) -> None:
        """Make each of them what the module is now; if that raises, all are as they were.

        An entry of a tensor that has survived keeps its average, and what is new starts with its value in the module.
        What one of our helpers has copied is copied in the average, so that the average, too, computes what it did.
        A buffer of another shape is new as a whole: nobody says where its entries came from.

        Args:
            module: As it is after it has grown.
            change: What the growth has changed; None if it happened out of our sight, so that names have to do.

        Raises:
            MisconfigurationException: If an attribute of the module cannot be copied, or is a function that refers to
                the module.
        """
        made = [self._made_anew(copy, module, change) for copy in self]
        for (keeper, name), grown in zip(self._keepers, made, strict=True):
            broadcast_from_rank_0(grown)  # as DDP does with the module: each may have copied other units
            setattr(keeper, name, grown)

    def _made_anew(self, copy: Growable, module: Growable, change: Change | None) -> Growable:
        averages = _pairs(self._tensors, _tensors(copy))
        modules = _pairs(self._modules, dict(copy.named_modules()))
        now = _tensors(module)
        alive, places = set(now.values()), {}
        for name, tensor in now.items():
            # what becomes of parameters is in the change, and of buffers nobody says more than their names
            by_name = change is None or not isinstance(tensor, nn.Parameter)
            before = self._tensors.get(name) if by_name and tensor not in averages else tensor
            if before in averages and (before is tensor or before not in alive):
                places[tensor] = averages[before]
        if change is not None:
            for old, average in averages.items():
                places |= _continued(old, average, change)
            for new, copied in change.copied.items():
                if (average := averages.get(copied.old)) is not None:
                    # what the helper has added to the copies, such as noise, is added to their average, too
                    added = (new - copied.of(copied.old)).detach().to(average)
                    places[new] = _like(average, copied.of(average) + added)
        places = {tensor: average for tensor, average in places.items() if tensor.shape == average.shape}
        grown = _copied(module, {id(tensor): average for tensor, average in places.items()}, copy)
        for name, tensor in _tensors(grown).items():
            average = places.get(now[name], tensor)
            if tensor is not average:  # a part makes copies in a way of its own
                tensor.data = average.detach().to(tensor).clone()
        move_tensors(chain(grown.parameters(), grown.buffers()), *common_device_and_dtype(averages.values()))
        for live, part in zip(module.modules(), grown.modules(), strict=True):
            part.training = modules.get(live, copy).training
        return grown


def averaged_copies(callbacks: Iterable[Callback]) -> list[Growable]:
    """The copies of a growable module that weight averaging keeps."""
    return [getattr(*keeper) for keeper in map(_keeper, callbacks) if keeper is not None]


def _keeper(callback: Callback) -> tuple[Any, str] | None:
    """Who holds the averaged copy of a callback, and by which name; None if there is none that can grow."""
    average = getattr(callback, AVERAGE_ATTRIBUTE, None)
    keeper, name = (average, "module") if isinstance(average, AveragedModel) else (callback, AVERAGE_ATTRIBUTE)
    return (keeper, name) if isinstance(getattr(keeper, name, None), Growable) else None


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _pairs(some: Mapping[str, Any], others: Mapping[str, Any]) -> dict[Any, Any]:
    return {value: others[name] for name, value in some.items() if name in others}


def _continued(old: Tensor, average: Tensor, change: Change) -> dict[Tensor, Tensor]:
    """What continues a tensor, and its average."""
    successor = change.successors.get(old) if isinstance(old, nn.Parameter) else None
    if successor is None:
        return {}
    start = successor.tensor.detach().to(average)
    return {successor.tensor: _like(average, embed(average, successor, (True,) * average.ndim, start))}


def _like(average: Tensor, value: Tensor) -> Tensor:
    """A parameter for a parameter, a buffer for a buffer."""
    value = value.detach()
    return nn.Parameter(value, average.requires_grad) if isinstance(average, nn.Parameter) else value


def _copied(module: Growable, memo: dict[int, Any], before: Growable) -> Growable:
    """A copy of a module that shares nothing with it.

    Args:
        module: Any.
        memo: What stands in the copy in the place of some tensors, by their ``id``.
        before: The copy that there was. What that shared with the module has been so from the start.

    Raises:
        MisconfigurationException: If something in the module cannot be copied, or is copied in part only.
    """
    where = f"the averaged copy of {type(module).__name__} cannot follow its growth"
    try:
        with _Detached():
            copy = deepcopy(module, memo)
    except Exception as error:  # in whatever way an attribute of somebody's module refuses
        raise MisconfigurationException(
            f"{where}, because copy.deepcopy(module) raises {type(error).__name__}: {error}. Keep what cannot be "
            "copied out of the module, or give its class a __deepcopy__."
        ) from error
    own = {id(part) for part in chain(module.modules(), module.parameters(), module.buffers())}
    attributes = chain.from_iterable(vars(part).values() for part in before.modules())
    known = {id(function) for value in attributes for function in _functions(value)}
    for path, part in copy.named_modules():
        for name, value in vars(part).items():
            functions = [function for function in _functions(value) if id(function) not in known]
            if any(id(item) in own for function in functions for item in _closed_over(function)):
                raise MisconfigurationException(
                    f"{where}, because {'.'.join(filter(None, (path, name)))!r} is a function defined around the "
                    "module or a part of it, which a copy of it would go on using: make it a method."
                )
    return copy


def _functions(value: Any) -> Iterator[FunctionType]:
    """A function, and those in a list or dict that is an attribute."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return (one for one in values if isinstance(one, FunctionType))


def _closed_over(function: FunctionType) -> Iterator[Any]:
    """What a function refers to from around its definition, and by defaults of its arguments."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell
            content = cell.cell_contents
            yield content.__self__ if isinstance(content, MethodType) else content


class _Detached(TorchFunctionMode):
    """Copies a tensor that hangs on a graph, such as a loss that is kept, without it; torch refuses to copy it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            args = (args[0].detach(), *args[1:])
        return function(*args, **(kwargs or {}))
