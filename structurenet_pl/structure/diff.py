"""Find what growth changed, by comparing a module before and after."""

import functools
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import cast

from torch import nn

from structurenet_pl.structure.component_inference import CONTAINERS
from structurenet_pl.structure.events import Clock, GrowthEvent, lineage
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.inventory import Inventory, NetworkState
from structurenet_pl.structure.tensor_mapping import (
    Successor,
    common_device_and_dtype,
    declared_parameters,
    is_declared,
    move_tensors,
    shape_of,
    successor_of,
)

Touched = Mapping[str, Mapping[str, nn.Parameter]]  # component -> its tensors before the growth, by name


def compare(
    before: NetworkState, after: Inventory, request: GrowthRequest, clock: Clock
) -> tuple[GrowthEvent, dict[nn.Parameter, Successor | None]]:
    """Describe the growth of a module as an event, and adapt new tensors to the old ones.

    The successor of a tensor that is gone is the new tensor of the same name, in the place where its component is now.
    It gets device, dtype and ``requires_grad`` of the old tensor; newborn tensors get device and dtype of the module.

    Args:
        before: The module before the growth.
        after: Its modules and parameters after the growth.
        request: The call of the growth method.
        clock: The time of the growth; its generation is the number of the event.

    Returns:
        The event, without affected components and numbers of parameters, and the successors of tensors that
        were replaced, reshaped or removed; None for a removed tensor.

    Raises:
        ValueError: If nothing has changed, or shapes, declared positions or the depth do not fit the old network.
        TypeError: If the depth is neither a whole number nor the name of a component.
        NotImplementedError: If growth has split a component: its tensors stand under different paths.
    """
    method, module = request.method, before.module
    touched = _touched(before, after)
    components = before.structure.parameters if touched else {}  # only touched components can have moved or gone
    old_paths = {name: before.specs[name].path for name in components}
    paths = old_paths | _current_paths(before, after, touched)
    successors = _successors(before, after, touched, old_paths, paths)
    absorbed = _absorbed(components, after, touched, paths)
    predecessors = {successor.tensor: old for old, successor in successors.items() if successor is not None}
    for tensor, old in predecessors.items():  # user code may create it on the CPU, in float32, or trainable
        tensor.data = tensor.data.to(old.device, old.dtype)
        tensor.requires_grad = old.requires_grad
    new = {
        name: tensor
        for name, tensor in after.by_first_name.items()
        if before.inventory.by_every_name.get(name) is not tensor
        and tensor not in before.inventory
        and tensor not in predecessors
    }
    # names are never reused: a newborn at the path of an older component is called path@generation
    born = {
        path if path not in before.specs else f"{path}@{clock.generation}": path for path in _newborn_paths(module, new)
    }
    _match_device_and_dtype(module, born.values(), before.inventory.by_first_name.values())
    removed = [
        name
        for name in components
        if name in absorbed
        or (name in touched and all(successors.get(tensor, tensor) is None for tensor in touched[name].values()))
    ]
    depth, beside = _explicit_depth(request, before)
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
    )
    if not (event.born or event.moved or successors):
        raise ValueError(
            f"growth method {method.name!r} changed no parameters, expected a change: register new modules where torch "
            "finds them (in an nn.ModuleList, not a list), and call it only when there is something to change"
        )
    return event, successors


def _touched(before: NetworkState, after: Inventory) -> Touched:
    """The components with a tensor that was replaced, reshaped, moved, removed, or declared by ``came_from``."""
    old = before.inventory
    changed = {
        name
        for name, tensor in old.by_first_name.items()
        if after.by_first_name.get(name) is not tensor or after.shapes[name] != old.shapes[name]
    }
    changed |= {old.name_of(tensor) for tensor in declared_parameters() if tensor in old}
    if not changed:
        return {}
    components = before.structure.parameters
    return {name: tensors for name, tensors in components.items() if not changed.isdisjoint(tensors)}


def _successors(
    before: NetworkState,
    after: Inventory,
    touched: Touched,
    old_paths: Mapping[str, str],
    paths: Mapping[str, str],
) -> dict[nn.Parameter, Successor | None]:
    """The successors of tensors that were replaced or reshaped; None for a removed tensor."""
    occupied = {path for name, path in paths.items() if path != old_paths[name]}
    shapes = before.inventory.shapes
    result: dict[nn.Parameter, Successor | None] = {}
    for component, tensors in touched.items():
        path, old_path = paths[component], old_paths[component]
        # another component has moved to its path, so the tensors under its names are not its successors
        supplanted = path == old_path and path in occupied and _is_gone(tensors, after)
        for name, old in tensors.items():
            if old in after and shape_of(old) == shapes[name] and not is_declared(old):
                continue
            new = old if old in after else after.by_first_name.get(path + name[len(old_path) :])
            is_removed = new is None or (new is not old and new in before.inventory) or supplanted
            result[old] = None if is_removed else successor_of(name, shapes[name], cast(nn.Parameter, new))
    return result


def _current_paths(before: NetworkState, after: Inventory, touched: Touched) -> dict[str, str]:
    """The path of each component now: that of its tensors, else that of its module, else its old path.

    Raises:
        NotImplementedError: If the tensors of a component stand in different places.
    """
    module_paths = {part: path for path, part in before.module.named_modules()} if touched else {}
    old_modules = before.inventory.modules
    paths = {}
    for component, tensors in touched.items():
        path = before.specs[component].path
        candidates = {
            after.name_of(tensor).removesuffix(name[len(path) :]).rstrip(".")
            for name, tensor in tensors.items()
            if tensor in after
        }
        if len(candidates) > 1:
            raise NotImplementedError(
                f"growth split the component at {path!r}: its tensors stand under {sorted(candidates)} now, expected "
                "one path. Move a component as a whole."
            )
        path_of_module = module_paths.get(old_modules[path], path) if path in old_modules else path
        paths[component] = candidates.pop() if candidates else path_of_module
    return paths


def _absorbed(
    components: Mapping[str, Mapping[str, nn.Parameter]], after: Inventory, touched: Touched, paths: Mapping[str, str]
) -> list[str]:
    """The components whose path a later component now has, too: all their tensors left are shared with it."""
    gone = {name for name, tensors in touched.items() if _is_gone(tensors, after)}
    # the owner is the first of those that share a tensor, so the heir is the last
    heirs = {paths[name]: name for name in components if name not in gone}
    return [name for name in components if name not in gone and heirs[paths[name]] != name]


def _is_gone(tensors: Mapping[str, nn.Parameter], after: Inventory) -> bool:
    """Whether a component has none of its tensors left."""
    return not any(tensor in after for tensor in tensors.values())


def _newborn_paths(module: nn.Module, new: Mapping[str, nn.Parameter]) -> list[str]:
    """The outermost modules with new parameters only; a new container is replaced by its elements, one level deep."""
    tensors = set(new.values())
    paths: dict[str, None] = {}  # a dict, because a set would lose the order of definition
    for name in new:
        *around, parameter = lineage(name)
        all_new = [path for path in around if tensors.issuperset(module.get_submodule(path).parameters())]
        outer, *inner = [*all_new, parameter]
        # what a growth adds to a container is one component, whatever it holds
        parent = module.get_submodule(outer.rpartition(".")[0])
        is_element = isinstance(parent, CONTAINERS)
        unpack = outer != parameter and isinstance(module.get_submodule(outer), CONTAINERS) and not is_element
        paths[inner[0] if unpack else outer] = None
    return list(paths)


def _explicit_depth(request: GrowthRequest, before: NetworkState) -> tuple[int | None, str | None]:
    """The explicit depth of the new components, and the component at this depth; None where not given."""
    depth = request.method.depth
    if isinstance(depth, str):  # the name of the argument
        depth = cast(str | int | None, request.arguments[depth])
    if depth is None:
        return None, None
    components = before.structure.components
    if isinstance(depth, str):
        if depth not in components:
            raise ValueError(f"depth is {depth!r}, expected a number or one of the components {list(components)}")
        depth = components[depth].depth
    elif isinstance(depth, int) and not isinstance(depth, bool):
        n = 1 + max((component.depth for component in before.structure.by_depth), default=-1)
        given, depth = depth, depth if depth >= 0 else n + depth
        if not 0 <= depth <= n:
            raise ValueError(f"depth {given} is outside a network of {n} depths, expected a number from {-n} to {n}")
    else:
        raise TypeError(f"depth must be a whole number or the name of a component, got {depth!r}")
    at_depth = (name for name, spec in before.specs.items() if spec.depth is None and components[name].depth == depth)
    return depth, next(at_depth, None)


def _match_device_and_dtype(module: nn.Module, paths: Iterable[str], old: Iterable[nn.Parameter]) -> None:
    """Move newborns to the device of the old parameters, and to their dtype if they all have the same."""
    device, dtype = common_device_and_dtype(old)
    for path in paths:
        newborn = functools.reduce(getattr, path.split("."), module)
        if not isinstance(newborn, nn.Module):
            move_tensors([newborn], device, dtype)
            continue
        tensors = list(chain(newborn.parameters(), newborn.buffers()))
        if device is not None and any(tensor.device != device for tensor in tensors):
            newborn.to(device)  # also what the module keeps beside its tensors
            tensors = list(chain(newborn.parameters(), newborn.buffers()))
        move_tensors(tensors, device, dtype)
