import math

import pytest
import torch
from lightning.pytorch import Callback

from helpers import Plain, fit
from structurenet_pl import Component, LARSScaler, Moment, Norms
from structurenet_pl.driver import Driver
from structurenet_pl.norms import coupled_weight_decay


def ratio(norms, **arguments):
    return LARSScaler(**arguments).factor(Component("stem"), Moment(norms=lambda component, skip_1d: norms))


@pytest.mark.parametrize(
    ("norms", "arguments", "expected"),
    [
        (Norms(2.0, 4.0, 0.0), {"eps": 0.0}, 0.0005),
        (Norms(2.0, 4.0, 1.0), {"eps": 0.0}, 0.0004),
        (Norms(2.0, 4.0, 0.0), {"trust_coefficient": 1.0, "eps": 1.0}, 0.4),
        (Norms(2.0, 4.0, 0.0), {"trust_coefficient": 10.0, "clip": 2.0}, 2.0),
        (Norms(0.0, 4.0, 0.0), {}, 1.0),
        (Norms(2.0, 0.0, 0.0), {}, 1.0),
        (Norms(2.0, math.inf, 0.0), {}, 1.0),
        (Norms(2.0, math.nan, 0.0), {}, 1.0),
    ],
)
def test_closed_form(norms, arguments, expected):
    assert ratio(norms, **arguments) == pytest.approx(expected, rel=1e-15)  # one rounding


@pytest.mark.parametrize("skip_1d", [True, False])
@pytest.mark.parametrize(("optimizer", "decay"), [(torch.optim.SGD, 0.1), (torch.optim.AdamW, 0.0)])
def test_in_a_fit_it_is_the_ratio_of_the_component(skip_1d, optimizer, decay):
    checked = []

    class Check(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            board = Driver.of(trainer).boards[optimizer]
            for group in optimizer.param_groups:
                slot = board.slots[group["name"]]
                assert slot.is_1d == (skip_1d and group["params"][0].ndim == 1)
                own = [
                    (name, tensor)
                    for name, tensor in pl_module.named_parameters()
                    if name.startswith(slot.component + ".") and (tensor.ndim > 1 or not skip_1d)
                ]
                if slot.is_1d:
                    assert board.lr(slot.name) == 0.1
                    continue
                weight = torch.cat([tensor.flatten() for _, tensor in own]).double().norm().item()
                grad = torch.cat([tensor.grad.flatten() for _, tensor in own]).double().norm().item()
                expected = 0.1 * 0.02 * weight / (grad + decay * weight + 1e-8)
                assert board.lr(slot.name) == pytest.approx(expected, rel=1e-6)  # norms are taken in float32
                checked.append(expected)

    module = Plain(optimizer=lambda params: optimizer(params, lr=0.1, weight_decay=0.1))
    fit(module, [LARSScaler(0.02, skip_1d=skip_1d), Check()], epochs=2)
    assert len(set(checked)) > 10


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (torch.optim.SGD, 0.1),
        (torch.optim.Adam, 0.1),
        (torch.optim.RMSprop, 0.1),
        (torch.optim.NAdam, 0.1),
        (torch.optim.AdamW, 0.0),
        (torch.optim.Adafactor, 0.0),
    ],
)
def test_coupled_weight_decay(optimizer, expected):
    built = optimizer([torch.nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.1)
    assert coupled_weight_decay(built, built.param_groups[0]) == expected


def test_decoupled_by_flag():
    built = torch.optim.NAdam([torch.nn.Parameter(torch.zeros(1))], weight_decay=0.1, decoupled_weight_decay=True)
    assert coupled_weight_decay(built, built.param_groups[0]) == 0.0


def test_one_read_from_the_device_in_a_step(monkeypatch):
    reads = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor.shape) or original(tensor))
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: pytest.fail("read of a single number"))
    from structurenet_pl.growing import structure_of
    from structurenet_pl.norms import GradientNorms

    module = Plain()
    module.head(module.body(torch.randn(4, 6))).sum().backward()
    structure = structure_of(module)
    norms = GradientNorms(torch.optim.SGD(module.parameters(), lr=0.1), structure.owner)
    for component in structure.spine:
        norms(component, True)
        norms(component, False)
    assert reads == [(2 * 8,)]


def test_sparse_gradients():
    from structurenet_pl.growing import structure_of
    from structurenet_pl.norms import GradientNorms

    module = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(5, 3, sparse=True), "head": torch.nn.Linear(3, 2)})
    module["head"](module["embedding"](torch.tensor([1, 1, 4]))).sum().backward()
    structure = structure_of(module)
    norms = GradientNorms(torch.optim.SGD(module.parameters(), lr=0.1), structure.owner)
    found = norms(structure.components["embedding"], True)
    assert found.grad == pytest.approx(module["embedding"].weight.grad.to_dense().norm().item(), rel=1e-6)  # float32
