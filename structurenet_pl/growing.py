"""How a module grows: the growth log, comparison before and after, replay, and the way back after an error."""

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from structurenet_pl.components import CONTAINERS, Part, Structure, build, founding_parts, role_by_pattern
from structurenet_pl.events import Clock, Component, GrowthEvent, dump_log, lineage, load_log

LOG_KEY = "growth_log"


class GrowthMethod:
    """A method that changes the structure of its module; made by :func:`growth`."""

    def __init__(self, function: Callable[..., Any], role: str | None, depth: str | int | None, like: str | None):
        functools.update_wrapper(self, function)
        self.function = function
        self.name = function.__name__
        self.role = role
        self.depth = depth
        self.like = like
        self.signature = inspect.signature(function)
        _, *parameters = self.signature.parameters.values()
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"growth method {self.name!r} must name its arguments, got {str(parameter)!r}")
        names = [parameter.name for parameter in parameters]
        if isinstance(depth, str) and depth not in names:
            raise TypeError(
                f"@growth(depth={depth!r}) names no argument of {self.name!r}, which has {names}. Give the name of the "
                "argument that says where, a number, or None to infer the depth from the order of definition."
            )

    def __get__(self, module: "Growing | None", owner: type) -> Any:
        return self if module is None else types.MethodType(self, module)

    def __call__(self, module: "Growing", *args: Any, **kwargs: Any) -> Any:
        bound = self.signature.bind(module, *args, **kwargs)
        bound.apply_defaults()
        _, *given = bound.arguments.items()
        arguments = {name: _plain(value, f"{self.name}({name}=...)") for name, value in given}
        return _ask(module, GrowthRequest(self, arguments))


@dataclass(frozen=True)
class GrowthRequest:
    """A call of a growth method, not yet carried out."""

    method: GrowthMethod
    arguments: Mapping[str, Any]


def growth(
    *, role: str | None = None, depth: str | int | None = None, like: str | None = None
) -> Callable[[Callable[..., Any]], GrowthMethod]:
    """Mark a method of a growable module as one that changes its structure.

    The method is plain torch code. What is new is found by comparing the module before and after, and follows into
    growth log, optimizer and schedulers. Called at an unsafe moment of a fit (inside a training step, between
    accumulated batches) it waits for the next safe one and returns None.

    Args:
        role: Role of what is born.
        depth: Where it is born: the name of the argument that says so (a depth, negative from the output, or the name
            of a component), a number, or None to infer it from the order of definition.
        like: Name of the component whose param groups the newborn parameters join; None for the nearest one.

    Raises:
        TypeError: If ``depth`` names no argument, or the method takes ``*args`` or ``**kwargs``; when called, if an
            argument is not a plain value (it is stored, and replayed on resume).

    Example:
        >>> class Net(Growing):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stem, self.patches = nn.Linear(4, 4), nn.ModuleList()
        ...
        ...     @growth(role="patch", depth="at")
        ...     def add_patch(self, at: int):
        ...         self.patches.append(nn.Linear(4, 4))
        >>> net = Net()
        >>> net.add_patch(at=0)
        >>> net.components["patches.0"]
        Component(name='patches.0', role='patch', depth=0, born=Clock(step=0, epoch=0, generation=1))
    """
    return lambda function: GrowthMethod(function, role, depth, like)


class Follower(Protocol):
    """What follows the growth of a module during a fit: it chooses the moment and adapts the optimizer."""

    def grow(self, module: "Growing", request: GrowthRequest) -> Any:
        """Carry the request out, now or at the next safe moment."""


class Growing(nn.Module):
    """A module with a growth log that travels in its state dict and is replayed before tensors are loaded."""

    growth_log: tuple[GrowthEvent, ...] = ()
    _founders: Mapping[str, Part] | None = None  # None until the first growth: derived from the module as it is
    _outer_patterns: Mapping[str, str] = {}  # roles that a Components callback gives
    _grows: bool = False

    def configure_components(self) -> Mapping[str, str]:
        """Name pattern -> role; the first match wins. Override it to say what the parts of the module are for."""
        return {}

    def on_growth(self, event: GrowthEvent) -> None:
        """Called after the module has grown. Override it to react."""

    @property
    def components(self) -> Mapping[str, Component]:
        """The components by name, in order of depth."""
        return structure_of(self).components

    def _idle_clock(self) -> Clock:
        """The time of a growth outside a fit."""
        return Clock()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.growth_log:
            destination[prefix + LOG_KEY] = torch.tensor(list(dump_log(self.growth_log).encode()), dtype=torch.uint8)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved: Tensor | None = state_dict.pop(prefix + LOG_KEY, None)
        if saved is not None:
            replay(self, load_log(bytes(saved.tolist()).decode()))
        super()._load_from_state_dict(state_dict, prefix, *args)


_FOLLOWERS: WeakKeyDictionary[Growing, Follower] = WeakKeyDictionary()  # not on the module: it is copied and pickled


def follow(module: Growing, follower: Follower | None) -> None:
    """Hand the growth of a module over to a follower, or back to the module itself."""
    _FOLLOWERS.pop(module, None)
    if follower is not None:
        _FOLLOWERS[module] = follower


def structure_of(module: nn.Module, patterns: Mapping[str, str] | None = None) -> Structure:
    """The components of a module and their parameters, as they are now.

    Args:
        module: Any module; the log of a growable one is taken into account.
        patterns: Name pattern -> role, given from outside; a growable module remembers it.
    """
    if not isinstance(module, Growing):
        return build(module, founding_parts(module, patterns or {}))
    if patterns is not None:
        module._outer_patterns = dict(patterns)
    return build(module, _parts(module))


def growth_method(module: nn.Module, name: str) -> GrowthMethod:
    """The growth method of this name.

    Raises:
        AttributeError: If the module has none.
    """
    method = inspect.getattr_static(type(module), name, None)
    if not isinstance(method, GrowthMethod):
        known = [key for key in dir(type(module)) if isinstance(getattr(type(module), key, None), GrowthMethod)]
        raise AttributeError(
            f"{type(module).__name__} has no growth method {name!r}, only {known}: mark the method with @growth() in a "
            "GrowableModule."
        )
    return method


@contextmanager
def growing(module: Growing, request: GrowthRequest, clock: Clock) -> Iterator[tuple[GrowthEvent, Any]]:
    """Grow and log it; if that or the body of the ``with`` raises, the module refers to what it did before.

    Gives the event and what the growth method returned. Values of existing tensors that the method changed in place
    are not taken back.
    """
    undo = _snapshot(module)
    before = structure_of(module)
    module._founders = module._founders if module._founders is not None else _parts(module)
    module._grows = True
    try:
        # a validation loop runs in inference mode, and parameters born there could never be trained
        with torch.inference_mode(False), torch.enable_grad():
            result = request.method.function(module, **request.arguments)
        event = _compare(module, before, request, clock)
        module.growth_log = (*module.growth_log, event)
        module._grows = False
        yield event, result
    except BaseException:
        undo()
        raise


def replay(module: Growing, log: tuple[GrowthEvent, ...]) -> None:
    """Grow until the growth log equals the given one; random number generators are left as they are.

    Raises:
        RuntimeError: If the module has grown in another way, or its code no longer does what the log says.
    """
    for mine, theirs in zip(module.growth_log, log, strict=False):
        if mine != theirs:
            raise RuntimeError(
                f"the module has grown in another way than the checkpoint: event {theirs.clock.generation} is "
                f"{_describe(theirs)} there and {_describe(mine)} here. Load it into a module that has not grown."
            )
    if len(module.growth_log) > len(log):
        raise RuntimeError(
            f"the module has grown further than the checkpoint, which ends before event {len(log) + 1}, "
            f"{_describe(module.growth_log[len(log)])}. Load it into a module that has not grown."
        )
    for event in log[len(module.growth_log) :]:
        request = GrowthRequest(growth_method(module, event.method), event.arguments)
        with isolate_rng(), growing(module, request, event.clock) as (replayed, _):
            if replayed.born != event.born:
                raise RuntimeError(
                    f"event {event.clock.generation} of the checkpoint, {_describe(event)}, gave birth to "
                    f"{list(event.born)}, but this code makes it {list(replayed.born)}. Load it with the code that "
                    "wrote it."
                )
        module.growth_log = (*module.growth_log[:-1], event)


def redate_log(module: Growing) -> None:
    """Forget when the events happened: a date means nothing on the clock of another run."""
    module.growth_log = tuple(
        replace(event, clock=Clock(generation=event.clock.generation)) for event in module.growth_log
    )


def _ask(module: Growing, request: GrowthRequest) -> Any:
    """Grow: as a part of the growth under way, or when the follower finds it safe, or now."""
    if module._grows:
        return request.method.function(module, **request.arguments)
    if (follower := _FOLLOWERS.get(module)) is not None:
        return follower.grow(module, request)
    with growing(module, request, module._idle_clock()) as (event, result):
        pass
    module.on_growth(event)
    return result


def _parts(module: Growing, *further: GrowthEvent) -> dict[str, Part]:
    patterns = {**module._outer_patterns, **module.configure_components()}
    parts = dict(module._founders if module._founders is not None else founding_parts(module, patterns))
    for event in (*module.growth_log, *further):
        for name in event.born:
            parts[name] = Part(name, event.role, event.clock, event.depth, event.beside)
        for name, path in event.moved.items():
            parts[name] = replace(parts[name], path=path)
    return parts


def _compare(module: Growing, before: Structure, request: GrowthRequest, clock: Clock) -> GrowthEvent:
    """The event that tells the structure before from the one that stands now."""
    method, generation = request.method, len(module.growth_log) + 1
    now = {tensor: name for name, tensor in module.named_parameters()}
    if gone := [before.parameter_names[tensor] for tensor in before.owner if tensor not in now]:
        raise NotImplementedError(
            f"growth method {method.name!r} removed or replaced {gone}, but only additions are supported yet: add a new "
            "module beside the old one."
        )
    paths = {
        name: _path_now(part.path, before.parameters[name], now)
        for name, part in _parts(module).items()
        if name in before.parameters
    }
    new = {name: tensor for tensor, name in now.items() if tensor not in before.owner}
    born = {path if path not in paths else f"{path}@{generation}": path for path in _newborn_paths(module, new)}
    _conform(module, born.values(), before)
    depth, beside = _locate(request, before, _parts(module))
    patterns = {**module._outer_patterns, **module.configure_components()}
    event = GrowthEvent(
        method.name,
        dict(request.arguments),
        replace(clock, generation=generation),
        born=tuple(born),
        role=method.role if method.role is not None else role_by_pattern(new, patterns),
        depth=depth,
        beside=beside,
        moved={name: path for name, path in {**paths, **born}.items() if name != path and name != "self"},
    )
    spine = build(module, _parts(module, event)).spine
    depths = {component.depth for component in spine if component.name in born}
    adjacent = [
        component.name
        for component in spine
        if component.name not in born and any(abs(component.depth - depth) <= 1 for depth in depths)
    ]
    return replace(event, adjacent=tuple(adjacent))


def _path_now(path: str, tensors: Mapping[str, nn.Parameter], now: Mapping[nn.Parameter, str]) -> str:
    """Where the component stands now whose module or parameter stood at ``path`` before."""
    places = {now[tensor].removesuffix(name[len(path) :]) for name, tensor in tensors.items()}
    if len(places) > 1:
        raise NotImplementedError(f"growth tore component {path!r} apart, its tensors stand under {sorted(places)} now")
    return places.pop()


def _newborn_paths(module: nn.Module, new: Mapping[str, nn.Parameter]) -> list[str]:
    """The outermost modules that hold nothing but new parameters; containers replaced by their elements, once."""
    tensors = set(new.values())
    paths: dict[str, None] = {}
    for name in new:
        *around, parameter = lineage(name)
        whole = [path for path in around if tensors.issuperset(module.get_submodule(path).parameters())]
        outer, *inner = [*whole, parameter]
        parent = module.get_submodule(outer.rpartition(".")[0])
        is_element = isinstance(parent, CONTAINERS)
        unpack = outer != parameter and isinstance(module.get_submodule(outer), CONTAINERS) and not is_element
        paths[inner[0] if unpack else outer] = None
    return list(paths)


def _locate(request: GrowthRequest, before: Structure, parts: Mapping[str, Part]) -> tuple[int | None, str | None]:
    """The explicit depth of what is born, and the component of the spine that stands there."""
    where = request.method.depth
    if isinstance(where, str):
        where = cast(str | int | None, request.arguments[where])
    if where is None:
        return None, None
    if isinstance(where, str):
        if where not in before.components:
            raise ValueError(f"depth names {where!r}, which is none of the components {list(before.components)}")
        depth = before.components[where].depth
    elif isinstance(where, int) and not isinstance(where, bool):
        n = 1 + max((component.depth for component in before.spine), default=-1)
        depth = where if where >= 0 else n + where
        if depth < 0:
            raise ValueError(f"depth {where} counts back past the input of a network with {n} depths")
    else:
        raise TypeError(f"depth must be a whole number or the name of a component, got {where!r}")
    at_depth = [name for name, part in parts.items() if part.depth is None and before.components[name].depth == depth]
    return depth, next(iter(at_depth), None)


def _conform(module: nn.Module, paths: Iterable[str], before: Structure) -> None:
    """Bring what is born to the device of the others, and to their dtype if they all have one."""
    old = [tensor for tensor in before.owner if tensor.is_floating_point()]
    if not old:
        return
    dtypes = {tensor.dtype for tensor in old}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    for path in paths:
        newborn = functools.reduce(getattr, path.split("."), module)
        target = newborn if isinstance(newborn, nn.Module) else newborn.data
        moved = target.to(device=old[0].device, dtype=dtype)
        if isinstance(newborn, nn.Parameter):
            newborn.data = moved


def _plain(value: Any, what: str) -> Any:
    """The value as JSON will give it back."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, what) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, what) for key, item in value.items()}
    raise TypeError(
        f"{what} got {value!r} of type {type(value).__name__}, but arguments of growth methods are stored and replayed: "
        "give numbers, strings, booleans, None, or lists and string-keyed dicts of them."
    )


def _snapshot(module: nn.Module) -> Callable[[], None]:
    """Remember what every submodule refers to; the returned function puts it back. Tensors are not copied."""
    saved = [(part, {key: (value, _shallow(value)) for key, value in vars(part).items()}) for part in module.modules()]

    def undo() -> None:
        for part, attributes in saved:
            vars(part).clear()
            for key, (value, content) in attributes.items():
                if isinstance(value, dict):
                    value.clear()
                    value.update(content)
                elif isinstance(value, list):
                    value[:] = content
                elif isinstance(value, set):
                    value.clear()
                    value.update(content)
                vars(part)[key] = value

    return undo


def _shallow(value: Any) -> Any:
    return value.copy() if isinstance(value, dict | list | set) else None


def _describe(event: GrowthEvent) -> str:
    return f"{event.method}({', '.join(f'{name}={value!r}' for name, value in event.arguments.items())})"
