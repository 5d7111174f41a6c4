import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer

import references
from helpers import Plain, fit, loader, slow_but_for
from structurenet_pl import Component, LARSScaler, Moment, Norms
from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.learning_rates.norms import GradientNorms
from structurenet_pl.optim.weight_decay import coupled_weight_decay
from structurenet_pl.structure.module_structure import structure_of


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


@pytest.mark.filterwarnings("ignore:LARSScaler divides by the norm of the gradients, and AdamW")
@pytest.mark.parametrize("skip_1d", [True, False])
@pytest.mark.parametrize(("optimizer", "decay"), [(torch.optim.SGD, 0.1), (torch.optim.AdamW, 0.0)])
def test_in_a_fit_it_is_the_ratio_of_the_component(skip_1d, optimizer, decay):
    checked = []

    class Check(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            table = Driver.of(trainer).tables[optimizer]
            for group in optimizer.param_groups:
                slot = table.groups.group_infos[group["name"]]
                assert slot.is_1d == (skip_1d and group["params"][0].ndim == 1)
                own = [
                    (name, tensor)
                    for name, tensor in pl_module.named_parameters()
                    if name.startswith(slot.component + ".") and (tensor.ndim > 1 or not skip_1d)
                ]
                if slot.is_1d:
                    assert group["lr"] == 0.1
                    continue
                weight = torch.cat([tensor.flatten() for _, tensor in own]).double().norm().item()
                grad = torch.cat([tensor.grad.flatten() for _, tensor in own]).double().norm().item()
                expected = 0.1 * 0.02 * weight / (grad + decay * weight + 1e-8)
                assert group["lr"] == pytest.approx(expected, rel=1e-6)  # norms are taken in float32
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
    """Also of a class with a name of its own."""
    optimizer = type("Renamed", (optimizer,), {})
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
    module = Plain()
    module.head(module.body(torch.randn(4, 6))).sum().backward()
    structure = structure_of(module)
    norms = GradientNorms(torch.optim.SGD(module.parameters(), lr=0.1), structure.owner)
    for component in structure.by_depth:
        norms(component, True)
        norms(component, False)
    assert reads == [(2 * 8,)]


def test_sparse_gradients():
    module = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(5, 3, sparse=True), "head": torch.nn.Linear(3, 2)})
    module["head"](module["embedding"](torch.tensor([1, 1, 4]))).sum().backward()
    structure = structure_of(module)
    norms = GradientNorms(torch.optim.SGD(module.parameters(), lr=0.1), structure.owner)
    found = norms(structure.components["embedding"], True)
    assert found.grad == pytest.approx(module["embedding"].weight.grad.to_dense().norm().item(), rel=1e-6)  # float32


# ------------------------------------------------------------------------------------------------ mode="grad"


class Matrices(Plain):
    """Two matrices and nothing of one dimension."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body, self.head = torch.nn.Linear(6, 8, bias=False), torch.nn.Linear(8, 3, bias=False)

    def forward(self, x):
        return self.head(self.body(x).tanh())


def trained(optimizer, callbacks, scheduler=None, **kwargs):
    torch.manual_seed(0)
    module = Matrices(optimizer=optimizer, scheduler=scheduler)
    fit(module, callbacks, epochs=13, data=loader(shuffle=False), **{"precision": "64-true", **kwargs})
    return [weight.detach() for weight in module.parameters()]


def sgd(params):
    return torch.optim.SGD(params, lr=0.5, momentum=0.9, weight_decay=0.05)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)


def test_gradients_follow_the_paper_while_the_lr_stands_still():
    torch.manual_seed(0)
    module, batches = Matrices().double(), list(loader(shuffle=False))
    weights = list(module.parameters())

    def gradients(step):
        x, y = batches[step % len(batches)]
        return torch.autograd.grad(torch.nn.functional.cross_entropy(module(x.double()), y), weights)

    references.paper_lars(weights, gradients, lr=0.5, momentum=0.9, decay=0.05, trust=0.02, steps=13 * len(batches))
    ours = trained(sgd, [LARSScaler(0.02, eps=0.0, mode="grad")])
    assert 13 * len(batches) > 50
    for one, other in zip(ours, weights, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=1e-14)  # float64, a few thousand roundings


TIMM = references.timm_optimizers().get("lars.Lars")


@pytest.mark.parametrize("peer", [kind for kind in (references.Lars, TIMM) if kind is not None])
@pytest.mark.parametrize("scheduler", slow_but_for([cosine], [None, cosine]), ids=["constant", "cosine"])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}], ids=str)
def test_gradients_follow_timm_under_any_lr(peer, scheduler, options):
    def lars(params):
        return peer(params, lr=0.5, momentum=0.9, weight_decay=0.05, trust_coeff=0.02, eps=1e-8, always_adapt=True)

    theirs = trained(lars, [], scheduler, **options)
    ours = trained(sgd, [LARSScaler(0.02, eps=1e-8, mode="grad")], scheduler, **options)
    plain = trained(sgd, [], scheduler, **options)
    exact = {"rtol": 1e-12, "atol": 1e-14} if "precision" not in options else {"rtol": 1e-3, "atol": 1e-4}  # bf16
    for one, other, without in zip(ours, theirs, plain, strict=True):
        torch.testing.assert_close(one, other, **exact)
        assert not torch.allclose(one, without, rtol=0.1)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("clip", [None, 0.003])
def test_scaled_gradient_is_what_the_optimizer_should_have_seen(maximize, clip):
    class Checked(Plain):
        def on_after_backward(self):
            self.before = {name: tensor.grad.clone() for name, tensor in self.named_parameters()}

        def on_before_optimizer_step(self, optimizer):
            for name, weight in self.named_parameters():
                grad = self.before[name]
                if weight.ndim == 1:
                    assert torch.equal(weight.grad, grad)
                    continue
                ratio = 0.02 * weight.norm() / (grad.norm() + 0.1 * weight.norm() + 1e-8)
                ratio = min(ratio, torch.tensor(clip or 1e9))
                sign = -1 if maximize else 1
                # what SGD makes of it: sign * grad + decay * weight
                seen, meant = sign * weight.grad + 0.1 * weight, ratio * (sign * grad + 0.1 * weight)
                torch.testing.assert_close(seen, meant, rtol=1e-5, atol=1e-7)  # float32

    def optimizer(params):
        return torch.optim.SGD(params, lr=0.1, weight_decay=0.1, maximize=maximize)

    fit(Checked(optimizer=optimizer), [LARSScaler(0.02, mode="grad", clip=clip)], epochs=2)


def test_gradients_are_scaled_without_a_read_from_the_device():
    module = Plain()
    module.head(module.body(torch.randn(4, 6))).sum().backward()
    trainer = Trainer(logger=False, enable_checkpointing=False, callbacks=[driver := Driver()])
    driver.structure = structure_of(module)
    scaler = LARSScaler(mode="grad")
    driver.factors = Factors([scaler])
    driver.factors.set_components(driver.structure.by_depth, ())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.1)
    with torch.profiler.profile() as profile:
        scaler.before_step(trainer, module, optimizer)
    called = {event.name for event in profile.events()}
    assert "aten::_foreach_norm" in called
    assert not called & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}


def test_gradients_of_other_optimizers_are_warned_of():
    with pytest.warns(UserWarning, match="Adam normalises gradients, so .* has no effect.*mode='lr'"):
        fit(Plain(optimizer=lambda params: torch.optim.Adam(params)), [LARSScaler(mode="grad")], epochs=1)


def test_where_limits_the_gradients_too():
    seen = {}

    class Checked(Plain):
        def on_after_backward(self):
            self.before = {name: tensor.grad.clone() for name, tensor in self.named_parameters()}

        def on_before_optimizer_step(self, optimizer):
            seen.update({name: torch.equal(w.grad, self.before[name]) for name, w in self.named_parameters()})

    fit(Checked(), [LARSScaler(mode="grad", where="head")], epochs=1)
    assert {name for name, same in seen.items() if not same} == {"head.weight"}


def test_sparse_gradients_are_scaled_like_dense_ones():
    class Words(Plain):
        def __init__(self, sparse):
            super().__init__(optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
            self.body, self.head = torch.nn.Embedding(5, 8, sparse=sparse), torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.body((x[:, 0].abs() * 2).long().clamp(max=4)))

    def train(sparse):
        torch.manual_seed(0)
        module = Words(sparse)
        fit(module, [LARSScaler(0.02, mode="grad")], epochs=2, data=loader(shuffle=False))
        return module.body.weight

    torch.testing.assert_close(train(True), train(False), rtol=1e-5, atol=1e-7)  # float32


def test_lr_without_bound_is_warned_of():
    adam = Plain(optimizer=lambda params: torch.optim.Adam(params))
    with pytest.warns(UserWarning, match=r"Adam normalises gradients, too: if they nearly vanish.*clip=1\.0"):
        fit(adam, [LARSScaler()], epochs=1)
    fit(adam, [LARSScaler(clip=1.0)], epochs=1)
