"""Roles for the parts of any module."""

from collections.abc import Mapping

from structurenet_pl.driver import Driven


class Components(Driven):
    """Name the roles of components by pattern, without a change to the module.

    Args:
        roles: Pattern -> role. A pattern is matched against the dotted names of modules and parameters, with ``*`` for
            anything; the first match wins. One that reaches into a component splits it; one that matches nothing warns.

    Raises:
        ValueError: If ``roles`` is empty.

    Example:
        >>> from structurenet_pl import Components
        >>> Components({"encoder.*": "pretrained", "head": "new"}).patterns
        {'encoder.*': 'pretrained', 'head': 'new'}
    """

    def __init__(self, roles: Mapping[str, str]) -> None:
        if not roles:
            raise ValueError("roles must give a role to at least one pattern, got none")
        self.patterns = dict(roles)
