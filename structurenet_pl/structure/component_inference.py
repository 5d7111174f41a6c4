"""Infer the founding components of a module from its tree of submodules.

Only classes and numbers of submodules count, never shapes: lazy and sharded parameters change their shapes in a fit.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from torch import nn

from structurenet_pl.structure.partition import ComponentSpec, parameters_by_path

COMPILED_CHILD = "_orig_mod"  # the name under which torch.compile registers the module that it wraps
MIN_REPEATED_LAYERS = 3  # layers of one class in a sequence; two layers are still one block
MIN_LAYERS_OF_BLOCK = 3  # in a sequence; two, such as convolution and norm, are still a part of a block
SEQUENCES = (nn.Sequential, nn.ModuleList)
CONTAINERS = (*SEQUENCES, nn.ModuleDict)


def founding_specs(module: nn.Module) -> dict[str, ComponentSpec]:
    """The components that follow from the submodules of a module, before name patterns and growth.

    A module with a single child that holds parameters is replaced by that child. Then each child is a component, except
    that a container is replaced by its elements, and a child or element with repeated blocks inside (a backbone beside
    a head, a stage of a backbone) by its own children, recursively.
    """
    paths = set(_paths_inside(*_sole_descendant("", module, through=CONTAINERS)))
    return {path or "self": ComponentSpec(path) for path in parameters_by_path(module, paths)}


def _paths_inside(path: str, module: nn.Module) -> Iterator[str]:
    """The paths of the components in a module that is replaced by its children."""
    if _has_own_parameters(module):
        yield path
    for name, child in _children(module).items():
        child_path = _join(path, name)
        if COMPILED_CHILD in child._modules:
            child_path, child = _join(child_path, COMPILED_CHILD), child.get_submodule(COMPILED_CHILD)
        inner_path, inner = _sole_descendant(child_path, child, through=())
        if isinstance(module, CONTAINERS):
            is_opened = _is_stage(child)
        else:
            is_opened = isinstance(child, CONTAINERS) or _has_repeated_blocks(inner)
        if is_opened:
            yield from _paths_inside(inner_path, inner)
        else:
            yield child_path  # not inner_path: a component is named by its outermost module


def _sole_descendant(path: str, module: nn.Module, through: tuple[type[nn.Module], ...]) -> tuple[str, nn.Module]:
    """The first descendant that is no mere wrapper of a single child, or that is a container outside ``through``."""
    while True:
        children = _children(module)
        is_wrapper = len(children) == 1 and not _has_own_parameters(module)
        if not is_wrapper or (isinstance(module, CONTAINERS) and not isinstance(module, through)):
            return path, module
        [(name, module)] = children.items()
        path = _join(path, name)


def _has_repeated_blocks(module: nn.Module) -> bool:
    """Whether a sequence or list inside holds several blocks of one class, or a sequence many layers of one class."""
    return any(
        # a list of layers may be heads side by side; only a sequence runs them one after the other
        _most_of_one_class(_children(inner).values()) >= MIN_REPEATED_LAYERS or _repeats_blocks(inner)
        if isinstance(inner, nn.Sequential)
        else isinstance(inner, nn.ModuleList) and _most_of_one_class(filter(_children, _children(inner).values())) > 1
        for inner in module.modules()
    )


def _is_stage(element: nn.Module) -> bool:
    """Whether an element of a container is, or holds, a sequence of blocks of one class, and so is no block itself.

    A list inside an element does not count, because it may hold experts or attention heads side by side, and layers
    do not count, because a block may consist of a sequence of them.
    """
    sequences = [inner for inner in element.modules() if isinstance(inner, nn.Sequential)]
    return any(map(_repeats_blocks, [element, *sequences] if isinstance(element, nn.ModuleList) else sequences))


def _repeats_blocks(sequence: nn.Module) -> bool:
    return _most_of_one_class(filter(_is_block, _children(sequence).values())) > 1


def _is_block(module: nn.Module) -> bool:
    return sum(map(_has_own_parameters, module.modules())) >= MIN_LAYERS_OF_BLOCK


def _most_of_one_class(modules: Iterable[nn.Module]) -> int:
    return max(Counter(map(_final_class, modules)).values(), default=0)


def _final_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module; of a lazy module, the class that it takes on at the first batch."""
    return getattr(module, "cls_to_become", None) or type(module)  # torch's attribute of lazy modules


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """The children that hold parameters."""
    return {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}


def _has_own_parameters(module: nn.Module) -> bool:
    """Whether parameters stand directly on the module."""
    return next(module.parameters(recurse=False), None) is not None
