"""Growth methods: how a class says what changes its structure."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isnan
from typing import Any, Literal, get_args

from torch import nn

from structurenet_pl.structure.events import call

SecondMoments = Literal["mean", "zero", "reset"]
BY_USER = "user"


def check_second_moments(second_moments: str) -> None:
    """Check a policy for second moments.

    Raises:
        ValueError: If it is none.
    """
    if second_moments not in get_args(SecondMoments):
        raise ValueError(f"second_moments must be one of {get_args(SecondMoments)}, got {second_moments!r}")


class GrowthMethod:
    """A method that changes the structure of its module; made by :func:`growth`."""

    def __init__(
        self,
        function: Callable[..., Any],
        role: str | None,
        depth: str | int | None,
        like: str | None,
        adjacent: str | None,
        second_moments: SecondMoments,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = function.__name__
        self._has_name = False
        self.role = role
        self.depth = depth
        self.like = like
        self.adjacent = adjacent
        check_second_moments(second_moments)
        self.second_moments = second_moments
        self.signature = inspect.signature(function)
        _, *parameters = self.signature.parameters.values()
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"growth method {self.name!r} must name its arguments, got {str(parameter)!r}")
        names = [parameter.name for parameter in parameters]
        for key, value in {"depth": depth, "adjacent": adjacent}.items():
            if isinstance(value, str) and value not in names:
                raise TypeError(f"@growth({key}={value!r}) names no argument of {self.name!r}, which has {names}")

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name that leads back to it, whatever the function is called; the first, if it has several."""
        if not self._has_name:
            self.name, self._has_name = name, True

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        return self if module is None else types.MethodType(self, module)

    def __call__(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """Ask the module to grow."""
        request = GrowthRequest(self, self.bind_arguments(module, *args, **kwargs))
        try:
            request_growth = module.request_growth
        except AttributeError:
            raise TypeError(
                f"{type(module).__name__}.{self.name} is marked with @growth(), but the class cannot grow: derive it "
                "from GrowableModule, or put GrowthMixin in front of its bases"
            ) from None
        return request_growth(request)

    def bind_arguments(self, module: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The arguments by name, with defaults, as they are stored.

        Raises:
            TypeError: If they do not fit the method, or one is not a plain value.
        """
        try:
            bound = self.signature.bind(module, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"growth method {self.name!r} with arguments {self.signature}: {error}") from None
        bound.apply_defaults()
        _, *given = bound.arguments.items()
        return {name: _plain(value, f"{self.name}({name}=...)") for name, value in given}


@dataclass(frozen=True)
class GrowthRequest:
    """A call of a growth method, not yet carried out.

    Args:
        method: What was called.
        arguments: Its arguments by name, with defaults.
        by_clock: Whether the clock alone decided, so that every process asks for the same at the same moment.
        asked_by: Who asks: the class name of a trigger, or ``"user"``.
    """

    method: GrowthMethod
    arguments: Mapping[str, Any]
    by_clock: bool = False
    asked_by: str = BY_USER

    def decided(self, result: Any) -> "GrowthRequest":
        """The request with the arguments that the method has decided itself, if it returns a dict of some of them."""
        if not (isinstance(result, dict) and result and result.keys() <= self.arguments.keys()):
            return self
        name = f"{self.method.name}() returned"
        decided = {key: _plain(value, f"{name} {key}=...") for key, value in result.items()}
        return replace(self, arguments={**self.arguments, **decided})

    def __str__(self) -> str:
        return call(self.method.name, self.arguments)


def growth(
    function: None = None,
    /,
    *,
    role: str | None = None,
    depth: str | int | None = None,
    like: str | None = None,
    adjacent: str | None = None,
    second_moments: SecondMoments = "mean",
) -> Callable[[Callable[..., Any]], GrowthMethod]:
    """Mark a method of a growable module as one that changes its structure.

    The method is plain torch code: it may add modules, replace parameters by larger or smaller ones, remove modules.
    What has changed is found by comparing the module before and after, and follows into growth log, optimizer and
    schedulers. A tensor that is gone is continued by the new one of its name; see :func:`~structurenet_pl.came_from`
    where entries have changed places. Called at an unsafe moment of a fit (inside a training step, between
    accumulated batches) it waits for the next safe one and returns None. Under DDP it waits for the end of the epoch
    or of a validation, and every process must have called it by then.

    Loading a checkpoint calls it again, with the same arguments. Where it decides something by data, such as a width,
    let it return that as a dict of arguments, ``{"width": 12}``: the log holds these values, and they are not decided
    again. Under DDP those of rank 0 count: on a rank that has decided otherwise the growth is taken back, and the
    method is called again with them. Of growth methods that it calls it has to pass such values on.

    Args:
        function: Nothing: it stands here to say so when the parentheses are forgotten.
        role: Role of what is born.
        depth: Where it is born: the name of the argument that says so (a depth, negative from the output, or the name
            of a component), a number, or None to infer it from the order of definition.
        like: Name of the component whose param groups the newborn parameters join; None for the nearest one.
        adjacent: Name of the argument that lists the neighbours, as roles or name patterns of components; None for
            those whose depth differs by at most 1.
        second_moments: What second moments (Adam's ``exp_avg_sq`` and its like) start as for new entries of an old
            tensor: ``"mean"``: the mean over the old entries; ``"zero"``; ``"reset"``: the whole tensor's state is
            dropped. After 500 steps of Adam under gradients of one size, the first update of a new entry is 0.1, 2.0
            and 1.0 times the lr.

    Raises:
        TypeError: If the parentheses are forgotten, ``depth`` or ``adjacent`` names no argument, or the method takes
            ``*args`` or ``**kwargs``; when called, if an argument is not a plain value (it is stored, and replayed on
            resume), the class cannot grow, or the name of the method leads to something else, such as an override that
            is not marked.
        ValueError: If ``second_moments`` is no policy; when called, if nothing has changed, the depth is outside the
            network, ``adjacent`` names no component, a tensor has got another number of dimensions, or several
            param groups fit what is born equally well.
        NotImplementedError: When called, if the tensors of one component end up in different places.
        MisconfigurationException: When called in a fit, if the module is a part of the one in training, or the strategy
            is neither DDP nor a single device.
        RuntimeError: Under DDP, if the processes differ.

    Example:
        >>> from structurenet_pl import GrowableModule, growth
        >>> class Net(GrowableModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stem, self.patches = nn.Linear(4, 4), nn.ModuleList()
        ...
        ...     @growth(role="patch", depth="at")
        ...     def add_patch(self, at: int):
        ...         self.patches.append(nn.Linear(4, 4))
        >>> net = Net()
        >>> net.add_patch(at=0)
        >>> net.components["patches.0"]
        Component(name='patches.0', role='patch', depth=0, born=Clock(step=0, epoch=0, generation=1))
    """
    if function is not None:
        raise TypeError("write @growth() with parentheses, or @growth(role=...)")
    return lambda function: GrowthMethod(function, role, depth, like, adjacent, second_moments)


def _plain(value: Any, what: str) -> Any:
    """The value as JSON will give it back."""
    if isinstance(value, float) and isnan(value):
        raise ValueError(f"{what} got nan, which is equal to nothing, so that a log with it could not be compared")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, what) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, what) for key, item in value.items()}
    raise TypeError(
        f"{what} got {value!r} of type {type(value).__name__}, but arguments of growth methods are stored and "
        "replayed: give numbers, strings, booleans, None, or lists and string-keyed dicts of them."
    )
