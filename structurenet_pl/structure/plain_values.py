"""Plain values: what a growth log can store and a checkpoint can hold. Standard library only."""

from collections.abc import Mapping
from math import isnan
from typing import Any


def plain_value(value: Any, source: str) -> Any:
    """The value in the form in which JSON returns it.

    Raises:
        TypeError: If JSON cannot store it.
        ValueError: If it is nan.
    """
    if isinstance(value, float) and isnan(value):
        raise ValueError(f"{source} got nan, which is equal to nothing, so growth logs could not be compared")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain_value(item, source) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain_value(item, source) for key, item in value.items()}
    raise TypeError(
        f"{source} got {value!r} of type {type(value).__name__}, but arguments of growth methods are stored and used "
        "again on resume: give numbers, strings, booleans, None, or lists and string-keyed dicts of them."
    )
