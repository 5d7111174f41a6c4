"""Components: give roles to the components of any module."""

from collections.abc import Mapping

from structurenet_pl.engine.attach import NeedsDriver


class Components(NeedsDriver):
    """Give roles to components by name pattern, without a change to the module.

    A role is any word; factors read roles in ``where=`` and in their tables of roles. A pattern given here takes
    precedence over the patterns in the module's own ``configure_components``. These roles have a fixed meaning:

    | role         | meaning |
    |---|---|
    | ``scaffold`` | the founding network; ``recommended()`` preserves it |
    | ``patch``    | a dense part beside the scaffold; ``SedimentaryDecay`` gives it a constant factor |
    | ``neck``     | a part between scaffold and head |
    | ``new``      | freshly initialised; ``pretrained``: nearly frozen; ``adapter``: between the two (``RoleLR``) |
    | ``head``     | always the deepest component, wherever the module defines it |

    Args:
        roles: Map from name pattern to role. A pattern is matched against the dotted names of modules and parameters;
            ``*`` matches any characters, and the first match wins. A pattern that matches only a part of a component
            splits the component. A pattern that matches nothing causes a warning.

    Raises:
        ValueError: If ``roles`` is empty.

    Example:
        >>> from structurenet_pl import Components
        >>> Components({"encoder.*": "pretrained", "head": "new"}).patterns
        {'encoder.*': 'pretrained', 'head': 'new'}
    """

    def __init__(self, roles: Mapping[str, str]) -> None:
        if not roles:
            raise ValueError("roles must map at least one pattern to a role, as in {'head': 'new'}, got {}")
        self.patterns = dict(roles)  # the driver reads the patterns of all callbacks when the fit starts
