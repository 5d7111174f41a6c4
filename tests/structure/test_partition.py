from operator import is_

import pytest
import torch
from torch import nn

from helpers import Plain
from structurenet_pl.structure.component_inference import founding_specs
from structurenet_pl.structure.inventory import Inventory
from structurenet_pl.structure.module_structure import structure_of
from structurenet_pl.structure.partition import build_structure, modules_by_all_paths, parameters_by_all_names
from structurenet_pl.structure.role_patterns import unmatched_patterns


def names(module, patterns=None):
    return list(structure_of(module, patterns or {}).components)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.stem = nn.Linear(2, 2)


def wrap(module):
    outer = nn.Module()
    outer.model = module
    outer.loss = nn.CrossEntropyLoss()
    return outer


def block():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Plain(), ["body.0", "body.3", "body.4", "head"]),
        (wrap(Plain()), ["model.body.0", "model.body.3", "model.body.4", "model.head"]),
        (wrap(wrap(nn.Linear(2, 2))), ["model.model"]),
        (wrap(nn.Sequential(*(block() for _ in range(3)))), ["model.0", "model.1", "model.2"]),
        (wrap(Own()), ["model", "model.stem"]),
        (Own(), ["self", "stem"]),
        (wrap(nn.ModuleDict({"a": block(), "b": nn.ModuleList([block(), block()])})), ["model.a", "model.b"]),
        (wrap(nn.ModuleList([Own()])), ["model.0", "model.0.stem"]),
    ],
    ids=["children", "one wrapper", "leaf", "container", "own parameters", "own parameters outermost", "dict", "list"],
)
def test_structure_gives_components(module, expected):
    assert names(module) == expected


def test_twelve_blocks_are_twelve_components():
    module = nn.Module()
    module.body = nn.Sequential(*(block() for _ in range(12)))
    module.head = nn.Linear(4, 2)
    assert names(module) == [*(f"body.{index}" for index in range(12)), "head"]


def test_head_is_deepest_wherever_it_is_defined():
    module = nn.Module()
    module.head = nn.Linear(4, 2)
    module.body = nn.Sequential(block(), block())
    assert names(module) == ["body.0", "body.1", "head"]
    roles = {"body.0": "head"}
    assert names(module, roles) == ["body.1", "head", "body.0"]


def roles(module, patterns):
    return {name: component.role for name, component in structure_of(module, patterns).components.items()}


def test_first_pattern_wins():
    assert roles(Plain(), {"body.0": "stem", "body.*": "scaffold"}) == {
        "body.0": "stem",
        "body.3": "scaffold",
        "body.4": "scaffold",
        "head": None,
    }


def test_pattern_for_all_of_a_component_does_not_split_it():
    assert roles(Plain(), {"head.*": "new"})["head"] == "new"


def test_pattern_that_reaches_into_a_component_splits_it():
    module = nn.Module()
    module.encoder = Own()
    module.head = nn.Linear(4, 2)
    assert roles(module, {"encoder.stem": "adapter", "encoder": "pretrained", "*.bias": "bias"}) == {
        "encoder": "pretrained",
        "encoder.stem": "adapter",
        "head": None,
        "head.bias": "bias",
    }


def test_every_parameter_belongs_to_one_component():
    module = Plain()
    structure = structure_of(module, {"*.bias": "bias"})
    assert sorted(structure.parameter_names.values()) == sorted(name for name, _ in module.named_parameters())


def test_unmatched_patterns_are_found():
    patterns = ["body.*", "encoder", "head.weight", "*.gamma", "LayerNorm", "Conv*"]
    assert unmatched_patterns(Plain(), patterns) == ["encoder", "*.gamma", "Conv*"]


def test_first_definition_owns_tied_parameters():
    module = nn.Module()
    module.embedding, module.norm, module.out = nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 5, bias=False)
    module.out.weight = module.embedding.weight
    structure = structure_of(module)
    assert structure.tied == {"out.weight": "embedding"}
    assert list(structure.components) == ["embedding", "norm"]


def test_ties_inside_a_component_are_its_own_affair():
    module = nn.Module()
    pair = nn.Module()
    pair.one, pair.other = nn.Linear(4, 4), nn.Linear(4, 4)
    pair.other.weight = pair.one.weight
    module.encoder, module.head = pair, nn.Linear(4, 2)
    assert structure_of(module).tied == {}


def test_parameter_outside_all_components_is_an_error():
    module = Plain()
    specs = founding_specs(module)
    module.late = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'late\.weight' belongs to no component"):
        build_structure(parameters_by_all_names(modules_by_all_paths(module)), specs)


def test_the_walk_finds_what_torch_finds_in_the_same_order():
    module = nn.Module()
    module.body = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ModuleList([nn.BatchNorm1d(2), nn.ReLU()]))
    module.scale, module.nothing = nn.Parameter(torch.ones(2)), None
    module.register_parameter("none", None)
    module.register_module("gone", None)
    module.again, module.tied = module.body[1], nn.Linear(2, 2)
    module.tied.weight = module.body[0].weight
    modules = modules_by_all_paths(module)
    assert list(modules.items()) == list(module.named_modules(remove_duplicate=False))
    inventory = Inventory(module)
    for found, is_unique in ((inventory.by_every_name, False), (inventory.by_first_name, True)):
        expected = dict(module.named_parameters(remove_duplicate=is_unique))
        assert list(found) == list(expected)
        assert all(map(is_, found.values(), expected.values()))
