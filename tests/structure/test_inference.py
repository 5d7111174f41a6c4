from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers import Net, fit
from skeleton_nets import bert, bert_layer, layer, part, resnet18
from skeleton_tables import NETWORKS, listed
from structurenet_pl import Components, RoleLR, growth
from structurenet_pl.engine.package_callbacks import _arguments
from structurenet_pl.structure.module_structure import structure_of


def table(module, patterns=None):
    """A line for each component: depth, name and role."""
    return "\n".join(
        f"{component.depth:2} {component.name}{f' ({component.role})' if component.role else ''}"
        for component in structure_of(module, patterns or {}).by_depth
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_components_of_a_known_network(name):
    make, expected = NETWORKS[name]
    assert table(make()) == "\n".join(f"{depth:2} {part}" for depth, part in enumerate(listed(expected)))


def lora_bert():
    """BERT with adapters beside query and value of each block."""
    module = bert()
    for block in module.bert.encoder.layer:
        for name in ("query", "value"):
            setattr(block.attention.self, name, part("LoraLinear", base_layer=layer(), lora_A=layer(), lora_B=layer()))
    return module


def test_parts_that_patterns_cut_from_a_component_share_its_depth():
    patterns = {"*.lora_A": "a", "*.lora_B": "b"}
    inside = "attention.self"
    assert table(lora_bert(), patterns).splitlines() == [
        " 0 bert.embeddings",
        *(
            line
            for depth, block in ((1, "bert.encoder.layer.0"), (2, "bert.encoder.layer.1"))
            for line in (
                f" {depth} {block}",
                f" {depth} {block}.{inside}.query.lora_A (a)",
                f" {depth} {block}.{inside}.query.lora_B (b)",
                f" {depth} {block}.{inside}.value.lora_A (a)",
                f" {depth} {block}.{inside}.value.lora_B (b)",
            )
        ),
        " 3 bert.pooler",
        " 4 classifier",
    ]


def test_the_output_layer_cut_from_a_component_is_last_all_the_same():
    module = part("Net", trunk=part("Trunk", "out_layer one two"), late=layer())
    assert table(module, {"trunk.out_layer": "head"}) == " 0 trunk\n 1 late\n 2 trunk.out_layer (head)"


def test_pattern_that_names_the_elements_of_a_whole_component_splits_it_in_depth():
    trunk = part("Trunk", h=nn.ModuleList([layer(), layer()]))
    module = part("Net", "stem", transformer=trunk, head=layer())
    assert table(module) == " 0 stem\n 1 transformer\n 2 head"
    split = " 0 stem\n 1 transformer.h.0 (block)\n 2 transformer.h.1 (block)\n 3 head"
    assert table(module, {"transformer.h.*": "block"}) == split
    assert table(module, {"transformer": "block"}) == " 0 stem\n 1 transformer (block)\n 2 head"


def test_pattern_may_name_a_class():
    module = part("Net", encoder=nn.Sequential(bert_layer(), nn.BatchNorm1d(1)), head=layer())
    assert table(module, {"BertLayer": "pretrained", "BatchNorm*": "norm", "Linear": "new"}) == (
        " 0 encoder.0 (pretrained)\n 1 encoder.1 (norm)\n 2 head (new)"
    )


def test_pattern_for_a_class_inside_components_splits_them():
    lines = table(resnet18(), {"BatchNorm*": "norm"}).splitlines()
    assert [line for line in lines if "layer2" in line] == [
        " 4 layer2.0",
        " 4 layer2.0.downsample.1 (norm)",
        " 5 layer2.1",
    ]


def test_pattern_for_a_base_class_fits_derived_classes():
    module = part("Net", one=nn.Bilinear(1, 1, 1), two=nn.utils.parametrizations.weight_norm(layer()))
    assert table(module, {"Linear": "dense"}) == " 0 one\n 1 two (dense)"


def test_first_pattern_wins_among_names_and_classes():
    module = part("Net", one=layer(), two=layer())
    assert table(module, {"two": "last", "Linear": "dense"}) == " 0 one (dense)\n 1 two (last)"
    assert table(module, {"Linear": "dense", "two": "last"}) == " 0 one (dense)\n 1 two (dense)"


def test_class_pattern_does_not_split_a_sequence_of_this_class_alone():
    module = part("Net", blocks=nn.ModuleList([nn.Sequential(layer(), nn.ReLU(), layer())]), head=layer())
    assert table(module, {"Linear": "dense"}) == " 0 blocks.0 (dense)\n 1 head (dense)"
    assert table(module, {"blocks.0.*": "dense"}) == " 0 blocks.0.0 (dense)\n 1 blocks.0.2 (dense)\n 2 head"


def test_pattern_puts_a_component_at_the_depth_of_another():
    module = part("Net", "stem", blocks=nn.ModuleList([layer(), layer()]), adapters=nn.ModuleList([layer(), layer()]))
    patterns = {
        "adapters.0": {"role": "adapter", "depth": "blocks"},
        "adapters.1": {"depth": "blocks.1"},
    }
    assert table(module, patterns).splitlines() == [
        " 0 stem",
        " 1 blocks.0",
        " 1 adapters.0 (adapter)",
        " 2 blocks.1",
        " 2 adapters.1",
    ]


@pytest.mark.parametrize("neighbour", ["bloks.0", "two"])
def test_depth_of_no_component_is_an_error(neighbour):
    patterns = {"one": {"depth": neighbour}, "two": {"depth": "three"}}
    with pytest.raises(ValueError, match=f"'one' at the depth of '{neighbour}', expected one of .*'three'"):
        structure_of(part("Net", "one two three"), patterns)


class GivesAnything(Net):
    def configure_components(self):
        return {"head": self.given}


@pytest.mark.parametrize("given", [3, None, {}, {"rôle": "new"}, {"depth": 3}, ["new"]])
def test_what_a_pattern_gives_is_checked(given):
    module = GivesAnything()
    module.given = given
    with pytest.raises(ValueError, match="pattern 'head' must give a role, as in 'new', or a mapping"):
        fit(module, [RoleLR()], epochs=1)


def test_components_stay_when_lazy_layers_get_their_shapes():
    module = part("Net", body=part("Body", net=nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4), nn.LazyLinear(4))))
    module.add_module("head", layer())
    before = table(module)
    module.body.net(torch.ones(1, 2))
    assert table(module) == before == " 0 body.net.0\n 1 body.net.1\n 2 body.net.2\n 3 head"


class ByClass(Net):
    """Roles by class, a depth by pattern, and a growth that puts another class into an old place."""

    def configure_components(self):
        return {
            "necks.0": {"depth": "body.3"},
            "Linear": "dense",
            "*Norm": "norm",
        }

    @growth()
    def add_plain_patch(self):
        self.patches.append(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)))

    @growth()
    def deepen(self):
        self.body.insert(1, nn.Linear(8, 8))


GROWN = """\
 0 body.0 (dense)
 1 body.1 (dense)
 2 body.3 (dense)
 2 necks.0 (neck)
 3 body.4 (norm)
 4 patches.0.0 (dense)
 4 patches.0.1 (norm)
 5 head (dense)"""


def test_roles_by_class_and_depths_by_pattern_are_the_same_after_a_load():
    net = ByClass()
    net.add_neck()
    net.add_plain_patch()
    net.deepen()
    loaded = ByClass()
    loaded.load_state_dict(net.state_dict())
    assert table(loaded) == table(net) == GROWN


def test_ranks_compare_the_patterns_of_components():
    trainers = [SimpleNamespace(callbacks=[Components({"head": role})]) for role in ("new", "old")]
    assert _arguments(trainers[0]) != _arguments(trainers[1])
