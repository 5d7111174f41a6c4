"""Components: give roles to the components of any module."""

from collections.abc import Mapping

from structurenet_pl.engine.attach import NeedsDriver
from structurenet_pl.structure.role_patterns import Given, check_given


class Components(NeedsDriver):
    """Give roles to components by name or class, without a change to the module.

    A role is any word; factors read roles in ``where=`` and in their tables of roles. A pattern given here takes
    precedence over the patterns in the module's own ``configure_components``. These roles have a fixed meaning:

    | role         | meaning |
    |---|---|
    | ``scaffold`` | the founding network; ``recommended()`` preserves it |
    | ``patch``    | a dense part beside the scaffold; ``SedimentaryDecay`` gives it a constant factor |
    | ``neck``     | a part between scaffold and head |
    | ``new``      | freshly initialised; ``pretrained``: nearly frozen; ``adapter``: between the two (``RoleLR``) |
    | ``head``     | always the deepest component, wherever the module defines it |

    **Names and classes.** A pattern fits a module if it fits its dotted name or the name of its class or of a base
    class, such as ``"Conv2d"`` or ``"BatchNorm*"``; upper and lower case differ. It fits a parameter by name only.
    ``*`` stands for any characters. For each parameter the first pattern wins that fits it or a module around it; of
    nested modules, the outermost counts. ``where=`` of a factor knows roles and names, but no classes: give the class a
    role here, and name the role there.

    **Splitting.** A pattern that fits only a part of a component splits this part off: each ``"*.lora_A"`` is then a
    component of its own, with the depth of the block that it was cut from. A pattern that names all elements of a list
    or ``Sequential``, as ``"trunk.layers.*"``, replaces a component ``trunk`` by these elements, one behind the other.

    **Depth** is the order of definition. An output layer comes last: a component with the role ``head``, or one of the
    names ``head``, ``lm_head``, ``cls_head``, ``classifier``, ``fc_out`` or ``param_proj`` in its path. For any other
    place, give a mapping in place of the role, with ``depth``: the name of a component, or of a module around
    components, whose depth is shared.

    Args:
        roles: Map from pattern to role, or to a mapping with ``role``, ``depth`` or both. A pattern that matches
            nothing causes a warning.

    Raises:
        ValueError: If ``roles`` is empty, or a pattern gives neither a role nor such a mapping. At the start of the
            fit: if ``depth`` names no component.

    Example:
        >>> from structurenet_pl import Components
        >>> Components({"encoder.*": "pretrained", "head": "new"}).patterns
        {'encoder.*': 'pretrained', 'head': 'new'}
        >>> adapters = Components({"BatchNorm*": "norm", "adapters.0": {"role": "adapter", "depth": "blocks.0"}})
    """

    def __init__(self, roles: Mapping[str, Given]) -> None:
        if not roles:
            raise ValueError("roles must map at least one pattern to a role, as in {'head': 'new'}, got {}")
        for pattern, given in roles.items():
            check_given(pattern, given)
        self.roles = dict(roles)  # under the name of the argument, because ranks compare arguments
        self.patterns = self.roles  # the driver reads the patterns of all callbacks when the fit starts
