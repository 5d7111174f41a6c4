"""What is frozen stands still to the last byte, costs no backward pass, and thaws as if nothing had been."""

import copy

import pytest
import torch
from lightning.pytorch import Callback, callbacks
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import nn

import recipes
from freezing_nets import REST, THAW, Grows, Normed, modes, moved, parameters, trainable, with_gradient
from helpers import Half, Plain, Toggling, assert_same, fit, loader, weights
from recorders import KeepBytes, See
from structurenet_pl import Components, GrowEvery, LRFactor, ProgressiveFreeze, growth
from structurenet_pl.engine.driver import Driver
from structurenet_pl.freezing.component_freezer import Frozen


class InfElsewhere(Callback):
    """A gradient that is too large, once."""

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 6:
            pl_module.head.bias.grad.fill_(torch.inf)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("name", sorted({*recipes.ORDINARY, "Rprop"}))
@pytest.mark.filterwarnings("ignore:Rprop was tried with two lrs")
def test_every_byte_of_a_frozen_component_stands_still(name, released):
    torch.manual_seed(0)
    decay = {"weight_decay": 0.1} if name != "Rprop" else {}
    module, keep = Normed(optimizer=recipes.make(name, **decay)), KeepBytes()
    freeze = ProgressiveFreeze(REST, release_state=released)
    beside = [callbacks.EMAWeightAveraging(decay=0.9)] if hasattr(callbacks, "EMAWeightAveraging") else []  # since 2.6
    fit(module, [freeze, keep, *beside, InfElsewhere()], gradient_clip_val=1e9)
    first, *_, last = keep.epochs[1:]
    still = ("body.0", "body.1", "body.3")  # body.3 has no parameters and stands behind body.1
    assert moved(keep.epochs[0], first, *still) >= {"body.0.1.running_mean", "body.1.1.running_var", "body.1.0.weight"}
    assert moved(first, last, *still) == set()
    assert moved(first, last, "body.5", "head")


@pytest.mark.parametrize("name", recipes.ORDINARY)
def test_released_state_comes_back_as_it_was(name):
    runs = []
    for released in (False, True):
        torch.manual_seed(0)
        module = Normed(optimizer=recipes.make(name))
        trainer = fit(module, [ProgressiveFreeze(THAW, release_state=released)], epochs=5)
        runs.append((weights(module), trainer.optimizers[0].state_dict()))
    assert_same(*runs)


def test_released_state_is_out_of_memory_and_in_state_dicts():
    module = Normed(optimizer=lambda params: torch.optim.AdamW(params, lr=0.01))
    held = See(lambda trainer, module: {Driver.of(trainer).structure.owner[p] for p in trainer.optimizers[0].state})
    saved = See(lambda trainer, module: len(trainer.optimizers[0].state_dict()["state"]))
    fit(module, [ProgressiveFreeze(THAW, release_state=True), held, saved], epochs=5)
    everything = {"body.0", "body.1", "body.5", "head"}
    assert held.in_epoch(0)[-1] == held.in_epoch(4)[0] == everything
    assert all(names == {"body.5", "head"} for epoch in (1, 2) for names in held.in_epoch(epoch))
    assert {count for _, count in saved.seen[1:]} == {len(list(module.parameters()))}


def test_gradients_norms_and_clipping_leave_frozen_components_out():
    module = Normed()
    gradients, flags = See(with_gradient), See(trainable)

    class Clips(Callback):
        norms = ()

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            every = nn.utils.clip_grad_norm_(module.parameters(), 1e9)
            late = nn.utils.clip_grad_norm_([*module.body[5].parameters(), *module.head.parameters()], 1e9)
            self.norms = (*self.norms, every == late)

    clips = Clips()
    fit(module, [ProgressiveFreeze(REST), gradients, flags, clips], epochs=3)
    assert set(map(frozenset, gradients.in_epoch(0))) == {frozenset(parameters(module, "body", "head"))}
    for look in (gradients, flags):
        assert set(map(frozenset, look.in_epoch(1) + look.in_epoch(2))) == {
            frozenset(parameters(module, "body.5", "head"))
        }
    assert clips.norms == (False,) * 4 + (True,) * 8


class Backward(Normed):
    """Notes where the graph of the loss ends."""

    def forward(self, x):
        inner = self.body[:2](x)
        self.prefix_has_graph = inner.requires_grad
        return self.head(self.body[2:](inner))


def test_the_backward_pass_ends_at_a_frozen_prefix():
    module = Backward()
    see = See(lambda trainer, module: module.prefix_has_graph)
    fit(module, [ProgressiveFreeze(REST), see], epochs=2)
    assert (set(see.in_epoch(0)), set(see.in_epoch(1))) == ({True}, {False})


def test_gradients_pass_through_a_frozen_component_in_the_middle():
    module, see = Normed(), See(with_gradient)
    fit(module, [ProgressiveFreeze([("rest", 0, 0.0, 0.0, 0)], where=["body.1"]), see], epochs=1)
    assert set(map(frozenset, see.in_epoch(0))) == {frozenset(parameters(module, "body.0", "body.5", "head"))}


class CallsTrain(Callback):
    """Calls train() wherever somebody might."""

    def on_train_epoch_start(self, trainer, pl_module):
        pl_module.train()

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        pl_module.train()
        pl_module.body[0].train()
        pl_module.body[0][1].train()

    on_train_batch_start = on_train_batch_end = lambda self, trainer, pl_module, *args: pl_module.train()


@pytest.mark.parametrize(("norm", "held"), [("eval", [False, False, False]), ("train", [True, True, True])])
def test_frozen_norm_layers_keep_their_mode_when_a_user_calls_train(norm, held):
    module, see, keep = Normed(), See(modes), KeepBytes()
    freeze = ProgressiveFreeze(THAW, norm=norm)
    fit(module, [freeze, CallsTrain(), see, keep], epochs=4)
    assert set(map(tuple, see.in_epoch(0) + see.in_epoch(3))) == {(True,) * 5}
    assert set(map(tuple, see.in_epoch(1) + see.in_epoch(2))) == {(*held, True, True)}  # dropout is the user's affair
    buffers = {name for name, _ in module.named_buffers() if name.startswith(("body.0", "body.1", "body.3"))}
    moving = moved(keep.epochs[1], keep.epochs[3], "body.0", "body.1", "body.3")
    assert moving == (set() if norm == "eval" else buffers - {"body.3.num_batches_tracked"})  # which torch never counts
    assert all(part.training and "train" not in vars(part) for part in module.modules())


@pytest.mark.filterwarnings("ignore:Found 2 module.s. in eval mode")
def test_a_mode_that_the_user_has_set_stays():
    module = Normed()
    module.body[0][1].eval()
    module.body[1][2].eval()
    see = See(modes)
    fit(module, [ProgressiveFreeze(THAW), see], epochs=4)
    assert set(map(tuple, see.in_epoch(0) + see.in_epoch(3))) == {(False, True, True, True, False)}


def test_parameters_that_the_user_has_frozen_stay_frozen():
    module, keep, flags = Normed(), KeepBytes(), See(trainable)
    module.body[0].requires_grad_(False)
    fit(module, [ProgressiveFreeze(THAW), keep, flags], epochs=5)
    assert set(map(frozenset, flags.in_epoch(4))) == {frozenset(parameters(module, "body.1", "body.5", "head"))}
    assert moved(keep.epochs[0], keep.epochs[-1], "body.0.0") == set()


def test_a_frozen_component_is_derived_anew_in_every_fit():
    module = Normed()
    fit(module, [ProgressiveFreeze(REST)], epochs=2)
    assert trainable(None, module) == parameters(module, "body", "head")
    for again in (copy.deepcopy(module), module):
        again.head.requires_grad_(False)  # by the user, in between
        flags = See(trainable)
        fit(again, [ProgressiveFreeze(REST), flags], epochs=2)
        assert flags.in_epoch(0)[0] == parameters(module, "body")
        assert flags.in_epoch(1)[0] == parameters(module, "body.5")
    fit(module, [ProgressiveFreeze([("all", 0, 1.0, 1.0, 0)])], epochs=1)
    assert trainable(None, module) == parameters(module, "body")


def test_parameters_that_the_user_freezes_between_two_fits_stay_frozen():
    module, flags = Normed(), See(trainable)
    fit(module, [ProgressiveFreeze(REST)], epochs=2)
    module.body[0].requires_grad_(False)  # it had been frozen by us
    fit(module, [ProgressiveFreeze(THAW), flags], epochs=5)
    assert flags.in_epoch(0)[0] == parameters(module, "body.1", "body.5", "head")
    assert flags.in_epoch(4)[-1] == parameters(module, "body.1", "body.5", "head")
    assert trainable(None, module) == parameters(module, "body.1", "body.5", "head")


@pytest.mark.parametrize("released", [False, True])
def test_a_fit_that_raises_leaves_nothing_frozen(released, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    class Breaks(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise ValueError("enough")

    module = Normed()
    with pytest.raises(ValueError, match="enough"):
        fit(module, [ProgressiveFreeze(REST, release_state=released), Breaks()], epochs=3)
    assert list(tmp_path.iterdir()) == []
    assert all("train" not in vars(part) for part in module.modules())
    fit(module, [ProgressiveFreeze([("all", 0, 1.0, 1.0, 0)])], epochs=1)
    assert trainable(None, module) == parameters(module, "body", "head")


class TwoOptimizers(Toggling, Normed):
    """A generator and its critic, so to speak."""

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.body, self.head)]


@pytest.mark.parametrize("toggled", [False, True])
def test_the_last_component_of_an_optimizer_has_lr_0_and_a_gradient(toggled):
    module = TwoOptimizers() if toggled else Normed()
    flags = See(trainable)
    where = "body" if toggled else None
    with pytest.warns(UserWarning, match="all components of SGD are to be frozen.*has lr 0 instead") as said:
        fit(module, [ProgressiveFreeze([("none", 0, 0.0, 0.0, 0)], where=where), flags, keep := KeepBytes()], epochs=2)
    assert sum("all components" in str(warning.message) for warning in said) == 1
    last = "body.5" if toggled else "head"
    assert parameters(module, last) in [seen for _, seen in flags.seen]
    assert moved(keep.epochs[0], keep.epochs[-1], "head") == (parameters(module, "head") if toggled else set())
    assert moved(keep.epochs[0], keep.epochs[-1], "body") & parameters(module, "body") == set()


def test_growth_in_mid_phase_moves_the_depths():
    net, flags, keep = Grows(), See(trainable), KeepBytes()
    phases = [("all", 0, 1.0, 1.0, 0), ("rest", 1, 0.0, 1.0, -1)]  # everything but the last depth
    grow = [GrowEvery("add_neck", 2, limit=1), GrowEvery("insert", 3, limit=1, arguments={"at": 0})]
    fit(net, [ProgressiveFreeze(phases, release_state=True), *grow, flags, keep], epochs=5)
    assert set(map(frozenset, flags.in_epoch(1))) == {frozenset(parameters(net, "head"))}
    assert flags.in_epoch(2)[0] == parameters(net, "head")
    assert flags.in_epoch(4)[-1] == parameters(net, "head")
    assert moved(keep.epochs[3], keep.epochs[-1], "body", "patches", "necks") == set()


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_validation_end", "on_train_batch_end"])
def test_a_copy_of_a_frozen_component_is_not_frozen(hook):
    class Copies(Callback):
        def copy(self, trainer, pl_module, *args):
            if trainer.current_epoch == 2 and len(pl_module.patches) == 1 and not trainer.sanity_checking:
                pl_module.copy_first()

    setattr(Copies, hook, Copies.copy)

    class Validated(Grows):
        def validation_step(self, batch, batch_idx):
            self(batch[0])

    net = Validated()
    net.insert(at=0)
    see = See(lambda trainer, module: [part.training for part in module.patches.modules()])
    flags = See(trainable)
    freeze = ProgressiveFreeze([("rest", 0, 0.0, 0.0, 0)], where="patches.0")
    fit(net, [freeze, Copies(), see, flags], validation=loader(1, shuffle=False))
    assert parameters(net, "patches.1") <= flags.in_epoch(3)[-1]
    assert not parameters(net, "patches.0") & flags.in_epoch(3)[-1]
    assert see.in_epoch(3)[-1] == [True, *[True, True, False, True], *[True] * 4]  # the norm of the first alone


def test_growth_that_fails_leaves_what_is_frozen():
    class Fails(Grows):
        @growth()
        def fail(self):
            self.patches.append(nn.Linear(8, 8))
            raise ValueError("no room")

    class Tries(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            with pytest.raises(ValueError, match="no room"):
                pl_module.fail()

    net, flags = Fails(), See(trainable)
    fit(net, [ProgressiveFreeze(REST, release_state=True), Tries(), flags], epochs=3)
    assert set(map(frozenset, flags.in_epoch(2))) == {frozenset(parameters(net, "body.4", "head"))}


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_resume_in_every_phase(stop, released, tmp_path):
    def run(epochs, **kwargs):
        torch.manual_seed(0)
        module = Normed(optimizer=lambda params: torch.optim.AdamW(params, lr=0.01))
        module.body[1][2].p = 0.0  # random numbers are restored for modules that grow only
        flags = See(trainable)
        ours = [ProgressiveFreeze(THAW, release_state=released), flags, *kwargs.pop("more", ())]
        trainer = fit(module, ours, epochs=epochs, data=loader(shuffle=False), **kwargs)
        return weights(module), trainer.optimizers[0].state_dict(), flags.seen

    whole = run(5)
    saver = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True, every_n_epochs=stop)
    run(stop, more=[saver], enable_checkpointing=True)
    resumed = run(5, ckpt_path=tmp_path / "last.ckpt")
    assert_same(whole[:2], resumed[:2])
    assert whole[2][4 * stop :] == resumed[2]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_checkpoint_of_a_frozen_phase_is_continued_without_this_package(tmp_path):
    module = Normed(optimizer=lambda params: torch.optim.AdamW(params, lr=0.01))
    saver = ModelCheckpoint(tmp_path, filename="last")
    fit(module, [ProgressiveFreeze(REST, release_state=True), saver], epochs=2, enable_checkpointing=True)
    plain, keep = Normed(optimizer=lambda params: torch.optim.AdamW(params, lr=0.01)), KeepBytes()
    trainer = fit(plain, [keep], epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert len(trainer.optimizers[0].state) == len(list(plain.parameters()))
    assert moved(keep.epochs[0], keep.epochs[-1]) == set(plain.state_dict()) - {"body.3.num_batches_tracked"}


def test_swa_computes_the_statistics_of_frozen_norms_too():
    module = Normed()
    swa = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    fit(module, [ProgressiveFreeze(REST), swa], epochs=4)
    assert module.body[0][1].num_batches_tracked == 4  # SWA starts at 0 and goes through the data once
    assert not torch.equal(module.body[0][1].running_var, torch.ones(8))


@pytest.mark.skipif(not hasattr(callbacks, "EMAWeightAveraging"), reason="new in lightning 2.6")
def test_an_average_is_copied_without_the_hooks_that_count_work():
    class Replaces(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:  # when freezing has begun to count the next batch
                pl_module.drop_patch()
                pl_module.add_patch(at=1)

    class Replaced(Grows):
        @growth()
        def drop_patch(self):
            del self.patches[0]

    average = callbacks.EMAWeightAveraging(decay=0.9)
    freeze = ProgressiveFreeze([("all", 0, 1.0, 1.0, 0), ("frozen", 2, 0.0, 0.0, 0)], where="patches.0")
    fit(Replaced(), [Replaces(), GrowEvery("add_patch", 1, limit=1, arguments={"at": 1}), freeze, average], epochs=4)
    assert not any(part._forward_hooks for part in average._average_model.modules())


def test_accumulated_gradients_are_not_lost_to_a_phase():
    """A phase counted in batches of the user's own: it may begin between two accumulated ones."""

    class EveryBatch(LRFactor):
        freezes = True
        batches = 0

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.batches += 1

        def factor(self, component, now):
            return 0.0 if self.batches == 2 and component.name == "body.0" else 1.0

    module, see = Normed(), See(with_gradient)
    fit(module, [EveryBatch(), see], epochs=1, accumulate_grad_batches=2)
    assert see.in_epoch(0)[0] == parameters(module, "body", "head")


def test_two_callbacks_that_freeze_the_same_are_told_apart_or_warned_of():
    phases = [("rest", 0, 0.0, 1.0, 1)]
    apart = [ProgressiveFreeze(phases, where="body.0"), ProgressiveFreeze(phases, where="head")]
    fit(Normed(), apart, epochs=1)
    with pytest.warns(UserWarning, match="_1 and ProgressiveFreeze_2 both freeze body.0, body.1"):
        fit(Normed(), [ProgressiveFreeze(phases), ProgressiveFreeze(phases)], epochs=1)


def test_a_factor_that_reads_gradients_cannot_freeze():
    class Never(Half):
        freezes = needs_gradients = True

    with pytest.raises(ValueError, match="Never has both `freezes` and `needs_gradients`"):
        fit(Plain(), [Never()], epochs=1)


def test_a_factor_of_0_that_does_not_freeze_is_lr_0():
    class Zero(LRFactor):
        def factor(self, component, now):
            return 0.0

    module, see = Plain(), See(with_gradient)
    before = weights(module)
    fit(module, [Zero(), see], epochs=1)
    assert set(map(frozenset, see.in_epoch(0))) == {frozenset(parameters(module, ""))}
    assert_same(before, weights(module))


@pytest.mark.parametrize("where", [None, ["body.0", "body.1"]])
def test_share_of_parameters_and_work(where):
    class Deep(Plain):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*[nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU()) for _ in range(4)])
            self.head = nn.Linear(6, 6, bias=False)

    see = See(lambda trainer, module: Driver.of(trainer).frozen)
    fit(Deep(), [Components({"body.*": "body"}), ProgressiveFreeze(REST, where=where), see], epochs=3)
    assert set(see.in_epoch(0)) == {Frozen()}
    # five equal layers: two of them need no gradient of their weights, and two more none of the input
    share = 4 / (5 + 5 + 4)
    assert see.in_epoch(2)[-1] == Frozen(frozenset({"body.0", "body.1"}), 0.4, pytest.approx(share, rel=1e-12))


def test_work_of_convolutions_lookups_and_attention():
    class Mixed(Plain):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 6)
            self.conv = nn.Conv1d(6, 6, 3, padding=1)
            self.mix = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)

        def forward(self, x):
            x = self.conv(self.table(x.abs().long()).transpose(1, 2)).transpose(1, 2)
            return self.mix(x).mean(1)[:, :3]

    module = Mixed()
    del module.body, module.head
    see = See(lambda trainer, module: Driver.of(trainer).frozen.work)
    fit(module, [ProgressiveFreeze([("rest", 0, 0.0, 1.0, 2)]), see], epochs=1)
    positions = 8 * 6
    conv, mix = positions * 6 * 6 * 3, positions * (4 * 6 * 6 + 2 * 6 * 12)
    whole = 3 * conv + 3 * mix  # the lookup is no multiplication, but a gradient reaches it
    needed = conv + 2 * mix
    assert see.in_epoch(0)[-1] == pytest.approx(1 - needed / whole, rel=1e-12)


def test_released_state_is_in_a_file_without_a_name(tmp_path, monkeypatch):
    """It goes with the process, even one that is killed, and nobody can tidy it away."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def look(trainer, module):
        assert list(tmp_path.rglob("*")) == []
        return len(trainer.optimizers[0].state)

    seen = See(look)
    trainer = fit(Normed(), [ProgressiveFreeze(REST, release_state=True), seen], epochs=2)
    tensors = len(list(trainer.lightning_module.parameters()))
    # at the first step there is no momentum yet; then that of two linear and one affine norm layer is in the file
    assert (seen.in_epoch(0)[-1], seen.in_epoch(1)) == (tensors, [tensors - 6] * 4)
    assert len(trainer.optimizers[0].state) == tensors


def test_released_state_survives_a_read():
    class Looks(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            (optimizer,) = trainer.optimizers
            for tensor in pl_module.parameters():
                optimizer.state[tensor]  # a defaultdict makes an empty one

    def train(*more):
        torch.manual_seed(0)
        module = Normed(optimizer=lambda params: torch.optim.Adam(list(params), lr=0.01))
        phases = [*REST, ("less", 2, 0.0, 1.0, 1), ("thaw", 3, 1.0, 1.0, 0)]
        trainer = fit(module, [ProgressiveFreeze(phases, release_state=True), *more], epochs=5)
        return weights(module), trainer.optimizers[0].state_dict()

    assert_same(train(Looks()), train())
