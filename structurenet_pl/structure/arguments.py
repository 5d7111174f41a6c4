"""Checks of arguments: of types, against the annotations of a function, and of values. Standard library only."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, wraps
from math import inf
from reprlib import repr as shortened
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Function = TypeVar("Function", bound=Callable[..., Any])

# Plain data only. Everything else is left alone: classes (a Trainer is of either Lightning) and what users annotate.
IN_WORDS = {
    bool: ("True or False", "booleans"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    NoneType: ("None", "None"),
    Any: ("anything", "values"),
}
LISTS = (Sequence, list)
DICTS = (Mapping, dict)


class Problem(NamedTuple):
    """A value that does not fit its annotation, perhaps inside of an argument."""

    path: str
    expected: Any
    value: object


class ChecksArguments:
    """A base class: arguments are checked against the annotations of ``__init__``, also in subclasses of users."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = checks_arguments(cls.__init__)  # type: ignore[method-assign]


def checks_arguments(function: Function) -> Function:
    """Check the arguments of each call against the annotations, as far as these name plain data.

    A default is always accepted. Python itself says what is missing or unknown.

    Raises:
        ValueError: When called, if an argument is of another type, or is nan.

    Example:
        >>> @checks_arguments
        ... def warm_up(length: float = 5, where: str | Sequence[str] | None = None): ...
        >>> warm_up("3")
        Traceback (most recent call last):
        ValueError: warm_up: length must be a number, got '3'; write it without quotes
        >>> warm_up(where=["body", 4])
        Traceback (most recent call last):
        ValueError: warm_up: where[1] must be a string, got 4
    """
    signature = inspect.signature(function)

    @cache  # and not before the first call: only then has everything that annotations name been defined
    def hint_of(name: str) -> Any:
        try:
            annotation = SimpleNamespace(__annotations__={name: function.__annotations__[name]})
            return get_type_hints(annotation, function.__globals__)[name]
        except Exception:  # there may be no annotation, or any text
            return Any

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # raises, and says it in Python's words
        owner = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
        for name, value in given.items():
            parameter, hint = signature.parameters[name], hint_of(name)
            is_single = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            # an argument that can be nothing but None is there for an error message of its own
            if is_single and hint is not NoneType and value is not parameter.default:
                _check(owner, parameter, hint, value)
        return function(*args, **kwargs)

    return cast(Function, checked)


def check_at_least(least: float, values: Mapping[str, float]) -> None:
    """Check a lower bound of numbers by name.

    Raises:
        ValueError: If one is smaller, infinite or nan.
    """
    for name, value in values.items():
        if not least <= value < inf:
            raise ValueError(f"{name} must be {f'>= {least}' if value < inf else 'finite'}, got {value}")


def check_positive(name: str, value: float, otherwise: str = "") -> None:
    """Check that a number is positive and finite.

    Raises:
        ValueError: If it is not.
    """
    if not 0 < value < inf:
        bound = "> 0" if value < inf else "finite"
        raise ValueError(f"{name} must be {bound}, got {value}{otherwise and '; '}{otherwise}")


def items_of(name: str, values: Mapping[str, float] | None) -> dict[str, float]:
    """The values of a dict by the names that they have in messages.

    Example:
        >>> items_of("roles", {"new": 0.5})
        {"roles['new']": 0.5}
    """
    return {f"{name}[{key!r}]": value for key, value in (values or {}).items()}


def _check(owner: str, parameter: inspect.Parameter, hint: Any, value: object) -> None:
    problem = _problem(parameter.name, hint, value)
    if problem is not None:
        raise ValueError(
            f"{owner}: {problem.path} must be {_in_words(problem.expected)}, got {_shown(problem.value)}"
            f"{_way_out(problem, parameter.default)}"
        )


def _problem(path: str, hint: Any, value: object) -> Problem | None:
    """The innermost part of a value that does not fit its annotation."""
    options = _options(hint)
    if len(options) > 1:
        problems = [_problem(path, option, value) for option in options]
        inner = [problem for problem in problems if problem is not None and problem.path != path]
        return None if None in problems else next(iter(inner), Problem(path, hint, value))
    if not _is_of_kind(hint, value):
        return Problem(path, hint, value)
    parts = (_problem(*part) for part in _parts(path, hint, value))
    return next((problem for problem in parts if problem is not None), None)


def _is_of_kind(hint: Any, value: object) -> bool:
    """Whether a value fits an annotation, apart from what it holds."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in inner)
    if hint in (int, float):
        # True and nan are almost always a mistake where a number is meant, although Python calls them numbers
        return isinstance(value, int if hint is int else int | float) and type(value) is not bool and value == value
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    if origin in DICTS:
        return isinstance(value, Mapping)
    if origin is tuple or origin in LISTS:  # for a tuple YAML gives a list
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return is_list and (not _is_fixed(hint) or len(cast(Sequence[Any], value)) == len(inner))
    if origin is Iterable:  # perhaps a generator, so what it holds cannot be looked at
        return isinstance(value, Iterable) and not isinstance(value, str)
    return origin is not Callable or callable(value)


def _parts(path: str, hint: Any, value: Any) -> Iterator[tuple[str, Any, object]]:
    """The parts of a list or dict: path, annotation and value."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in DICTS:
        for key, part in value.items():
            yield f"the key of {path}", inner[0], key
            yield f"{path}[{key!r}]", inner[1], part
    elif origin is tuple or origin in LISTS:
        for index, part in enumerate(value):
            yield f"{path}[{index}]", inner[index if _is_fixed(hint) else 0], part


def _is_fixed(hint: Any) -> bool:
    """Whether it is a tuple with a hint for each entry."""
    return get_origin(hint) is tuple and Ellipsis not in get_args(hint)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _in_words(hint: Any, plural: bool = False) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in IN_WORDS:
        return IN_WORDS[hint][plural]
    if origin is Literal:
        return _or(map(repr, inner))
    if len(_options(hint)) > 1:
        return _or(_in_words(option, plural) for option in inner)
    if _is_fixed(hint):
        return f"({', '.join(map(_in_words, inner))})"
    if origin is tuple or origin in (*LISTS, Iterable):
        return f"{'lists' if plural else 'a list'} of {_in_words(inner[0], plural=True)}"
    if origin in DICTS:
        return f"{'dicts' if plural else 'a dict'} from {_in_words(inner[0], True)} to {_in_words(inner[1], True)}"
    return "a function" if origin is Callable else getattr(hint, "__name__", str(hint))


def _or(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _shown(value: object) -> str:
    """The value on one line, because that of a module or a tensor may have many."""
    return " ".join(shortened(value).split())


def _way_out(problem: Problem, default: Any) -> str:
    options, value = _options(problem.expected), problem.value
    if isinstance(value, str) and {int, float} & set(options):
        try:
            float(value)
        except ValueError:
            pass
        else:
            return "; write it without quotes"
    if getattr(value, "ndim", None) == 0:  # a tensor, or a number of numpy
        return "; its item() is a plain number"
    if str in options and hasattr(value, "__name__"):  # a growth method, a class
        return f"; give its name, {value.__name__!r}"
    if not default or default is inspect.Parameter.empty or get_origin(problem.expected) is Literal:
        return ""
    return f"; the default is {_shown(default)}"
