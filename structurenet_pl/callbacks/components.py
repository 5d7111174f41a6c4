"""Roles for the parts of any module."""

from collections.abc import Mapping

from structurenet_pl.engine.attach import NeedsDriver


class Components(NeedsDriver):
    """Name the roles of components by pattern, without a change to the module.

    A role is any word; factors take it in ``where=`` and in their tables of roles. These have a meaning of their own:

    ============== ============================================================================================
    ``scaffold``   the founding network, preserved by ``recommended()``
    ``patch``      a dense part beside the scaffold, with a rate of its own in ``SedimentaryDecay``
    ``neck``       a part between scaffold and head
    ``new``        freshly initialised, ``pretrained``: nearly frozen, ``adapter``: between the two (``RoleLR``)
    ``head``       always the deepest component, wherever it is defined
    ============== ============================================================================================

    Args:
        roles: Pattern -> role. A pattern is matched against the dotted names of modules and parameters, with ``*`` for
            anything; the first match wins. One that reaches into a component splits it; one that matches nothing warns.

    Raises:
        ValueError: If ``roles`` is empty, or no mapping.

    Example:
        >>> from structurenet_pl import Components
        >>> Components({"encoder.*": "pretrained", "head": "new"}).patterns
        {'encoder.*': 'pretrained', 'head': 'new'}
    """

    def __init__(self, roles: Mapping[str, str]) -> None:
        if not isinstance(roles, Mapping) or not roles:
            raise ValueError(f"roles must map at least one pattern to a role, as in {{'head': 'new'}}, got {roles!r}")
        self.patterns = dict(roles)
