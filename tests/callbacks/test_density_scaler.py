import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from helpers import Plain, fit
from structurenet_pl import DensityScaler
from structurenet_pl.learning_rates.connection_density import Densities
from structurenet_pl.structure.module_structure import structure_of


class Sparse(nn.Linear):
    """Knows its own density."""

    def get_density(self):
        return 0.015


def densities(module):
    structure = structure_of(module)
    measure = Densities(module, structure)
    return {name: measure(component) for name, component in structure.components.items()}


def test_the_first_source_that_speaks_counts():
    module = nn.Module()
    module.asked, module.pruned, module.counted = Sparse(10, 10), nn.Linear(10, 10), nn.Linear(10, 10)
    module.norm, module.block = nn.LayerNorm(10), nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    prune.random_unstructured(module.pruned, "weight", amount=0.75)
    with torch.no_grad():
        module.counted.weight.fill_(0.0)[0, :5] = 1.0
        module.block[0].weight.fill_(0.0)[0, :5] = 1.0
    assert densities(module) == {
        "asked": 0.015,
        "pruned": 0.25,
        "counted": 0.05,
        "norm": None,
        "block.0": 0.05,
        "block.1": 1.0,
    }


def test_a_component_of_several_tensors_has_their_common_density():
    module = nn.Module()
    module.block, module.head = nn.Module(), nn.Linear(2, 2)
    module.block.a, module.block.b = nn.Linear(10, 10), nn.Linear(10, 30)
    with torch.no_grad():
        module.block.b.weight.fill_(0.0)
    assert densities(module)["block"] == 0.25


def test_density_is_measured_again_in_each_epoch():
    class Pruned(Plain):
        def on_train_epoch_end(self):
            if self.current_epoch == 0:
                prune.random_unstructured(self.body[3], "weight", amount=0.95)

    seen = []

    class Watch(DensityScaler):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    fit(Pruned(), [Watch(sparse_below=0.06)], epochs=2)
    assert seen[:4] == [[0.05, 0.05, 0.1, 0.05]] * 4
    assert seen[4:] == [[0.05, 0.2, 0.1, 0.05]] * 4


def test_preview_without_tensors_needs_a_density():
    from structurenet_pl import Component, Moment

    with pytest.raises(RuntimeError, match=r"give Moment\(density=...\)"):
        DensityScaler().factor(Component("stem"), Moment())


def test_a_mask_goes_before_what_a_module_says_and_others_outside_the_component_are_not_asked():
    class Says(nn.Module):
        def get_density(self):
            return 0.5

    module = Says()
    module.pruned, module.asked = Sparse(10, 10), Says()
    module.asked.inner = nn.Linear(10, 10)
    prune.random_unstructured(module.pruned, "weight", amount=0.75)
    assert densities(module) == {"pruned": 0.25, "asked": 0.5}


def test_density_of_the_first_epoch_is_that_of_its_start():
    seen = []

    class Pruner(Plain):
        def on_train_start(self):
            prune.random_unstructured(self.body[3], "weight", amount=0.95)

        def on_train_batch_start(self, batch, batch_idx):
            seen.append(self.trainer.optimizers[0].param_groups[1]["lr"])

    fit(Pruner(), [DensityScaler(sparse_below=0.06)], epochs=1)
    assert seen == [0.2] * 4
