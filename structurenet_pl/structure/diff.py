"""What growth has changed, found by comparing a module before and after."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import cast

import torch
from torch import nn

from structurenet_pl.structure.events import Clock, Component, GrowthEvent, lineage, listed
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.partition import CONTAINERS, Part, Structure, parameter_count
from structurenet_pl.structure.tensor_mapping import (
    NEW_ENTRY,
    Successor,
    bring,
    declared_parameters,
    is_declared,
    shape_of,
    successor_of,
    whereabouts,
)


def compare(
    module: nn.Module,
    names: Mapping[str, nn.Parameter],
    before: Structure,
    shapes: Mapping[str, torch.Size | None],
    places: Mapping[str, nn.Module],
    roots: Mapping[str, Part],
    request: GrowthRequest,
    clock: Clock,
) -> tuple[GrowthEvent, dict[nn.Parameter, Successor | None]]:
    """What has made the module what it is from what it was; brings what is new to the others' device and dtype.

    A tensor that is gone is continued by the new one of its name, if there is one; where a module has moved, by the
    one that the module holds now.

    Args:
        module: The module after the growth.
        names: Its parameters by all their names.
        before: Its structure before, without names given by patterns.
        shapes: Shapes of its parameters before, by name, None for lazy ones.
        places: Its modules before, by path.
        roots: Its components before.
        request: What was called.
        clock: When; its generation is the number of the event.

    Returns:
        The event, without the components that it concerns beside what is born, and what has become of tensors that were
        replaced, reshaped or removed.

    Raises:
        ValueError: If nothing has changed, or a tensor is continued by one with another number of dimensions.
    """
    method = request.method
    now: dict[nn.Parameter, str] = {}
    for name, tensor in names.items():
        now.setdefault(tensor, name)
    named = {name: tensor for tensor, name in now.items()}
    touched = _touched(before, shapes, named)
    old_paths = {name: roots[name].path for name in before.parameters}
    paths = old_paths | _paths_now(module, {name: old_paths[name] for name in touched}, before, places, now)
    successors = _successors(before, touched, shapes, old_paths, paths, now, named)
    absorbed = _absorbed(before, touched, paths, now)
    continued = {successor.tensor: old for old, successor in successors.items() if successor is not None}
    for tensor, old in continued.items():
        tensor.data = tensor.data.to(old.device, old.dtype)
        tensor.requires_grad = old.requires_grad
    new = {
        name: tensor
        for name, tensor in named.items()
        if before.names.get(name) is not tensor and tensor not in before.owner and tensor not in continued
    }
    born = {path if path not in paths else f"{path}@{clock.generation}": path for path in _newborn_paths(module, new)}
    _conform(module, born.values(), before)
    removed = [
        name
        for name in before.parameters
        if name in absorbed
        or (name in touched and all(successors.get(tensor, tensor) is None for tensor in touched[name].values()))
    ]
    depth, beside = _locate(request, before, roots)
    event = GrowthEvent(
        method.name,
        dict(request.arguments),
        clock,
        born=tuple(born),
        removed=tuple(removed),
        role=method.role,
        depth=depth,
        beside=beside,
        moved={name: path for name, path in paths.items() if path != old_paths[name] and name not in removed}
        | {name: path for name, path in born.items() if path != name},
        asked_by=request.asked_by,
        parameters=(sum(shape.numel() for shape in shapes.values() if shape is not None), parameter_count(now)),
    )
    if not (event.born or event.moved or successors):
        raise ValueError(
            f"growth method {method.name!r} changed no parameters: put new modules where torch finds them (in an "
            "nn.ModuleList, not a list), or call it when there is something to change"
        )
    return event, successors


def concerned(
    request: GrowthRequest,
    event: GrowthEvent,
    before: Structure,
    after: Structure,
    successors: Mapping[nn.Parameter, Successor | None],
) -> GrowthEvent:
    """The event with the components that it concerns beside what is born: those of another size, and the neighbours.

    Raises:
        ValueError: If the call names neighbours that there are not.
    """
    widened, shrunk = _resized(before, after, successors)
    event = replace(event, widened=widened, shrunk=shrunk)
    return replace(event, adjacent=_neighbours(request, event, after.by_depth))


def _touched(
    before: Structure, shapes: Mapping[str, torch.Size | None], named: Mapping[str, nn.Parameter]
) -> dict[str, Mapping[str, nn.Parameter]]:
    """The components of which a tensor is not what and where it was, with their tensors before."""
    declared = {before.owner.get(tensor) for tensor in declared_parameters()}
    return {
        component: tensors
        for component, tensors in before.parameters.items()
        if component in declared
        or any(named.get(name) is not tensor or shape_of(tensor) != shapes[name] for name, tensor in tensors.items())
    }


def _successors(
    before: Structure,
    touched: Mapping[str, Mapping[str, nn.Parameter]],
    shapes: Mapping[str, torch.Size | None],
    old_paths: Mapping[str, str],
    paths: Mapping[str, str],
    now: Mapping[nn.Parameter, str],
    named: Mapping[str, nn.Parameter],
) -> dict[nn.Parameter, Successor | None]:
    """What has become of the tensors that are not what they were."""
    occupied = {path for name, path in paths.items() if path != old_paths[name]}
    found: dict[nn.Parameter, Successor | None] = {}
    for component, tensors in touched.items():
        path, old_path = paths[component], old_paths[component]
        supplanted = path == old_path and path in occupied and now.keys().isdisjoint(tensors.values())
        for name, old in tensors.items():
            if old in now and shape_of(old) == shapes[name] and not is_declared(old):
                continue
            new = old if old in now else named.get(path + name[len(old_path) :])
            is_other = new is None or (new is not old and new in before.owner) or supplanted
            found[old] = None if is_other else successor_of(name, shapes[name], cast(nn.Parameter, new))
    return found


def _resized(
    before: Structure, after: Structure, successors: Mapping[nn.Parameter, Successor | None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The components with new entries in old tensors, and those that have lost some."""
    widened, shrunk = set(), set()
    for old, successor in successors.items():
        if successor is None:
            shrunk.add(before.owner[old])
            continue
        kept = [sum(place != NEW_ENTRY for place in places) for places in successor.origin]
        name = after.owner[successor.tensor]
        if any(count < size for count, size in zip(kept, successor.tensor.shape, strict=True)):
            widened.add(name)
        if any(count < size for count, size in zip(kept, successor.old_shape, strict=True)):
            shrunk.add(name)
    names = list(after.components)
    return tuple(filter(widened.__contains__, names)), tuple(filter(shrunk.__contains__, names))


def _neighbours(request: GrowthRequest, event: GrowthEvent, components: Sequence[Component]) -> tuple[str, ...]:
    """The old components next to what is born: those that the call names, else those at most 1 deeper or less deep."""
    generation = event.clock.generation
    new = {one.name for one in components if one.born.generation == generation or one.name in event.widened}
    old = [component for component in components if component.name not in new]
    if request.method.adjacent is None:
        depths = {component.depth for component in components if component.name in new}
        return tuple(component.name for component in old if any(abs(component.depth - at) <= 1 for at in depths))
    patterns = listed(request.arguments[request.method.adjacent])
    if idle := [pattern for pattern in patterns if not any(component.matches(pattern) for component in old)]:
        raise ValueError(
            f"adjacent names {idle}, neither role nor name of any of {[component.name for component in old]}"
        )
    return tuple(component.name for component in old if any(map(component.matches, patterns)))


def _paths_now(
    module: nn.Module,
    old_paths: Mapping[str, str],
    before: Structure,
    places: Mapping[str, nn.Module],
    now: Mapping[nn.Parameter, str],
) -> dict[str, str]:
    """Where each component stands now: where its tensors do, else its module, else where it stood before."""
    places_now = {part: path for path, part in module.named_modules()} if old_paths else {}
    paths = {}
    for component, path in old_paths.items():
        tensors = before.parameters[component]
        found = {
            now[tensor].removesuffix(name[len(path) :]).rstrip(".") for name, tensor in tensors.items() if tensor in now
        }
        if len(found) > 1:
            raise NotImplementedError(
                f"growth tore component {path!r} apart, its tensors stand under {sorted(found)} now"
            )
        elsewhere = places_now.get(places[path], path) if path in places else path
        paths[component] = found.pop() if found else elsewhere
    return paths


def _absorbed(
    before: Structure,
    touched: Mapping[str, Mapping[str, nn.Parameter]],
    paths: Mapping[str, str],
    now: Mapping[nn.Parameter, str],
) -> list[str]:
    """The components that are gone but for tensors that they shared with another, which is left alone with them."""
    gone = {name for name, tensors in touched.items() if now.keys().isdisjoint(tensors.values())}
    # the owner is the first of those that share, so the heir is the last
    heirs = {paths[name]: name for name in before.parameters if name not in gone}
    return [name for name in before.parameters if name not in gone and heirs[paths[name]] != name]


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
    """The explicit depth of what is born, and the component of the components that stands there."""
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
        n = 1 + max((component.depth for component in before.by_depth), default=-1)
        depth = where if where >= 0 else n + where
        if not 0 <= depth <= n:
            raise ValueError(f"depth {where} is outside a network of {n} depths, which takes {-n} to {n}")
    else:
        raise TypeError(f"depth must be a whole number or the name of a component, got {where!r}")
    at_depth = [name for name, part in parts.items() if part.depth is None and before.components[name].depth == depth]
    return depth, next(iter(at_depth), None)


def _conform(module: nn.Module, paths: Iterable[str], before: Structure) -> None:
    """Bring what is born to the device of the others, and to their dtype if they all have one."""
    device, dtype = whereabouts(before.owner)
    for path in paths:
        newborn = functools.reduce(getattr, path.split("."), module)
        if isinstance(newborn, nn.Module):
            newborn.to(device)
            bring(chain(newborn.parameters(), newborn.buffers()), device, dtype)
        else:
            bring([newborn], device, dtype)
