"""Each mistake in an argument gets a message with what was given, what was expected, and a way out."""

import copy
import inspect
import math
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers import CALLBACKS, EXAMPLES, Net
from structurenet_pl import (
    AgeDecay,
    Components,
    DensityScaler,
    DepthDecay,
    GrowEvery,
    GrowOnPlateau,
    GrowthResponder,
    LARSScaler,
    LRFactor,
    ProgressiveFreeze,
    ResetPatience,
    RoleLR,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    came_from,
    growth,
    identity_like,
    plot_strata,
    preview,
    recommended,
    widen,
)
from structurenet_pl.structure.arguments import ChecksArguments

NAN, INF = math.nan, math.inf
LAYER = nn.Linear(2, 2)
NECK = {"growth": "add_neck"}
UNIT = "unit must be 'step', 'epoch' or 'generation', got "

TYPES = [
    (Warmup, {"length": "3"}, "Warmup: length must be a number, got '3'; write it without quotes"),
    (Warmup, {"length": None}, "Warmup: length must be a number, got None; the default is 5"),
    (Warmup, {"length": True}, "length must be a number, got True; the default is 5"),
    (Warmup, {"length": NAN}, "length must be a number, got nan; the default is 5"),
    (Warmup, {"length": [5]}, "length must be a number, got [5]; the default is 5"),
    (Warmup, {"length": torch.tensor(3.0)}, "length must be a number, got tensor(3.); its item() is a plain number"),
    (Warmup, {"length": np.float32(3)}, "got np.float32(3.0); its item() is a plain number"),
    (Warmup, {"length": torch.ones(2)}, "got tensor([1., 1.]); the default is 5"),
    (Warmup, {"unit": "batch"}, f"Warmup: {UNIT}'batch'"),
    (Warmup, {"unit": None}, f"{UNIT}None"),
    (Warmup, {"newborn_only": "no"}, "newborn_only must be True or False, got 'no'; the default is True"),
    (Warmup, {"where": 3}, "where must be a string, a list of strings or None, got 3"),
    (Warmup, {"where": ["body", 3]}, "where[1] must be a string, got 3"),
    (Warmup, {"where": {"body"}}, "where must be a string, a list of strings or None, got {'body'}"),
    (Warmup, {"where": nn.Linear}, "; give its name, 'Linear'"),
    (DepthDecay, {"gamma": "0.8"}, "DepthDecay: gamma must be a number, got '0.8'; write it without quotes"),
    (DepthDecay, {"slowest": "middle"}, "slowest must be 'input' or 'output', got 'middle'"),
    (AgeDecay, {"gamma": "0.1"}, "gamma must be a number, got '0.1'; write it without quotes"),
    (AgeDecay, {"floor": NAN}, "floor must be a number, got nan"),
    (AgeDecay, {"unit": "week"}, f"AgeDecay: {UNIT}'week'"),
    (
        RoleLR,
        {"factors": {"new": "fast"}},
        "factors['new'] must be a number, got 'fast'; the default is {'adapter'",
    ),
    (RoleLR, {"factors": {"new": NAN}}, "factors['new'] must be a number, got nan"),
    (RoleLR, {"factors": {1: 0.5}}, "the key of factors must be a string, got 1"),
    (RoleLR, {"factors": ["new"]}, "factors must be a dict from strings to numbers, got ['new']; the default is {"),
    (RoleLR, {"base_lr": "1e-3"}, "base_lr must be a number or None, got '1e-3'; write it without quotes"),
    (GrowthResponder, {"recovery": "2"}, "recovery must be a number or None, got '2'; write it without quotes"),
    (GrowthResponder, {"recovery": NAN}, "recovery must be a number or None, got nan"),
    (GrowthResponder, {"roles": 0.5}, "roles must be a dict from strings to numbers or None, got 0.5"),
    (GrowthResponder, {"unit": "event"}, f"{UNIT}'event'"),
    (SedimentaryDecay, {"strata": [("a", 0, "1.0")]}, "strata[0][2] must be a number, got '1.0'; write it without"),
    (SedimentaryDecay, {"strata": [("a", NAN, 1.0)]}, "strata[0][1] must be a number, got nan"),
    (SedimentaryDecay, {"strata": [("a", 0)]}, "strata[0] must be (a string, a number, a number), got ('a', 0); the"),
    (SedimentaryDecay, {"strata": {0: 1.0}}, "strata must be a list of (a string, a number, a number), got {0: 1.0}"),
    (SedimentaryDecay, {"strata": "active"}, "the default is (('active', 0, 1.0), ('sediment', 20, 0.1)"),
    (SedimentaryDecay, {"roles": None}, "roles must be a dict from strings to numbers, got None; the default is {"),
    (SedimentaryDecay, {"unit": "years"}, f"{UNIT}'years'"),
    (ProgressiveFreeze, {"phases": [("a", 0, 1.0)]}, "phases[0] must be (a string, a number, a number, a number, a"),
    (ProgressiveFreeze, {"phases": [("a", 0, 1, NAN, 0)]}, "phases[0][3] must be a number, got nan"),
    (ProgressiveFreeze, {"phases": [(0, 0, 1, 1, 0)]}, "phases[0][0] must be a string, got 0"),
    (ProgressiveFreeze, {"norm": "off"}, "norm must be 'eval' or 'train', got 'off'"),
    (ProgressiveFreeze, {"release_state": "yes"}, "release_state must be True or False, got 'yes'"),
    (ProgressiveFreeze, {"unit": ""}, f"{UNIT}''"),
    (LARSScaler, {"trust_coefficient": "a"}, "trust_coefficient must be a number, got 'a'; the default is 0.001"),
    (LARSScaler, {"mode": "tensor"}, "mode must be 'lr' or 'grad', got 'tensor'"),
    (DensityScaler, {"sparse": "2"}, "sparse must be a number, got '2'; write it without quotes"),
    (DensityScaler, {"dense_above": NAN}, "dense_above must be a number, got nan"),
    (recommended, {"form": "best"}, "recommended: form must be 'evidence', 'seed' or 'finetune', got 'best'"),
    (DepthDecay, {"layers": []}, "layers must name roles or patterns"),
    (Components, {"roles": {"body.*": 3}}, "roles['body.*'] must be a string or a dict from strings to strings, got 3"),
    (
        Components,
        {"roles": ["body"]},
        "Components: roles must be a dict from strings to strings or dicts",
    ),
    (StrataMonitor, {"max_components": "9"}, "max_components must be a whole number, got '9'; write it without quotes"),
    (StrataMonitor, {"norms": 1}, "norms must be True or False, got 1"),
    (ResetPatience, {"schedulers": "all"}, "schedulers must be True or False, got 'all'; the default is True"),
    (GrowEvery, {"growth": Net.add_neck, "every": 1}, "GrowEvery: growth must be a string, got"),
    (GrowEvery, {"growth": Net.add_neck, "every": 1}, "; give its name, 'add_neck'"),
    (GrowEvery, {"growth": Net().add_neck, "every": 1}, "; give its name, 'add_neck'"),
    (GrowEvery, NECK | {"every": 2.0}, "every must be a whole number, got 2.0"),
    (GrowEvery, NECK | {"every": 1, "limit": "2"}, "limit must be a whole number or None, got '2'; write it without"),
    (GrowEvery, NECK | {"every": 1, "unit": "generation"}, "unit must be 'epoch' or 'step', got 'generation'"),
    (GrowEvery, NECK | {"every": 1, "arguments": (0,)}, "arguments must be a dict from strings to values, got (0,)"),
    (GrowOnPlateau, {"growth": Net.add_neck, "monitor": "val"}, "; give its name, 'add_neck'"),
    (GrowOnPlateau, NECK | {"monitor": 0}, "monitor must be a string, got 0"),
    (
        GrowOnPlateau,
        NECK | {"monitor": "val", "patience": 1.5},
        "patience must be a whole number, got 1.5; the default",
    ),
    (GrowOnPlateau, NECK | {"monitor": "val", "min_delta": NAN}, "min_delta must be a number, got nan"),
    (GrowOnPlateau, NECK | {"monitor": "val", "mode": "auto"}, "mode must be 'min' or 'max', got 'auto'"),
    (growth, {"role": 3}, "growth: role must be a string or None, got 3"),
    (growth, {"depth": 0.5}, "depth must be a string, a whole number or None, got 0.5"),
    (growth, {"second_moments": "keep"}, "second_moments must be 'mean', 'zero' or 'reset', got 'keep'"),
    (widen, {"layer": LAYER, "following": LAYER, "width": "4"}, "widen: width must be a whole number, got '4'; write"),
    (widen, {"layer": LAYER, "following": LAYER, "width": 4, "scheme": "x"}, "scheme must be 'copy', 'zero' or 'pair'"),
    (identity_like, {"layer": LAYER, "noise": NAN}, "identity_like: noise must be a number, got nan"),
    (came_from, {"parameter": LAYER.bias, "positions": [0.5, 1]}, "positions [0.5, 1], expected a list of whole"),
    (came_from, {"parameter": LAYER.bias, "positions": None}, "positions None, expected a list of whole numbers"),
    (preview, {"callbacks": Warmup()}, "preview: callbacks must be a list of Callback, got <"),
    (preview, {"callbacks": [], "epochs": "3"}, "epochs must be a whole number, got '3'; write it without quotes"),
    (
        preview,
        {"callbacks": [], "base_lr": "0.1"},
        "base_lr must be a number or a function, got '0.1'; write it",
    ),
    (plot_strata, {"source": "logs", "kind": "map"}, "plot_strata: kind must be 'curves' or 'heat_map', got 'map'"),
]

VALUES = [
    (Warmup, {"length": -1}, "length must be > 0, got -1; for no warm-up, leave the callback out"),
    (Warmup, {"length": 0}, "length must be > 0, got 0"),
    (Warmup, {"length": INF}, "length must be finite, got inf"),
    (Warmup, {"start": -0.1}, "start must be in [0, 1], got -0.1"),
    (Warmup, {"where": []}, "where must name roles or patterns, or be None for all components; got []"),
    (SedimentaryDecay, {"strata": []}, "must start at age 0"),
    (SedimentaryDecay, {"strata": [("old", 5, 0.1)]}, "must start at age 0, got starts [5]"),
    (SedimentaryDecay, {"strata": [("a", 0, 1.0), ("c", 9, 0.1), ("b", 5, 0.5)]}, "sorted by start age"),
    (SedimentaryDecay, {"strata": [("a", 0, 1.0), ("a", 9, 0.1)]}, "must have different names, got ['a', 'a']"),
    (SedimentaryDecay, {"strata": [("a", 0, -1.0)]}, "the factor of 'a' must be >= 0, got -1.0"),
    (SedimentaryDecay, {"roles": {"patch": -0.5}}, "roles['patch'] must be >= 0, got -0.5"),
    (GrowthResponder, {"grown": -0.9}, "grown must be >= 0, got -0.9"),
    (GrowthResponder, {"distant": INF}, "distant must be finite, got inf"),
    (GrowthResponder, {"roles": {"new": -1.0}}, "roles['new'] must be >= 0, got -1.0"),
    (GrowthResponder, {"floor": -1.0}, "floor must be >= 0, got -1.0"),
    (
        GrowthResponder,
        {"recovery": 0},
        "recovery must be > 0, got 0; it is a half-life: for permanent dips, leave it",
    ),
    (ProgressiveFreeze, {"phases": [("late", 3, 1.0, 1.0, 0)]}, "must start at 0, got starts [3]"),
    (ProgressiveFreeze, {"phases": [("a", 0, 1, 1, 0), ("b", 0, 1, 1, 0)]}, "sorted by start, without duplicates"),
    (ProgressiveFreeze, {"phases": [("a", 0, 1.0, -1.0, 0)]}, "late in phase 'a' must be >= 0, got -1.0"),
    (
        ProgressiveFreeze,
        {"phases": [("a", 0, 1, 1, 1.5)]},
        "must be a whole number or a share in (0, 1), got 1.5",
    ),
    (
        ProgressiveFreeze,
        {"phases": [("a", 0, 1, 1, INF)]},
        "must be a whole number or a share in (0, 1), got inf",
    ),
    (AgeDecay, {"gamma": -0.1}, "gamma must be >= 0, got -0.1"),
    (AgeDecay, {"gamma": INF}, "gamma must be finite, got inf"),
    (AgeDecay, {"per": 0}, "per must be > 0, got 0"),
    (AgeDecay, {"floor": -1.0}, "floor must be >= 0, got -1.0"),
    (DepthDecay, {"gamma": -1.0}, "gamma must be >= 0, got -1.0"),
    (RoleLR, {"factors": {}}, "factors must give a factor to at least one role, as in {'new': 0.5}, got {}"),
    (RoleLR, {"factors": {"new": -1.0}}, "factors['new'] must be >= 0, got -1.0"),
    (RoleLR, {"base_lr": 0.0}, "base_lr must be > 0, got 0.0; if the values are factors"),
    (DensityScaler, {"sparse_below": 0.5}, "need 0 <= sparse_below <= dense_above <= 1, got 0.5 and 0.1"),
    (DensityScaler, {"dense_above": 1.5}, "dense_above <= 1, got 0.02 and 1.5"),
    (DensityScaler, {"sparse": -2.0}, "sparse must be >= 0, got -2.0"),
    (LARSScaler, {"trust_coefficient": 0.0}, "trust_coefficient must be > 0, got 0.0"),
    (LARSScaler, {"eps": -1e-8}, "eps must be >= 0, got -1e-08"),
    (LARSScaler, {"clip": 0.0}, "clip must be > 0, got 0.0; for no bound, leave it out"),
    (GrowEvery, NECK | {"every": 0}, "every must be >= 1, got 0"),
    (GrowEvery, NECK | {"every": 1, "limit": 0}, "limit must be >= 1, got 0"),
    (GrowOnPlateau, NECK | {"monitor": "val", "patience": 0}, "patience must be >= 1, got 0"),
    (GrowOnPlateau, NECK | {"monitor": "val", "cooldown": -1}, "cooldown must be >= 0, got -1"),
    (GrowOnPlateau, NECK | {"monitor": "val", "limit": 0}, "limit must be >= 1, got 0"),
    (GrowOnPlateau, NECK | {"monitor": "val", "min_delta": -0.1}, "min_delta must be >= 0, got -0.1"),
    (Components, {"roles": {}}, "roles must map at least one pattern to a role, as in {'head': 'new'}, got {}"),
    (StrataMonitor, {"max_components": -1}, "max_components must be >= 0, got -1"),
    (
        ResetPatience,
        {"early_stopping": False, "schedulers": False},
        "set one of them to True, or leave the callback",
    ),
    (preview, {"callbacks": [], "epochs": 0}, "epochs must be >= 1, got 0"),
    (preview, {"callbacks": [], "steps_per_epoch": 0}, "steps_per_epoch must be >= 1, got 0"),
]


@pytest.mark.parametrize(("call", "arguments", "message"), TYPES + VALUES)
def test_mistakes(call, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(**arguments)


@pytest.mark.parametrize("kind", CALLBACKS)
def test_no_number_of_any_callback_may_be_nan(kind):
    numbers = {
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if {int, float} & {parameter.annotation, *getattr(parameter.annotation, "__args__", ())}
    }
    for name in numbers:
        with pytest.raises(ValueError, match=f"{kind.__name__}: {name} must be .*got nan"):
            kind(**EXAMPLES[kind] | {name: NAN})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Warmup(5),  # a whole number where a number is meant
        lambda: Warmup(np.float64(5)),  # which is a float
        lambda: Warmup(where=("body", "head")),
        lambda: SedimentaryDecay([["active", 0, 1]]),  # as YAML gives it
        lambda: GrowEvery("add_patch", 1, arguments={"at": [{"any": None}]}),
    ],
)
def test_what_is_meant_is_accepted(make):
    make()


def test_a_missing_or_unknown_argument_is_for_python_to_say():
    with pytest.raises(TypeError, match="unexpected keyword argument 'lenght'"):
        Warmup(lenght=3)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'roles'"):
        Components()


# ------------------------------------------------------------------------------------------------------ users' factors


class Own(LRFactor):
    def __init__(
        self,
        until: "float" = INF,
        names: Sequence[str] = (),
        shape: Callable[[int], float] = abs,
        layer: nn.Module | None = None,
        unknown: "NoSuchName" = None,  # noqa: F821
        pair: tuple[int, ...] | dict[str, int] = (),
        free=None,
        anything: Any = None,
        **others: int,
    ) -> None:
        super().__init__()
        self.until = until

    def factor(self, component, now):
        return 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"until": "3"}, "Own: until must be a number, got '3'; write it without quotes"),
        ({"names": "body"}, "Own: names must be a list of strings, got 'body'"),
        ({"shape": 3}, "Own: shape must be a function, got 3"),
        ({"pair": (1, "2")}, "Own: pair[1] must be a whole number, got '2'; write it without quotes"),
        ({"pair": {"a": 0.5}}, "Own: pair['a'] must be a whole number, got 0.5"),
        ({"pair": 3}, "Own: pair must be a list of whole numbers or a dict from strings to whole numbers, got 3"),
    ],
)
def test_annotated_arguments_of_ones_own_factor_are_checked(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Own(**arguments)


def test_what_the_check_does_not_know_is_left_alone():
    Own(until=INF, layer="no layer", unknown=3, free=object(), anything=NAN, others="no number")


def test_a_subclass_without_annotations_is_checked_by_its_base():
    class Shorter(Warmup):
        def __init__(self, length=2, **kwargs):
            super().__init__(length=length, **kwargs)

    with pytest.raises(ValueError, match="Shorter: length must be a number, got '2'"):
        Shorter("2")
    assert Shorter(3).length == 3


def test_callbacks_look_as_without_the_check():
    assert list(inspect.signature(Warmup).parameters) == ["length", "unit", "start", "newborn_only", "where"]
    assert inspect.getsource(Warmup.__init__).startswith("    def __init__(")
    warmup = Warmup(7)
    assert [copy.deepcopy(warmup).length, pickle.loads(pickle.dumps(warmup)).length] == [7, 7]
    assert all(issubclass(kind, ChecksArguments) for kind in CALLBACKS)
