"""Infer the founding components of a module from its tree of submodules."""

from collections import Counter
from collections.abc import Iterator

from torch import nn

from structurenet_pl.structure.partition import ComponentSpec, parameters_by_path

COMPILED_CHILD = "_orig_mod"  # the name under which torch.compile registers the module that it wraps
MIN_REPEATED_LAYERS = 3  # layers of one class in a sequence; two layers are still one block
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def founding_specs(module: nn.Module) -> dict[str, ComponentSpec]:
    """The components that follow from the submodules of a module, before name patterns and growth.

    A module with a single child that holds parameters is replaced by that child. Then each child is a component, with
    two exceptions: a container is replaced by its elements, one level deep; a child with repeated blocks inside (such
    as the backbone beside a head) is replaced by its own children, recursively.
    """
    return {path or "self": ComponentSpec(path) for path in parameters_by_path(module, set(_component_paths(module)))}


def _component_paths(module: nn.Module, path: str = "", outermost: bool = True) -> Iterator[str]:
    """The paths of the components in a module, which stands under the given path."""
    if COMPILED_CHILD in module._modules:
        path, module = _join(path, COMPILED_CHILD), module.get_submodule(COMPILED_CHILD)
    inner_path, inner = path, module
    while not isinstance(inner, CONTAINERS) and not _has_own_parameters(inner) and len(_children(inner)) == 1:
        [(name, inner)] = _children(inner).items()
        inner_path = _join(inner_path, name)
    if not (outermost or isinstance(module, CONTAINERS) or _has_repeated_blocks(inner)):
        yield path  # not inner_path: a component is named by its outermost module
        return
    if _has_own_parameters(inner):
        yield inner_path
    for name, child in _children(inner).items():
        if isinstance(inner, CONTAINERS):
            yield _join(inner_path, name)  # an element is a component, whatever it holds
        else:
            yield from _component_paths(child, _join(inner_path, name), outermost=False)


def _has_repeated_blocks(module: nn.Module) -> bool:
    """Whether a sequence or list inside holds several blocks of one class, or a sequence many layers of one class."""
    for inner in module.modules():
        if isinstance(inner, nn.Sequential | nn.ModuleList):
            layers = Counter(type(child) for child in _children(inner).values() if not _children(child))
            blocks = Counter(type(child) for child in _children(inner).values() if _children(child))
            # a list of layers may be heads side by side; only a sequence runs them one after the other
            many = isinstance(inner, nn.Sequential) and max(layers.values(), default=0) >= MIN_REPEATED_LAYERS
            if many or max(blocks.values(), default=0) > 1:
                return True
    return False


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """The children that hold parameters."""
    return {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}


def _has_own_parameters(module: nn.Module) -> bool:
    """Whether parameters stand directly on the module."""
    return next(module.parameters(recurse=False), None) is not None
