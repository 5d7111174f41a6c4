"""Many names in one sentence. Standard library only."""

from collections.abc import Sequence

MAX_NAMES = 10


def listed(names: Sequence[str]) -> str:
    """The names; if they are many, the first ones, how many more there are, and the last one.

    Example:
        >>> listed(["stem", "body", "head"])
        'stem, body, head'
        >>> listed([f"body.{number}" for number in range(1000)] + ["head"])
        'body.0, body.1, body.2, body.3, body.4, body.5, body.6, body.7, 992 more, head'
    """
    more = len(names) - MAX_NAMES
    return ", ".join(names if more <= 0 else [*names[: MAX_NAMES - 2], f"{more + 1} more", names[-1]])
