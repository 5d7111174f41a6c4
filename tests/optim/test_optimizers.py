"""Every optimizer there is: the same without effect, the factor times its lr with one, or a reason why not."""

import copy
import warnings
from collections import deque

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from pytorch_optimizer import get_supported_optimizers, load_optimizer
from torch import nn

from helpers import Plain, assert_same, fit, loader, slow_but_for, weights
from recipes import OPTIMIZERS, ORDINARY, SCHEDULERS, SPECIAL, exported_optimizers, make, variants
from references import timm_optimizers
from structurenet_pl import Components, GrowEvery, GrowthMixin, LARSScaler, LRFactor, RoleLR, growth, widen
from structurenet_pl.optim.probe import normalises_gradients, probe_lr_behaviour
from structurenet_pl.optim.state_kinds import state_kinds

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
@pytest.mark.parametrize("name", slow_but_for(["SGD", "AdamW"], ORDINARY))
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


CANNOT = {"sara": "KeyError: 'mask'"}
ODD = ["soap", "kron", "aggmo", "adashift", "dash", "scalableshampoo", "shampoo", "schedulefreeadamw", *CANNOT]


@pytest.mark.filterwarnings("ignore")  # theirs; what we say is looked at by check_other
@pytest.mark.parametrize("name", slow_but_for(ODD, get_supported_optimizers()))
def test_pytorch_optimizer(name):
    check_other(name, lambda params: load_optimizer(name)(list(params), lr=1e-2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", slow_but_for(timm_optimizers().keys() - {"kron.Kron"}, timm_optimizers()))
def test_timm_optimizers(name):
    if name == "lookahead.Lookahead":
        check_other(name, lambda params: timm_optimizers()[name](torch.optim.AdamW(params, lr=1e-2)))
    else:
        check_other(name, lambda params: timm_optimizers()[name](list(params), lr=1e-2))


# ----------------------------------------------------------------------------------------------- state and new tensors

MOVES, SIZE, WEIGHT = "gradient", "size", "weight"
STATES = {
    "ASGD": {"ax": WEIGHT},
    "Adadelta": {"square_avg": SIZE, "acc_delta": SIZE},
    "Adagrad": {"sum": SIZE},
    "Adam": {"exp_avg": MOVES, "exp_avg_sq": SIZE, "max_exp_avg_sq": SIZE},
    "AdamW": {"exp_avg": MOVES, "exp_avg_sq": SIZE},
    "Adamax": {"exp_avg": MOVES, "exp_inf": SIZE},
    "Muon": {"momentum_buffer": MOVES},
    "NAdam": {"exp_avg": MOVES, "exp_avg_sq": SIZE},
    "RAdam": {"exp_avg": MOVES, "exp_avg_sq": SIZE},
    "RMSprop": {"square_avg": SIZE, "grad_avg": MOVES, "momentum_buffer": MOVES},
    "Rprop": {"prev": MOVES, "step_size": SIZE},
    "SGD": {"momentum_buffer": MOVES},
}


@pytest.mark.parametrize("ndim", [1, 2, 4])
@pytest.mark.parametrize("name", STATES)
def test_what_a_state_follows_is_seen_on_a_copy(name, ndim):
    if (name, ndim) in [("Muon", 1), ("Muon", 4)]:
        return  # it takes matrices only
    optimizer = make(name)([nn.Parameter(torch.ones((2, 3, 4, 5)[:ndim]))])
    kinds = state_kinds(optimizer).of(ndim, {})
    whole = {path[0]: kind.follows for path, kind in kinds.items() if kind.dims == (True,) * ndim}
    assert whole == STATES[name]


def test_copies_and_averages_of_the_weights_are_seen_as_such():
    optimizer = load_optimizer("schedulefreeadamw")([nn.Parameter(torch.ones(2, 3))], lr=0.1)
    assert state_kinds(optimizer).of(2, {})["z",].follows == WEIGHT


def test_dimensions_that_a_state_lacks_are_seen_on_a_copy():
    optimizer = make("Adafactor")([nn.Parameter(torch.ones(4, 4, 3, 3))])
    kinds = {path[0]: (kind.dims, kind.follows) for path, kind in state_kinds(optimizer).of(4, {}).items() if kind.dims}
    assert kinds == {"row_var": ((True, True, True, False), SIZE), "col_var": ((True, True, False, True), SIZE)}


class Widened(Growing):
    """Two square layers, whose states may have the shape of a parameter by chance."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))

    @growth()
    def wider(self):
        widen(self.body[0], self.body[2], 12)


@pytest.mark.filterwarnings("ignore")  # theirs, and ours of states that are dropped
@pytest.mark.parametrize("grows", slow_but_for(["wider"], ["wider", "add_neck"]))
@pytest.mark.parametrize(
    "name",
    slow_but_for(ODD, get_supported_optimizers()),
)
def test_growth_under_pytorch_optimizer(name, grows):
    """It trains on, or the growth is refused and has not been."""

    def optimizer(params):
        return load_optimizer(name)(list(params), lr=1e-2)

    try:
        train(optimizer, kind=Widened, epochs=1)
        train(optimizer, [ByDepth()], kind=Widened, epochs=1)
    except Exception:
        return  # it fails without growth; see above
    torch.manual_seed(0)
    module = Widened(optimizer=optimizer)
    growth_at_two = GrowEvery(grows, 1, limit=1)
    if name in CANNOT and grows == "wider":
        with pytest.raises(ValueError, match=f"cannot start anew for 'body.0.weight'.*{CANNOT[name]}"):
            fit(module, [ByDepth(), growth_at_two], epochs=3)
        assert (len(module.growth_log), module.body[0].out_features) == (0, 8)
    else:
        fit(module, [ByDepth(), growth_at_two], epochs=3)
        assert len(module.growth_log) == 1


def test_a_new_tensor_that_an_optimizer_cannot_take_is_refused_at_growth():
    class Grows(Growing):
        @growth()
        def add_bias(self):
            self.necks.append(nn.Linear(8, 8))

    before = []

    class Tries(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            state = copy.deepcopy(trainer.optimizers[0].state_dict())
            with pytest.raises(ValueError, match=r"Muon cannot take 'necks.0.bias' with 1 dim.*like="):
                pl_module.add_bias()
            before.append(weights(pl_module))
            assert_same(trainer.optimizers[0].state_dict(), state)

    module, _ = train(make("Muon"), [ByDepth(), Tries()], kind=Grows)
    alone, _ = train(make("Muon"), [ByDepth()], kind=Grows)
    assert len(module.necks) == len(module.growth_log) == 0
    assert_same(weights(module), weights(alone))


def test_states_in_lists_and_deques_go_with_their_entries():
    """The state of the old entries is what it was, at every place."""

    class Looks(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                self.before = self.states(trainer, pl_module)

        def on_growth(self, trainer, pl_module, event):
            self.after = self.states(trainer, pl_module)

        def states(self, trainer, pl_module):
            return copy.deepcopy([trainer.optimizers[0].state[weight] for weight in pl_module.parameters()])

    for name in ("aggmo", "adashift"):
        looks = Looks()
        optimizer = lambda params, name=name: load_optimizer(name)(list(params), lr=1e-2)  # noqa: E731
        train(optimizer, [looks, GrowEvery("wider", 1, limit=1)], epochs=2, kind=Widened)
        pairs = [pair for old, new in zip(looks.before, looks.after, strict=True) for pair in both_in(old, new)]
        assert any(old.shape != new.shape for old, new in pairs)
        for old, new in pairs:
            assert torch.equal(new[tuple(map(slice, old.shape))], old)


def both_in(old, new):
    """The tensors at the same places of two states."""
    if isinstance(old, torch.Tensor):
        yield old, new
    elif isinstance(old, dict):
        for key in old:
            yield from both_in(old[key], new[key])
    elif isinstance(old, list | deque):
        assert type(old) is type(new)
        for pair in zip(old, new, strict=True):
            yield from both_in(*pair)


@pytest.mark.parametrize(
    ("make_optimizer", "expected"),
    [
        (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1), False),
        (lambda params: load_optimizer("sgdw")(params, lr=0.1), False),
        (lambda params: torch.optim.AdamW(params), True),
        (lambda params: torch.optim.RAdam(params), True),
        (lambda params: torch.optim.RMSprop(params), True),
        (lambda params: torch.optim.Adagrad(params), True),
        (lambda params: load_optimizer("lion")(params), True),
    ],
)
def test_what_normalises_gradients_is_seen_on_a_copy(make_optimizer, expected):
    assert normalises_gradients(make_optimizer([nn.Parameter(torch.ones(2, 2))])) == expected


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
    probe_lr_behaviour(torch.optim.AdamW(module.parameters()))
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
