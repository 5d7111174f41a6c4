"""Growth methods: mark a method with ``@growth``, call it, and look it up by name."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import getattr_static
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from torch import nn

from structurenet_pl.structure.arguments import checks_arguments
from structurenet_pl.structure.events import format_call
from structurenet_pl.structure.plain_values import plain_value

SecondMoments = Literal["mean", "zero", "reset"]
Module = TypeVar("Module")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
BY_USER = "user"
DERIVE = "derive it from GrowableModule, or put GrowthMixin first among its bases"


class GrowthMethod:
    """A method that changes the structure of its module; made by ``growth``."""

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
        self.second_moments = second_moments
        self.signature = inspect.signature(function)
        _, *parameters = self.signature.parameters.values()
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(
                    f"growth method {self.name!r} must name its arguments, got {str(parameter)!r}: declare each, so "
                    "that the growth log can store it by name"
                )
        names = [parameter.name for parameter in parameters]
        for key, value in {"depth": depth, "adjacent": adjacent}.items():
            if isinstance(value, str) and value not in names:
                raise TypeError(f"@growth({key}={value!r}) names no argument of {self.name!r}, which has {names}")

    def __set_name__(self, owner: type, name: str) -> None:
        """Use the name of the class attribute: replay looks the method up by it. The first, if there are several."""
        if not self._has_name:
            self.name, self._has_name = name, True

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        # as for a function: the class gives the method itself, an instance gives a bound method
        return self if module is None else types.MethodType(self, module)

    def __call__(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Request the growth from the module."""
        request = GrowthRequest(self, self.bind_arguments(module, *args, **kwargs))
        _check_can_grow(module, self.name)
        return module.request_growth(request)

    def bind_arguments(self, module: Any, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The arguments by name, with defaults, as plain values that the growth log can store.

        Raises:
            TypeError: If they do not fit the signature of the method, or one is not a plain value.
            ValueError: If one is nan.
        """
        try:
            bound = self.signature.bind(module, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"growth method {self.name!r} with arguments {self.signature}: {error}") from None
        bound.apply_defaults()
        _, *given = bound.arguments.items()
        return {name: plain_value(value, f"{self.name}({name}=...)") for name, value in given}


@dataclass(frozen=True)
class GrowthRequest:
    """A call of a growth method, not yet carried out.

    Args:
        method: The growth method.
        arguments: Its arguments by name, with defaults.
        by_clock: Whether the clock alone decided, so that every process makes the same request at the same moment.
        asked_by: The origin of the request: the class name of a trigger, or ``"user"``.
    """

    method: GrowthMethod
    arguments: Mapping[str, Any]
    by_clock: bool = False
    asked_by: str = BY_USER

    def with_returned_arguments(self, result: Any) -> "GrowthRequest":
        """The request with the arguments that the method decided itself, if its result is a dict of arguments.

        Raises:
            ValueError: If the dict has other keys, too.
        """
        if not isinstance(result, dict) or result.keys().isdisjoint(self.arguments):
            return self
        if unknown := sorted(result.keys() - self.arguments.keys(), key=str):
            raise ValueError(
                f"{self.method.name}() returned values for its arguments, and also for {unknown}, which are none: "
                f"return a dict that names only arguments, {list(self.arguments)}, or a tuple."
            )
        name = f"{self.method.name}() returned"
        returned = {key: plain_value(value, f"{name} {key}=...") for key, value in result.items()}
        return replace(self, arguments={**self.arguments, **returned})

    def __str__(self) -> str:
        return format_call(self.method.name, self.arguments)


@checks_arguments
def growth(
    function: None = None,
    /,
    *,
    role: str | None = None,
    depth: str | int | None = None,
    like: str | None = None,
    adjacent: str | None = None,
    second_moments: SecondMoments = "mean",
) -> Callable[
    [Callable[Concatenate[Module, Parameters], Result]],
    Callable[Concatenate[Module, Parameters], Result | None],  # not GrowthMethod, by which overrides could not be typed
]:
    """Mark a method of a growable module as one that changes its structure.

    The method is plain torch code: it may add modules, replace parameters by larger or smaller ones, remove modules.
    The changes are found by comparing the module before and after, and are applied to growth log, optimizer and
    schedulers. A tensor that was removed is continued by the new tensor of the same name; see
    ``came_from`` if its entries have changed places. Called at an unsafe moment of a fit (inside
    a training step, between accumulated batches), the method waits for the next safe moment, and the call returns
    None. Under DDP it waits for the end of the epoch or of a validation, and every process must have called it by
    then.

    Loading a checkpoint calls the method again, with the same arguments. A method that decides a value by data, such
    as a width, should return the value as a dict of arguments, ``{"width": 12}``: the growth log stores the returned
    values, and the method does not decide them again. A method that reads values of tensors and returns no dict gets a
    warning; ``{}`` says that no size depends on them. Of several ranks the values of rank 0 count: on a rank with other
    values (under FSDP2 on all ranks) the growth is undone, and the method is called again with those of rank 0. A
    growth method that calls other growth methods has to return their decided values itself.

    Args:
        function: Not to be given: it is there for an error message when the parentheses are forgotten.
        role: Role of the new components.
        depth: Depth of the new components: the name of the argument that gives it (a depth, negative from the output,
            or the name of a component), a number, or None to infer it from the order of definition.
        like: Name of the component whose param groups the newborn parameters join; None for the nearest one.
        adjacent: Name of the argument that lists the neighbours, as roles or name patterns of components; None for
            those whose depth differs by at most 1.
        second_moments: Start value of second moments (Adam's ``exp_avg_sq`` and the like) of new entries in an old
            tensor: ``"mean"``: the mean over the old entries; ``"zero"``; ``"reset"``: the state of the whole tensor is
            dropped. After 500 steps of Adam under gradients of one size, the first update of a new entry is 0.1, 2.0
            and 1.0 times the lr.

    Raises:
        TypeError: If the parentheses are forgotten, ``depth`` or ``adjacent`` names no argument, or the method takes
            ``*args`` or ``**kwargs``; when called, if an argument is not a plain value (arguments are stored, and used
            again on resume), the class cannot grow, or the name of the method leads to another attribute, such as an
            override without ``@growth()``.
        ValueError: If ``second_moments`` is no policy; when called, if nothing has changed, the depth is outside the
            network, ``adjacent`` names no component, a tensor has got another number of dimensions, several
            param groups fit the new parameters equally well, or it returns a dict of arguments and of other keys.
        NotImplementedError: When called, if the tensors of one component end up in different places.
        MisconfigurationException: When called in a fit, if the module is a part of the module in training, or the
            strategy is neither DDP, FSDP2 nor a single device.
        RuntimeError: Under DDP and FSDP2, if the processes differ.

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


def growth_methods(kind: type) -> dict[str, GrowthMethod]:
    """The growth methods of a class, by name."""
    return {key: found for key in dir(kind) if isinstance(found := getattr(kind, key, None), GrowthMethod)}


def request_by_name(module: nn.Module, name: str, arguments: Mapping[str, Any]) -> GrowthRequest:
    """The request for a growth method by its name.

    Raises:
        AttributeError: If the module has no growth method of this name.
        TypeError: If the arguments do not fit the method, or the class cannot grow.
    """
    kind = type(module)
    method = getattr_static(kind, name, None)
    if not isinstance(method, GrowthMethod):
        known = list(growth_methods(kind))
        expected = f"expected one of {known}: mark the method with @growth()."
        if not known:
            expected = f"nor any other: {DERIVE}, and mark the method with @growth()."
        raise AttributeError(f"{kind.__name__} has no growth method {name!r}, {expected}")
    _check_can_grow(module, name)
    return GrowthRequest(method, method.bind_arguments(module, **arguments))


def _check_can_grow(module: nn.Module, name: str) -> None:
    """Check that a module with a growth method has a base class that can carry it out."""
    if not hasattr(module, "request_growth"):
        raise TypeError(f"{type(module).__name__}.{name} is marked with @growth(), but the class cannot grow: {DERIVE}")


def check_replayable(module: nn.Module, method: GrowthMethod) -> None:
    """Check that a method is found again by its name, for else its growth could not be replayed.

    Raises:
        TypeError: If the class has another attribute by the name of the method, or none.
    """
    # static: a decorator above @growth() may be a descriptor that gives something else
    attribute = getattr_static(type(module), method.name, None)
    if attribute is not method:
        raise TypeError(
            f"{type(module).__name__}.{method.name} is {attribute!r}, not the growth method that was called, so a "
            "checkpoint could not be loaded: mark an override with @growth(), too (it may call super()), and put "
            "@growth() above all other decorators."
        )
