"""Every optimizer there is: the same without effect, the factor times its lr with one, or a reason why not."""

import copy
import warnings

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from pytorch_optimizer import get_supported_optimizers, load_optimizer
from recipes import OPTIMIZERS, ORDINARY, SCHEDULERS, SPECIAL, exported_optimizers, make, variants
from torch import nn

from helpers import Plain, assert_same, fit, loader, weights
from references import timm_optimizers
from structurenet_pl import Components, GrowEvery, GrowthMixin, LARSScaler, LRFactor, RoleLR, growth
from structurenet_pl.trial import try_out

VARIANTS = [(name, variant) for name in ORDINARY for variant in variants(name)]
NEUTRAL = RoleLR({"nobody": 0.5})


class ByDepth(LRFactor):
    def factor(self, component, now):
        return 1 / (2 + component.depth)


class Still(Plain):
    """No dropout, so that a second half needs no random numbers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body[2] = nn.Identity()


class Growing(GrowthMixin, Still):
    """A matrix is born, which Muon takes, too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.necks = nn.ModuleList()

    @growth()
    def add_neck(self):
        self.necks.append(nn.Linear(8, 8, bias=False))

    def forward(self, x):
        x = self.body(x)
        for neck in self.necks:
            x = neck(x)
        return self.head(x)


def train(optimizer, callbacks=(), epochs=3, kind=Still, scheduler=None, interval="step", **kwargs):
    """The module and the Trainer after a fit that starts from seed 0."""
    torch.manual_seed(0)
    module = kind(optimizer=optimizer, scheduler=scheduler, interval=interval)
    return module, fit(module, callbacks, epochs=epochs, data=loader(shuffle=False), **kwargs)


def test_there_is_a_recipe_for_every_optimizer():
    assert OPTIMIZERS.keys() >= exported_optimizers()


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_factors_of_one_change_nothing(name, variant):
    optimizer = make(name, **variants(name)[variant])
    alone, _ = train(optimizer)
    ours, _ = train(optimizer, [NEUTRAL])
    assert_same(weights(ours), weights(alone))


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # by nested schedulers, with us and without
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ORDINARY)
def test_factors_of_one_change_nothing_under_any_scheduler(name, scheduler):
    settings = {"optimizer": make(name), "scheduler": SCHEDULERS[scheduler], "epochs": 2}
    alone, trainer = train(**settings)
    ours, with_us = train(**settings, callbacks=[NEUTRAL])
    assert_same(weights(ours), weights(alone))
    lrs = [[float(group["lr"]) for group in each.optimizers[0].param_groups] for each in (trainer, with_us)]
    assert set(lrs[0]) == set(lrs[1])


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_factor_is_a_group_with_its_own_lr(name, variant):
    """The same as groups that a user makes by hand, one for each component, each with lr times factor."""
    flags = variants(name)[variant]
    lr = OPTIMIZERS[name]["lr"]

    class ByHand(Still):
        def configure_optimizers(self):
            parts = [self.body[0], self.body[3], self.body[4], self.head]
            chosen = [[w for w in part.parameters() if name != "Muon" or w.ndim == 2] for part in parts]
            groups = [{"params": part, "lr": lr * (1 / (2 + depth))} for depth, part in enumerate(chosen) if part]
            return getattr(torch.optim, name)(groups, **OPTIMIZERS[name] | flags)

    by_hand, _ = train(None, kind=ByHand)
    ours, _ = train(make(name, **flags), [ByDepth()])
    assert_same(weights(ours), weights(by_hand))


@pytest.mark.parametrize("name", ORDINARY)
def test_resume_with_growth(name, tmp_path):
    def callbacks():
        return [ByDepth(), GrowEvery("add_neck", 1, limit=1)]

    settings = {"optimizer": make(name), "kind": Growing}
    whole, trainer = train(**settings, callbacks=callbacks(), epochs=4)
    train(**settings, callbacks=callbacks(), epochs=2)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, again = train(**settings, callbacks=callbacks(), epochs=4, ckpt_path=tmp_path / "half.ckpt")
    assert_same(weights(resumed), weights(whole))
    assert_same(again.optimizers[0].state_dict()["state"], trainer.optimizers[0].state_dict()["state"])


# ---------------------------------------------------------------------------------------------------------- the special


def test_there_is_a_reason_for_every_special_optimizer():
    assert SPECIAL.keys() == {"LBFGS", "Rprop", "SparseAdam"}


def test_lbfgs_takes_one_component_only():
    with pytest.raises(MisconfigurationException, match="LBFGS takes one param group only"):
        train(make("LBFGS"), [ByDepth()])

    class OneLayer(Plain):
        def __init__(self, optimizer, **kwargs):
            super().__init__(optimizer=optimizer)
            self.body, self.head = nn.Identity(), nn.Linear(6, 3)

    by_hand, _ = train(lambda params: torch.optim.LBFGS(params, lr=0.05), kind=OneLayer)
    ours, _ = train(make("LBFGS"), [ByDepth()], kind=OneLayer)
    assert_same(weights(ours), weights(by_hand))


def test_rprop_is_said_to_ignore_its_lr():
    with pytest.warns(UserWarning, match="Rprop was tried with two lrs and gave the same updates, so ByDepth may"):
        train(make("Rprop"), [ByDepth()])
    alone, _ = train(make("Rprop"))
    ours, _ = train(make("Rprop"), [Components({"head": "head"})])
    assert_same(weights(ours), weights(alone))


def test_sparse_adam():
    class Words(Plain):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.body, self.head = nn.Embedding(5, 8, sparse=True), nn.Embedding(3, 8, sparse=True)

        def forward(self, x):
            return self.body(x[:, 0].long().clamp(0, 4)) @ self.head(torch.arange(3)).T

    alone, _ = train(make("SparseAdam"), kind=Words)
    neutral, _ = train(make("SparseAdam"), [NEUTRAL], kind=Words)
    slower, _ = train(make("SparseAdam"), [ByDepth()], kind=Words)
    assert_same(weights(neutral), weights(alone))
    assert not torch.equal(slower.head.weight, alone.head.weight)


# ----------------------------------------------------------------------------------------------- optimizers of others

REFUSED = {
    "a2grad": "has no lr",
    "alig": "has no lr",
    "asgd": "writes its lr at every step",
    "lbfgs": "takes one param group only",
    "magma": "saves its groups in a form of its own",
}
ROUNDING = {"adai": "sums over all groups, one after the other, and so in another order"}


def check_other(name, optimizer):
    """Bit-identical, refused or warned of; what fails without us fails with us in the same way."""
    try:
        alone, _ = train(optimizer)
    except Exception as error:
        with pytest.raises(type(error)):
            train(optimizer, [NEUTRAL])
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            ours, _ = train(optimizer, [NEUTRAL])
        except MisconfigurationException as error:
            refusal = str(error)
            ours = None
    assert (ours is None) == (name in REFUSED)
    if ours is None:
        assert REFUSED[name] in refusal
    elif any("computes over all tensors of a param group" in str(warning.message) for warning in said):
        assert not all(torch.equal(weights(ours)[key], tensor) for key, tensor in weights(alone).items())
    elif name in ROUNDING:
        for key, tensor in weights(alone).items():
            torch.testing.assert_close(weights(ours)[key], tensor, rtol=1e-5, atol=1e-6)
    else:
        assert_same(weights(ours), weights(alone))


@pytest.mark.filterwarnings("ignore")  # theirs; what we say is looked at by check_other
@pytest.mark.parametrize("name", get_supported_optimizers())
def test_pytorch_optimizer(name):
    check_other(name, lambda params: load_optimizer(name)(list(params), lr=1e-2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", timm_optimizers())
def test_timm_optimizers(name):
    if name == "lookahead.Lookahead":
        check_other(name, lambda params: timm_optimizers()[name](torch.optim.AdamW(params, lr=1e-2)))
    else:
        check_other(name, lambda params: timm_optimizers()[name](list(params), lr=1e-2))


# --------------------------------------------------------------------------------------------------------- the trial


class Remembers(torch.optim.SGD):
    """Settings and attributes that are written in place, as in old implementations of RAdam."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        self.history = []
        for group in self.param_groups:
            group["buffer"] = [None]

    def step(self, closure=None):
        loss = closure()
        self.history.append(self.param_groups[0]["lr"])
        for group in self.param_groups:
            group["buffer"][0] = group["buffer"][0] or group["lr"]  # the lr of the first step, for ever
            for weight in group["params"]:
                weight.data -= group["buffer"][0] * weight.grad
        return loss


def test_a_trial_and_a_split_leave_no_trace():
    made = []

    def optimizer(params):
        made.append(Remembers(params, 0.05))
        return made[-1]

    alone, _ = train(optimizer)
    with pytest.warns(UserWarning, match="Remembers was tried with two lrs"):
        ours, _ = train(optimizer, [ByDepth()])
    assert made[1].history == [0.05 / 2] * 12
    assert [group["buffer"] for group in made[1].param_groups] == [[0.05 * (1 / (2 + depth))] for depth in range(4)]
    with pytest.warns(UserWarning, match="Remembers was tried with two lrs"):
        ours, _ = train(optimizer, [NEUTRAL])
    assert_same(weights(ours), weights(alone))


def test_a_trial_leaves_all_random_numbers_alone(monkeypatch):
    module = Plain()
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    try_out(torch.optim.AdamW(module.parameters()))
    assert torch.equal(torch.get_rng_state(), before)
    assert seeded == []


def test_lrs_that_an_optimizer_would_refuse_in_the_middle_are_refused_at_the_start():
    class OneRate(torch.optim.SGD):
        def step(self, closure=None):
            if len({group["lr"] for group in self.param_groups}) > 1:
                raise RuntimeError("setting different lr values is not supported")
            return super().step(closure)

    with pytest.raises(MisconfigurationException, match="OneRate refuses param groups with lrs of their own"):
        train(lambda params: OneRate(params, lr=0.1), [ByDepth()])


def test_an_optimizer_with_an_inner_one_of_other_groups_is_refused():
    class Sharded(torch.optim.SGD):
        def __init__(self, params):
            super().__init__(params, lr=0.1)
            self.inner = torch.optim.SGD([dict(group) for group in self.param_groups], lr=0.1)

    with pytest.raises(MisconfigurationException, match="Sharded keeps or saves its groups in a form of its own"):
        train(Sharded, [ByDepth()])


def test_state_saved_by_hand_without_us_loads_with_us():
    class Saves(Still):
        saved = None

        def on_train_start(self):
            if self.saved is not None:
                (optimizer,) = self.trainer.optimizers
                optimizer.load_state_dict(self.saved)
                self.loaded = [copy.deepcopy(optimizer.state[weight]) for weight in self.parameters()]

    _, trainer = train(make("Adam"), kind=Saves, epochs=1)
    state = copy.deepcopy(trainer.optimizers[0].state_dict())
    torch.manual_seed(0)
    module = Saves(optimizer=make("Adam"))
    module.saved = copy.deepcopy(state)
    fit(module, [NEUTRAL], epochs=1)
    assert_same(module.loaded, list(state["state"].values()))


def test_fused_under_a_scaler_where_gradients_are_read():
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    with pytest.raises(MisconfigurationException, match="SGD with fused=True leaves gradients scaled until its step"):
        train(make("SGD", fused=True), [LARSScaler()], plugins=[scaled])
