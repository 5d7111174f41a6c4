"""Widening, shrinking, removing: what becomes of components, optimizer state, schedulers and checkpoints."""

import copy
import gc
import math
from weakref import ref

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.utils import parametrize

from helpers import Half, LRTrace, Plain, assert_same, fit, loader, weights
from recipes import ORDINARY, make
from structurenet_pl import (
    Components,
    GrowEvery,
    GrowthMixin,
    GrowthResponder,
    RoleLR,
    StrataMonitor,
    came_from,
    growth,
    plot_strata,
    widen,
)


def larger(old, *shape):
    """A parameter of another shape, with the old entries first and small new ones."""
    new = torch.full(shape, 0.01, dtype=old.dtype)
    kept = tuple(slice(0, min(one, other)) for one, other in zip(old.shape, shape, strict=True))
    new[kept] = old.detach()[kept]
    return nn.Parameter(new)


class Net(GrowthMixin, Plain):
    """body.0 -> body.3 -> head, without dropout and norms, to be widened, narrowed and shortened."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.extra = nn.ModuleList([nn.Linear(6, 3)])

    def forward(self, x):
        return self.head(self.body(x)) + sum(layer(x) for layer in self.extra)

    def configure_components(self):
        return {"body.*": "scaffold"}

    @growth()
    def widen(self, by: int = 4):
        width = self.body[0].out_features + by
        self.body[0].weight = larger(self.body[0].weight, width, 6)
        self.body[0].bias = larger(self.body[0].bias, width)
        self.body[2].weight = larger(self.body[2].weight, 8, width)
        self.body[0].out_features = self.body[2].in_features = width

    @growth()
    def rebuild(self, width: int):
        """The same with modules made anew, as people do it."""
        first, second = nn.Linear(6, width), nn.Linear(width, 8)
        with torch.no_grad():
            first.weight[:8], first.bias[:8] = self.body[0].weight, self.body[0].bias
            second.weight[:, :8] = self.body[2].weight
            second.bias.copy_(self.body[2].bias)
        self.body[0], self.body[2] = first, second

    @growth()
    def prune(self, keep: list):
        self.body[0].weight = came_from(nn.Parameter(self.body[0].weight.detach()[keep]), keep)
        self.body[0].bias = came_from(nn.Parameter(self.body[0].bias.detach()[keep]), keep)
        self.body[2].weight = came_from(nn.Parameter(self.body[2].weight.detach()[:, keep]), keep, dim=1)

    @growth()
    def drop(self):
        del self.extra[0]

    @growth()
    def wrong(self):
        self.head.weight = nn.Parameter(torch.zeros(3, 8, 1))

    @growth()
    def outside(self):
        self.head.bias = came_from(nn.Parameter(torch.zeros(3)), [0, 1, 7])


def kinds(event):
    return {"born": event.born, "widened": event.widened, "shrunk": event.shrunk, "removed": event.removed}


@pytest.mark.parametrize(
    ("method", "arguments", "expected"),
    [
        ("widen", {}, {"widened": ("body.0", "body.2")}),
        ("rebuild", {"width": 12}, {"widened": ("body.0", "body.2")}),
        ("prune", {"keep": [1, 2, 5]}, {"shrunk": ("body.0", "body.2")}),
        ("drop", {}, {"removed": ("extra.0",)}),
    ],
)
def test_event_says_what_has_changed(method, arguments, expected):
    net = Net()
    born = {name: component.born for name, component in net.components.items()}
    getattr(net, method)(**arguments)
    assert kinds(net.growth_log[0]) == {"born": (), "widened": (), "shrunk": (), "removed": ()} | expected
    assert net.growth_log[0].outcome == expected
    assert {name: component.born for name, component in net.components.items()} == {
        name: clock for name, clock in born.items() if name not in expected.get("removed", ())
    }
    fresh = Net()
    fresh.load_state_dict(net.state_dict())
    assert_same(weights(fresh), weights(net))
    assert fresh.components == net.components


def test_widened_counts_as_grown():
    net = Net()
    trainer = fit(net, [GrowEvery("widen", 1, limit=1), GrowthResponder(grown=0.5, adjacent=0.25, distant=0.125)], 2)
    lrs = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert net.growth_log[0].adjacent == ("extra.0",)
    assert lrs == {"body.0": 0.05, "body.2": 0.05, "extra.0": 0.025, "head": 0.0125}


class After(Callback):
    """What the optimizer knows right after a growth, and right before it."""

    def on_train_epoch_end(self, trainer, pl_module):
        if not pl_module.growth_log or not hasattr(self, "before"):
            optimizer = trainer.optimizers[0]
            names = {tensor: name for name, tensor in pl_module.named_parameters()}
            self.before = {names[tensor]: copy.deepcopy(state) for tensor, state in optimizer.state.items()}

    def on_growth(self, trainer, pl_module, event):
        optimizer = trainer.optimizers[0]
        self.held = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        names = {tensor: name for name, tensor in pl_module.named_parameters()}
        self.after = {names[tensor]: copy.deepcopy(state) for tensor, state in optimizer.state.items()}


@pytest.mark.parametrize("method", ["widen", "rebuild"])
@pytest.mark.parametrize("name", ORDINARY)
def test_state_of_old_entries_is_carried(name, method):
    after = After()
    grow = GrowEvery(method, 1, limit=1, arguments={} if method == "widen" else {"width": 12})
    net = Net(optimizer=make(name))
    fit(net, [after, grow], epochs=2)
    trained = {key for key, tensor in net.named_parameters() if name != "Muon" or tensor.ndim == 2}
    assert set(after.held) == {tensor for key, tensor in net.named_parameters() if key in trained}
    assert after.after.keys() == after.before.keys()
    for key in after.before:
        shape = dict(net.named_parameters())[key].shape
        for entry, old in after.before[key].items():
            new = after.after[key][entry]
            if not torch.is_tensor(old) or old.ndim == 0:
                assert torch.equal(torch.as_tensor(new), torch.as_tensor(old))
                continue
            kept = tuple(slice(0, size) for size in old.shape)
            assert torch.equal(new[kept], old)
            assert torch.broadcast_shapes(new.shape, shape) == shape


@pytest.mark.parametrize(("moments", "fill"), [("mean", lambda old: old.mean()), ("zero", lambda old: 0 * old.mean())])
def test_second_moments_of_new_entries(moments, fill):
    class Policy(Net):
        @growth(second_moments=moments)
        def grow(self):
            self.head.weight = larger(self.head.weight, 3, 10)
            self.body[2].weight = larger(self.body[2].weight, 10, 8)
            self.body[2].bias = larger(self.body[2].bias, 10)

    after = After()
    fit(Policy(optimizer=make("Adam")), [after, GrowEvery("grow", 1, limit=1)], epochs=2)
    for entry in ("exp_avg_sq", "max_exp_avg_sq"):
        old, new = after.before["head.weight"][entry], after.after["head.weight"][entry]
        assert torch.equal(new[:, 8:], fill(old).expand(3, 2))
    assert torch.equal(after.after["head.weight"]["exp_avg"][:, 8:], torch.zeros(3, 2))
    assert after.after["head.weight"]["step"] == after.before["head.weight"]["step"]


def test_reset_drops_the_state_of_the_whole_tensor():
    class Policy(Net):
        @growth(second_moments="reset")
        def grow(self):
            self.body[2].weight = larger(self.body[2].weight, 10, 8)
            self.body[2].bias = larger(self.body[2].bias, 10)
            self.head.weight = larger(self.head.weight, 3, 10)

    after = After()
    fit(Policy(optimizer=make("Adam")), [after, GrowEvery("grow", 1, limit=1)], epochs=2)
    assert after.before.keys() - after.after.keys() == {"body.2.weight", "body.2.bias", "head.weight"}


def first_update(moments, gradient=1e-3):
    """Size of the first Adam update of a new entry in units of the lr, after 500 steps with gradients of one size."""

    class One(Net):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.extra = nn.Identity(), nn.Linear(1, 1, bias=False), nn.ModuleList()

        def configure_components(self):
            return {}

        def forward(self, x):
            return x

        def training_step(self, batch, batch_idx):
            return gradient * self.head.weight.sum()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3, eps=0.0)

        @growth(second_moments=moments)
        def grow(self):
            self.head.weight = larger(self.head.weight, 1, 2)

        def on_train_batch_start(self, batch, batch_idx):
            self.before = self.head.weight.detach().clone()

        def on_train_batch_end(self, outputs, batch, batch_idx):
            if self.growth_log and not hasattr(self, "update"):
                self.update = (self.before - self.head.weight.detach())[0, 1].item() / 1e-3

    net = One().double()
    fit(net, [GrowEvery("grow", 1, limit=1)], epochs=2, data=loader(500))
    return net.update


@pytest.mark.slow
def test_first_update_of_a_new_entry():
    """With b1 = 0.9, b2 = 0.999, step t + 1 and second moment v0 at birth, for gradients of one size:
    update = lr * (1 - b1) / (1 - b1**(t+1)) / sqrt((b2 * v0 + (1 - b2)) / (1 - b2**(t+1)))."""
    t = 500
    corrected = (1 - 0.9) / (1 - 0.9 ** (t + 1))
    settled = 1 - 0.999**t  # v of the old entry, in units of the squared gradient
    for moments, start in {"mean": settled, "zero": 0.0}.items():
        second = (0.999 * start + 0.001) / (1 - 0.999 ** (t + 1))
        assert first_update(moments) == pytest.approx(corrected / math.sqrt(second), rel=1e-9)  # float64, 500 roundings
    assert first_update("reset") == pytest.approx(1.0, rel=1e-9)
    assert 0.09 < first_update("mean") < 0.11
    assert 1.9 < first_update("zero") < 2.1


def test_pruned_units_take_their_state_along():
    after = After()
    keep = [1, 2, 5]
    fit(Net(optimizer=make("Adam")), [after, GrowEvery("prune", 1, limit=1, arguments={"keep": keep})], epochs=2)
    for entry in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        assert torch.equal(after.after["body.0.weight"][entry], after.before["body.0.weight"][entry][keep])
        assert torch.equal(after.after["body.2.weight"][entry], after.before["body.2.weight"][entry][:, keep])


def test_removed_leaves_nothing_behind():
    class Checks(Callback):
        def on_growth(self, trainer, pl_module, event):
            (optimizer,) = trainer.optimizers
            held = {tensor for group in optimizer.param_groups for tensor in group["params"]}
            assert held == set(optimizer.state) == set(pl_module.parameters())
            assert [group["name"] for group in optimizer.param_groups] == ["body.0", "body.2", "head"]
            (config,) = trainer.lr_scheduler_configs
            assert len(config.scheduler.lr_lambdas) == len(config.scheduler.base_lrs) == 1
            assert set(config.scheduler.optimizer.param_groups[0]["params"]) == held

    trace = LRTrace()
    net = Net(
        optimizer=make("Adam"), scheduler=lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1 / (1 + t))
    )
    fit(net, [Half(), GrowEvery("drop", 2, limit=1), Checks(), trace], epochs=4)
    assert [row.get("extra.0") for row in trace.rows[::4]] == [0.005, 0.0025, None, None]
    assert [row["head"] for row in trace.rows[::4]] == [0.01 * (1 / (1 + t)) * 0.5 for t in range(4)]


def test_last_piece_of_a_group_stays_as_an_empty_group():
    class Two(Net):
        def configure_optimizers(self):
            rest = [*self.body.parameters(), *self.head.parameters()]
            return torch.optim.SGD([{"params": rest}, {"params": list(self.extra.parameters()), "lr": 0.3}], lr=0.1)

    trainer = fit(Two(), [Half(), GrowEvery("drop", 1, limit=1)], epochs=2)
    trainer.save_checkpoint("run.ckpt")
    groups = torch.load("run.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [(len(group["params"]), group["lr"]) for group in groups] == [(6, 0.1), (0, 0.3)]
    fit(Two(), [Half(), GrowEvery("drop", 1, limit=1)], epochs=3, ckpt_path="run.ckpt")


def test_frozen_parts_stay_frozen_when_they_are_rebuilt():
    net = Net()
    net.body[0].requires_grad_(False)
    net.rebuild(width=12)
    assert not net.body[0].weight.requires_grad
    assert net.body[2].weight.requires_grad


def test_replaced_tensors_have_the_dtype_of_the_old():
    net = Net().double()
    net.rebuild(width=12)
    assert {tensor.dtype for tensor in net.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "wrong",
            r"'head.weight' had shape \(3, 8\) and has \(3, 8, 1\) now, expected the same number of dim",
        ),
        ("outside", r"came_from of 'head.bias' got position 7 in dim 0, expected positions below 3"),
    ],
)
def test_wrong_replacements_are_refused(method, message):
    net = Net()
    before = dict(net.named_parameters())
    with pytest.raises(ValueError, match=message):
        getattr(net, method)()
    assert all(tensor is before[name] for name, tensor in net.named_parameters())
    assert net.growth_log == ()


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0], "expected one for each of the 2"),
        ([0, 0], "each at most once"),
        ([0, -2], "or -1 for a new entry"),
    ],
)
def test_wrong_positions_are_refused(positions, message):
    with pytest.raises(ValueError, match=message):
        came_from(nn.Parameter(torch.zeros(2, 3)), positions)


def test_state_that_cannot_be_carried_is_said():
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            for group in self.param_groups:
                for tensor in group["params"]:
                    if tensor.shape == (8, 6):
                        self.state[tensor]["curvature"] = torch.ones(tensor.shape[0], tensor.shape[0])
            return loss

    net = Net(optimizer=lambda params: Odd(params, lr=0.1))
    with pytest.warns(UserWarning, match=r"'curvature' of shape \(8, 8\) of 'body.0.weight' cannot be carried.*anew"):
        fit(net, [GrowEvery("widen", 1, limit=1)], epochs=2)


def test_failure_while_state_is_carried_is_rolled_back(monkeypatch):
    class Fails(Net):
        def on_train_epoch_end(self):
            if self.current_epoch == 0:
                self.check()

        def check(self):
            optimizer = self.trainer.optimizers[0]
            groups = [(group, dict(group), list(group["params"])) for group in optimizer.param_groups]
            state = {tensor: dict(entries) for tensor, entries in optimizer.state.items()}
            tensors = dict(self.named_parameters())
            with monkeypatch.context() as broken:
                broken.setattr("structurenet_pl.optim.optimizer_state.embed", out_of_memory)
                with pytest.raises(RuntimeError, match="out of memory"):
                    self.widen()
            assert dict(self.named_parameters()) == tensors
            assert [(group, dict(group), list(group["params"])) for group in optimizer.param_groups] == groups
            assert optimizer.state.keys() == state.keys()
            assert all(optimizer.state[tensor] == entries for tensor, entries in state.items())
            assert self.body[0].out_features == 8
            assert self.growth_log == ()
            self.widen()

    def out_of_memory(*args):
        raise RuntimeError("out of memory")

    net = Fails(optimizer=make("SGD"))
    fit(net, [Half()], epochs=2)
    assert net.body[0].out_features == 12


# --------------------------------------------------------------------------------------------------------- checkpoints


def grown(log):
    return [event.method for event in log]


def test_a_smaller_checkpoint_loads_into_a_grown_module():
    net = Net()
    states = [copy.deepcopy(net.state_dict())]
    for method, arguments in (("widen", {}), ("drop", {}), ("prune", {"keep": [0, 3]})):
        getattr(net, method)(**arguments)
        states.append(copy.deepcopy(net.state_dict()))
    for count in (2, 0, 3, 1, 3, 0, 2):
        net.load_state_dict(states[count])
        assert grown(net.growth_log) == ["widen", "drop", "prune"][:count]
        assert_same(copy.deepcopy(net.state_dict()), states[count])
        net(torch.randn(2, 6))


def test_the_best_checkpoint_of_a_run_that_grew_later_is_tested():
    class Tested(Net):
        def validation_step(self, batch, batch_idx):
            self.log("epoch", float(self.current_epoch))

        def test_step(self, batch, batch_idx):
            self.log("width", float(self.body[0].out_features))

    save = ModelCheckpoint(monitor="epoch", mode="min")
    module = Tested()
    module.val_dataloader = lambda: loader(1, shuffle=False)
    trainer = fit(module, [Half(), GrowEvery("widen", 2), save], epochs=5, enable_checkpointing=True)
    assert module.body[0].out_features == 16
    (result,) = trainer.test(module, loader(1, shuffle=False), ckpt_path="best", verbose=False)
    assert result["width"] == 8.0
    assert module.growth_log == ()


def test_a_part_that_is_not_strict_leaves_the_growth_alone():
    net = Net()
    net.widen()
    net.load_state_dict({"head.bias": torch.ones(3)}, strict=False)
    assert grown(net.growth_log) == ["widen"]
    assert torch.equal(net.head.bias, torch.ones(3))


def test_a_grown_module_is_freed():
    net = Net()
    net.widen()
    net.drop()
    alive = ref(net)
    del net
    gc.collect()
    assert alive() is None


# ------------------------------------------------------------------------------------ what a search for defects found


class Grow(Callback):
    """Calls something with the module at the end of each of the first epochs."""

    def __init__(self, *acts):
        self.acts = list(acts)

    def on_train_epoch_end(self, trainer, pl_module):
        if self.acts:
            self.acts.pop(0)(pl_module)


def state_of(net, tensor, entry="exp_avg"):
    return net.trainer.optimizers[0].state[tensor][entry].clone()


class Odd(Net):
    @growth()
    def widen_and_shift(self):
        widen(self.body[0], self.body[2], 12)
        self.body.insert(0, nn.Linear(6, 6))
        self.body.insert(1, nn.ReLU())

    @growth()
    def permute_in_place(self, order: list):
        first, second = self.body[0], self.body[2]
        for tensor, dim in ((first.weight, 0), (first.bias, 0), (second.weight, 1)):
            tensor.data = tensor.data.index_select(dim, torch.tensor(order))
            came_from(tensor, order, dim)

    @growth()
    def prune_and_fail(self, keep: list):
        self.body[0].weight.data = self.body[0].weight.data[keep]
        came_from(self.body[0].weight, keep)
        raise OSError("out of luck")

    @growth()
    def widen_in_place(self):
        for layer, name, shape in ((0, "weight", (12, 6)), (0, "bias", (12,)), (2, "weight", (8, 12))):
            tensor = getattr(self.body[layer], name)
            tensor.data = larger(tensor, *shape).data

    @growth()
    def parametrize_and_fail(self):
        parametrize.register_parametrization(self.head, "weight", nn.Identity())
        raise OSError("out of luck")

    @growth()
    def parametrize(self):
        parametrize.register_parametrization(self.extra[0], "weight", nn.Identity())

    @growth()
    def replace_weight_and_shift(self):
        self.extra[1].weight = nn.Parameter(self.extra[1].weight.detach().clone())
        del self.extra[0]


def test_state_goes_with_a_module_that_is_widened_and_moves():
    def shift(net):
        old = {name: state_of(net, getattr(net.body[0], name)) for name in ("weight", "bias")}
        net.widen_and_shift()
        for name, before in old.items():
            assert torch.equal(state_of(net, getattr(net.body[2], name))[:8], before)
        assert not net.trainer.optimizers[0].state.keys() & set(net.body[0].parameters())

    net = Odd(optimizer=make("Adam"))
    fit(net, [Grow(shift)], epochs=2)
    (event,) = net.growth_log
    assert kinds(event) == {"born": ("body.0@1",), "widened": ("body.0", "body.2"), "shrunk": (), "removed": ()}
    assert event.moved == {"body.0": "body.2", "body.2": "body.4", "body.0@1": "body.0"}


def test_two_tensors_are_not_continued_by_one():
    class Two(Odd):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.extra.append(nn.Linear(6, 3))

    def shift(net):
        old = state_of(net, net.extra[1].weight)
        net.replace_weight_and_shift()
        assert torch.equal(state_of(net, net.extra[0].weight), old)

    net = Two(optimizer=make("Adam"))
    fit(net, [Grow(shift)], epochs=2)
    assert net.growth_log[0].outcome == {"removed": ("extra.0",)}


def test_entries_that_change_places_in_place_take_their_state_along():
    order = [3, 2, 1, 0, 7, 6, 5, 4]

    def permute(net):
        old = state_of(net, net.body[0].weight), state_of(net, net.body[2].weight)
        net.permute_in_place(order)
        assert torch.equal(state_of(net, net.body[0].weight), old[0][order])
        assert torch.equal(state_of(net, net.body[2].weight), old[1][:, order])

    fit(Odd(optimizer=make("Adam")), [Grow(permute)], epochs=2)


def test_what_a_failed_growth_declared_is_forgotten():
    def fail(net):
        with pytest.raises(OSError, match="out of luck"):
            net.prune_and_fail([1, 2, 5])
        old = state_of(net, net.body[0].weight)
        net.widen_in_place()
        assert torch.equal(state_of(net, net.body[0].weight)[:8], old)

    fit(Odd(optimizer=make("Adam")), [Grow(fail)], epochs=2)


def test_a_parametrization_is_taken_back():
    net = Odd()
    with pytest.raises(OSError, match="out of luck"):
        net.parametrize_and_fail()
    assert type(net.head) is nn.Linear
    net.extra[0].register_parameter("bias", None)  # a bias would stay behind where the weight moves, which is refused
    states = [copy.deepcopy(net.state_dict())]
    net.parametrize()
    states.append(copy.deepcopy(net.state_dict()))
    for count in (0, 1, 0):
        net.load_state_dict(states[count])
        assert (type(net.extra[0]) is nn.Linear) == (count == 0)
        net(torch.randn(2, 6))


def test_a_module_that_was_cast_goes_back_in_its_new_dtype():
    net = Net()
    before = copy.deepcopy(net.state_dict())
    net.widen()
    net.drop()
    net.double().load_state_dict(before)
    assert {tensor.dtype for tensor in net.parameters()} == {torch.float64}
    net(torch.randn(2, 6, dtype=torch.float64))


def test_newborn_complex_and_whole_numbers_stay_what_they_are():
    class Wave(nn.Module):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))
            self.amplitude = nn.Parameter(torch.ones(3))
            self.index = nn.Parameter(torch.arange(3), requires_grad=False)

    class Waves(Net):
        @growth()
        def add(self):
            self.extra.append(Wave())

    net = Waves().double()
    net.add()
    assert [tensor.dtype for tensor in net.extra[1].parameters()] == [torch.complex64, torch.float64, torch.int64]


def test_patterns_may_split_what_is_born():
    class Split(Net):
        def configure_components(self):
            return {"extra.*.0": "matrix", "extra.*.1": "norm"}

        @growth()
        def add(self):
            self.extra.append(nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3)))

    net = Split()
    respond = GrowthResponder(grown=0.5, adjacent=0.25, distant=0.125)
    trainer = fit(net, [Grow(Split.add), respond], epochs=2)
    lrs = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert lrs == {"body.0": 0.0125, "body.2": 0.0125, "extra.0": 0.025, "head": 0.025} | {
        "extra.1.0": 0.05,
        "extra.1.1": 0.05,
    }
    assert {component.role for component in net.components.values()} == {None, "matrix", "norm"}


def test_log_of_a_run_with_other_patterns_is_replayed():
    net, patterns = Net(), {"body.*.weight": "matrix", "body.*.bias": "bias"}
    fit(net, [Components(patterns), GrowEvery("widen", 1, limit=1), GrowEvery("drop", 2, limit=1)], epochs=3)
    fresh = Net()
    fresh.load_state_dict(net.state_dict())
    assert_same(weights(fresh), weights(net))


@pytest.mark.filterwarnings("ignore:component 'extra.0' shares tensors")
def test_a_tied_tensor_goes_over_to_the_one_who_is_left():
    class Tied(Net):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.tail = nn.Linear(6, 3)
            self.tail.weight = self.extra[0].weight

        def forward(self, x):
            return super().forward(x) + self.tail(x)

    net = Tied(optimizer=make("Adam"))
    trainer = fit(net, [Grow(Tied.drop), RoleLR({"mine": 0.5}), Components({"tail": "mine"})], epochs=2)
    assert net.growth_log[0].outcome == {"removed": ("extra.0",)}
    lrs = {tensor: group["lr"] for group in trainer.optimizers[0].param_groups for tensor in group["params"]}
    assert lrs == {tensor: 0.005 if tensor in set(net.tail.parameters()) else 0.01 for tensor in net.parameters()}
    fresh = Tied()
    fresh.load_state_dict(net.state_dict())
    assert fresh.components.keys() == net.components.keys()


def test_groups_of_what_is_born_are_named_as_a_resumed_run_names_them():
    """What is born has tensors in both groups, those of the second group first."""

    class Two(Net):
        @growth()
        def add(self):
            self.extra.append(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3)))

        def configure_optimizers(self):
            flat = [tensor for tensor in self.parameters() if tensor.ndim < 2]
            return torch.optim.SGD(
                [{"params": [tensor for tensor in self.parameters() if tensor.ndim > 1]}, {"params": flat}], lr=0.1
            )

    def names(trainer):
        return [group["name"] for group in trainer.optimizers[0].param_groups]

    trainer = fit(Two(), [GrowEvery("add", 1, limit=1)], epochs=2)
    trainer.save_checkpoint("run.ckpt")
    resumed = fit(Two(), [GrowEvery("add", 1, limit=1)], epochs=3, ckpt_path="run.ckpt")
    assert names(resumed) == names(trainer)


def test_events_of_all_kinds_are_marked_in_the_picture():
    net, logger = Net(optimizer=make("Adam")), CSVLogger("logs")
    growing = [GrowEvery("widen", 1, limit=1), GrowEvery("drop", 2, limit=1)]
    fit(net, [*growing, StrataMonitor()], epochs=3, logger=logger, log_every_n_steps=1)
    figure = plot_strata(logger.log_dir, net.growth_log)
    assert [text.get_text() for text in figure.axes[0].texts] == ["wider body.0, body.2", "- extra.0"]
