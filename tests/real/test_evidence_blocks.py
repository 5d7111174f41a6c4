"""What single experiments of the evidence change, and what they must not change."""

import pytest
import torch

from examples.evidence.blocks.freezing import FEWER
from examples.evidence.blocks.freezing import train as train_freezing
from examples.evidence.blocks.retention import train as train_retention
from examples.evidence.blocks.scale import misscale
from examples.evidence.blocks.sparse import DENSITIES, Sparse
from examples.evidence.experiment import Trial
from examples.evidence.nets import Net


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_misscaled_layers_keep_the_function(kind):
    net, images = Net(kind, 8, lr=0.1), torch.rand(5, 1, 8, 8)
    before, weight = net(images), net.stem[0].weight.detach().clone()
    misscale(net, 8)
    assert torch.equal(net(images), before)  # exact, because 8 is a power of two
    assert torch.equal(net.stem[0].weight, 8 * weight)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_masks_have_their_density_and_leave_each_unit_an_input(kind):
    nets = []
    for by_fan_in in (True, False):
        torch.manual_seed(0)
        net = Sparse(kind, 8, lr=0.1, by_fan_in=by_fan_in)
        nets.append([net.stem[0], *(block[0] for block in net.blocks)])
    for layer, dense_init, density in zip(*nets, DENSITIES, strict=True):
        assert layer.weight_mask.mean().item() == pytest.approx(density, rel=0.1)  # one connection for each empty row
        assert layer.weight_mask.flatten(1).sum(1).min() >= 1
        assert torch.allclose(layer.weight * density**0.5, dense_init.weight, rtol=1e-6)


@pytest.mark.slow
def test_a_frozen_backbone_keeps_the_source():
    found = train_retention(Trial("digits mlp classes", "frozen", 1e-2, 0))
    assert found["source"] == found["before"] > 0.9
    assert found["target"] > 0.5


@pytest.mark.slow
def test_freezing_saves_work_that_fewer_epochs_save_too():
    work = {
        arm: train_freezing(Trial("digits mlp", arm, 2e-3, 0))["work"]
        for arm in ("cosine", "freeze out", "fewer epochs")
    }
    assert work["cosine"] == 1
    assert work["freeze out"] < work["fewer epochs"] == FEWER
