"""Random growth of random networks under random optimizers and schedulers: the laws hold for all of them."""

import copy
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from helpers import assert_same, fit, loader, weights
from recipes import OPTIMIZERS, ORDINARY, SCHEDULERS
from structurenet_pl import (
    AgeDecay,
    DepthDecay,
    GrowthMixin,
    GrowthResponder,
    LARSScaler,
    ProgressiveFreeze,
    Warmup,
    came_from,
    growth,
    identity_like,
    widen,
)
from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.lr_table import table_of
from structurenet_pl.optim.references import attributes_of, reachable

pytestmark = pytest.mark.filterwarnings(
    "ignore:component patterns",  # some are never born
    "ignore:the optimizer state '(row|col)_var'",  # with one entry it cannot be told what it is an average of
    "ignore:A `OneCycleLR` scheduler is using 'interval'",  # here it may
    "ignore:all components of .* are to be frozen",  # there may be just one
)

EPOCHS, STEPS = 4, 2

# Muon takes matrices only, so what is born must not have biases
KINDS = {name: {} for name in ORDINARY if name != "Muon"} | {"AdamW": {"fused": True}, "SGD": {"foreach": True}}
# Lightning loses a step of ReduceLROnPlateau on resume, and it goes by the loss, which growth changes
BY_THE_CLOCK = sorted(SCHEDULERS.keys() - {"ReduceLROnPlateau"})
PATTERNS = {
    "none": {},
    "roles": {"body.*": "scaffold", "head": "head"},
    "split": {"body.*.second": "out", "body.*": "scaffold", "patches.*.0": "in"},
}
FACTORS = {
    "none": list,
    "age": lambda: [Warmup(2), AgeDecay(0.5)],
    "growth": lambda: [GrowthResponder(recovery=1.5), DepthDecay()],
    "norms": lambda: [LARSScaler(trust_coefficient=0.1, clip=1.0)],
    "freeze": lambda: [ProgressiveFreeze(PHASES), StandsStill()],
    "freeze released": lambda: [ProgressiveFreeze(PHASES, unit="step", release_state=True), StandsStill()],
}
PHASES = [("all", 0, 1.0, 1.0, 0), ("early", 1, 0.0, 1.0, 0.7), ("late", 2, 1.0, 0.0, 1), ("thaw", 3, 0.5, 1.0, 1)]


class Recipe(NamedTuple):
    """A network and how it is trained."""

    depth: int
    width: int
    norm: str
    stem: str
    optimizer: str
    groups: str
    scheduler: str | None
    interval: str
    patterns: str


class Growth(NamedTuple):
    """A growth to be made after a batch, the last one of an epoch standing for its end."""

    epoch: int
    batch: int
    method: str
    at: int
    by: int


class Block(nn.Module):
    """A residual block, whose inner width may change."""

    def __init__(self, width, inner, norm):
        super().__init__()
        self.first, self.second = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[norm](inner)

    def forward(self, x):
        return x + self.second(self.norm(self.first(x)).relu())


class Living(GrowthMixin, LightningModule):
    """A network with every kind of part that can grow."""

    def __init__(self, recipe):
        super().__init__()
        self.recipe = recipe
        width = recipe.width
        if recipe.stem == "conv":
            self.stem = nn.Sequential(
                nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, width)
            )
        else:
            self.stem = nn.Linear(6, width)
        if recipe.stem == "embedding":
            self.table = nn.Embedding(2, width)
        self.body = nn.Sequential(*(self.block() for _ in range(recipe.depth)))
        self.patches = nn.ModuleList()
        self.head = nn.Linear(width, 3)

    def block(self):
        return Block(self.recipe.width, 4, self.recipe.norm)

    def configure_components(self):
        return PATTERNS[self.recipe.patterns]

    def forward(self, x):
        h = self.stem(x.unsqueeze(1) if self.recipe.stem == "conv" else x)
        if self.recipe.stem == "embedding":
            h = h + self.table((x[:, 0] > 0).long())
        for patch in self.patches:
            h = h + patch(h)
        return self.head(self.body(h))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        recipe = self.recipe
        named = dict(self.named_parameters())
        inside = {name for name in named if name.startswith("body")}
        flat = {name for name, tensor in named.items() if tensor.ndim < 2}
        lr = OPTIMIZERS[recipe.optimizer]["lr"]

        def some(names):
            return [tensor for name, tensor in named.items() if name in names]

        params = {
            "one": [*named.values()],
            "named": [*named.items()],
            "decay": [{"params": some(named.keys() - flat)}, {"params": some(flat), "weight_decay": 0.0}],
            "parts": [{"params": some(inside), "lr": lr / 2}, {"params": some(named.keys() - inside)}],
            "called": [
                {"params": some(inside), "name": "trunk"},
                {"params": some(named.keys() - inside), "name": "rest"},
            ],
        }[recipe.groups]
        arguments = {"weight_decay": 0.01} | OPTIMIZERS[recipe.optimizer] | KINDS[recipe.optimizer]
        optimizer = getattr(torch.optim, recipe.optimizer)(params, **arguments)
        if recipe.scheduler is None:
            return optimizer
        scheduler = {"scheduler": SCHEDULERS[recipe.scheduler](optimizer), "interval": recipe.interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # -------------------------------------------------------------------------------------------------------- growth

    @growth()
    def append(self, at: int, by: int):
        self.body.append(self.block())

    @growth(role="inserted")
    def insert(self, at: int, by: int):
        self.body.insert(at % (len(self.body) + 1), self.block())

    @growth(role="patch", depth="at")
    def patch(self, at: int, by: int):
        self.patches.append(
            nn.Sequential(nn.Linear(self.recipe.width, by), nn.Tanh(), nn.Linear(by, self.recipe.width))
        )

    @growth()
    def drop_patch(self, at: int, by: int):
        del self.patches[at % len(self.patches)]

    @growth()
    def remove(self, at: int, by: int):
        del self.body[at % len(self.body)]

    @growth()
    def widen(self, at: int, by: int):
        block = self.body[at % len(self.body)]
        norm = block.norm if self.recipe.norm == "batch" else None
        widen(block.first, block.second, block.first.out_features + by, norm)

    @growth(second_moments="zero")
    def widen_stem(self, at: int, by: int):
        conv, norm, _, _, reader = self.stem
        widen(conv, reader, conv.out_channels + by, norm, noise=0.1)

    @growth(second_moments="reset")
    def rebuild(self, at: int, by: int):
        at = at % len(self.body)
        self.body[at] = Block(self.recipe.width, self.body[at].first.out_features + by, self.recipe.norm)

    @growth()
    def in_place(self, at: int, by: int):
        block = self.body[at % len(self.body)]
        for tensor, dim in of_units(block):
            tensor.data = torch.cat([tensor.data, 0.1 * tensor.data.narrow(dim, 0, 1)], dim)
        block.norm = resized(block.norm, block.first.out_features + 1)
        block.first.out_features += 1
        block.second.in_features += 1

    @growth()
    def prune(self, at: int, by: int):
        """Keep some units in another order."""
        block = self.body[at % len(self.body)]
        keep = torch.tensor([*range(block.first.out_features)]).roll(by)[:-1]
        for tensor, dim in of_units(block):
            pruned = came_from(nn.Parameter(tensor.detach().index_select(dim, keep)), keep.tolist(), dim)
            owner, name = next(
                (part, name) for part in block.modules() for name, own in part._parameters.items() if own is tensor
            )
            setattr(owner, name, pruned)
        block.norm = resized(block.norm, len(keep))
        block.first.out_features = block.second.in_features = len(keep)

    @growth()
    def new_head(self, at: int, by: int):
        self.head = nn.Linear(self.recipe.width, self.head.out_features + by)

    @growth()
    def all_at_once(self, at: int, by: int):
        """Insert a block at the front, widen the last one, and remove one."""
        block = self.body[-1]
        widen(block.first, block.second, block.first.out_features + by, block.norm if is_batch_norm(block) else None)
        if is_layer_norm(block):
            block.norm = nn.LayerNorm(block.first.out_features)
        self.body.insert(0, self.block())
        if len(self.body) > 2:
            del self.body[1]

    @growth()
    def fails(self, at: int, by: int):
        self.body.insert(0, self.block())
        of_units(self.body[-1])[0][0].requires_grad_(False)
        tensor = came_from(self.head.weight, [*reversed(range(self.head.out_features))])
        tensor.data = torch.zeros(1, 1)
        self.head = nn.Identity()
        self.anything = [1]
        raise OSError("out of luck")

    @growth(like="nobody")
    def fails_in_the_optimizer(self, at: int, by: int):
        self.all_at_once(at, by)


FAIL = ["fails", "fails_in_the_optimizer"]
GROW = ["append", "insert", "patch", "drop_patch", "remove", "widen", "widen_stem", "rebuild", "in_place", "prune"]
GROW += ["new_head", "all_at_once"]


def is_batch_norm(block):
    return isinstance(block.norm, nn.BatchNorm1d)


def is_layer_norm(block):
    return isinstance(block.norm, nn.LayerNorm)


def of_units(block):
    """The tensors of a block with entries for its inner units, but for those of the norm, and the dimension."""
    return [(block.first.weight, 0), (block.first.bias, 0), (block.second.weight, 1)]


def resized(norm, units):
    return norm if isinstance(norm, nn.Identity) else type(norm)(units)


def apply(net, method, at, by):
    """Grow, in another way if this one is impossible now; nothing happens where the groups of a newborn are unclear."""
    impossible = {
        "drop_patch": not net.patches,
        "remove": len(net.body) < 2,
        "widen": net.recipe.norm == "layer",  # refused: the function would not stay
        "widen_stem": net.recipe.stem != "conv",
        "prune": method == "prune" and net.body[at % len(net.body)].first.out_features < 3,
        "all_at_once": net.recipe.norm == "layer" and False,
    }
    chosen = "rebuild" if impossible.get(method) else method
    try:
        getattr(net, chosen)(at=min(at, 1) if chosen == "patch" else at, by=by)
    except ValueError as error:
        if "equally well" not in str(error):
            raise
        event("unclear where the newborn belongs")
    event(chosen)


# -------------------------------------------------------------------------------------------------------- random things

recipes = st.builds(
    Recipe,
    depth=st.integers(1, 3),
    width=st.sampled_from([1, 3, 4]),
    norm=st.sampled_from(["none", "batch", "layer"]),
    stem=st.sampled_from(["linear", "conv", "embedding"]),
    optimizer=st.sampled_from(sorted(KINDS)),
    groups=st.sampled_from(["one", "named", "decay", "parts", "called"]),
    scheduler=st.sampled_from([None, *BY_THE_CLOCK]),
    interval=st.sampled_from(["step", "epoch"]),
    patterns=st.sampled_from(sorted(PATTERNS)),
)


def plans(methods, most=5):
    one = st.builds(
        Growth,
        epoch=st.integers(0, EPOCHS - 2),
        batch=st.integers(0, STEPS - 1),
        method=st.sampled_from(methods),
        at=st.integers(0, 3),
        by=st.integers(1, 2),
    )
    return st.lists(one, min_size=1, max_size=most)


def examples(count):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,  # the examples follow from the name of a test: a new name draws others
        phases=[Phase.generate],  # shrinking would take minutes of fits; add Phase.shrink to minimise a failure
        database=None,
        # the fixture of all tests sets a seed; here every run sets its own
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


class Plan(Callback):
    """Carries out the planned growths, and checks after each that no parameter was lost."""

    def __init__(self, plan):
        self.plan = plan

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx < STEPS - 1:
            self.grow(trainer, pl_module, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module):
        self.grow(trainer, pl_module, STEPS - 1)

    def grow(self, trainer, pl_module, batch):
        for one in self.plan:
            if (one.epoch, one.batch) == (trainer.current_epoch, batch):
                self.act(trainer, pl_module, one)
                check_bookkeeping(trainer, pl_module)

    def act(self, trainer, pl_module, one):
        apply(pl_module, one.method, one.at, one.by)

    def on_train_epoch_start(self, trainer, pl_module):
        check_bookkeeping(trainer, pl_module)


class StandsStill(Callback):
    """Checks at every step that components with factor 0 are frozen, and that none of their bytes changes."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        driver = Driver.of(trainer)
        (table,) = driver.tables.values()
        at_rest = {
            table.groups.group_infos[name].component
            for name, row in zip(table.matrix.piece_names, table.matrix.values, strict=True)
            if 0.0 in row
        }
        frozen = driver.frozen.components
        spared = at_rest - frozen
        assert frozen <= at_rest
        assert not spared or (len(spared) == 1 and at_rest == driver.structure.components.keys())
        for tensor, name in driver.structure.owner.items():
            assert tensor.requires_grad == (name not in frozen)
            assert name not in frozen or tensor.grad is None
        paths = tuple(path for name in frozen for path in driver.structure.parameters[name])
        self.modules = {path.rpartition(".")[0] for path in paths}
        self.before = self.bytes(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert_same(self.before, self.bytes(pl_module))

    def bytes(self, net):
        return {path: weights(net.get_submodule(path)) for path in self.modules}


def check_bookkeeping(trainer, net):
    """Law 9: every parameter stands in one group; state and schedulers fit."""
    (optimizer,) = trainer.optimizers
    groups = optimizer.param_groups
    names = {tensor: name for name, tensor in net.named_parameters()}
    assert Counter(tensor for group in groups for tensor in group["params"]) == Counter([*names])
    assert optimizer.state.keys() <= names.keys()
    for tensor, state in optimizer.state.items():
        for value in state.values():
            if torch.is_tensor(value):
                assert torch.broadcast_shapes(value.shape, tensor.shape) == tensor.shape
    table = table_of(optimizer)
    called = [group["name"] for group in groups]
    assert len(set(called)) == len(called)
    assert table.groups.group_infos.keys() == set(called)
    owners = {name: part for part, tensors in Driver.of(trainer).structure.parameters.items() for name in tensors}
    for group in groups:
        if "param_names" in group:
            assert group["param_names"] == [names[tensor] for tensor in group["params"]]
        if group["params"]:
            assert {owners[names[tensor]] for tensor in group["params"]} == {
                table.groups.group_infos[group["name"]].component
            }
    for group, pieces in table.groups:
        assert group["params"] == [tensor for piece in pieces for tensor in piece["params"]]
    for config in trainer.lr_scheduler_configs:
        assert config.scheduler.optimizer.param_groups == table.groups.user
        assert len(config.scheduler.get_last_lr()) == len(table.groups.user)


class Trace(Callback):
    """The lr at each step, of every group by name and by the group of the user's that it is a piece of."""

    def __init__(self):
        self.rows = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        slots = table_of(optimizer).groups.group_infos
        self.rows.append(
            {(group["name"], slots[group["name"]].origin): float(group["lr"]) for group in optimizer.param_groups}
        )


def train(recipe, plan, factors="none", callbacks=(), ckpt_path=None, **kwargs):
    seed_everything(1, verbose=False)
    net, trace = Living(recipe), Trace()
    plan = plan if isinstance(plan, Plan) else Plan(plan)
    everything = [*FACTORS[factors](), plan, trace, *callbacks]
    data = loader(STEPS, shuffle=kwargs.pop("shuffle", True))
    trainer = fit(net, everything, EPOCHS, ckpt_path, data=data, **kwargs)
    return net, trainer, trace.rows


# ------------------------------------------------------------------------------------------------------------- the laws


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided")
@examples(40)
@given(recipe=recipes, plan=plans(GROW), factors=st.sampled_from(sorted(FACTORS)), stop=st.integers(0, EPOCHS - 2))
def test_resumed_equals_uninterrupted(recipe, plan, factors, stop):
    """Law 6, and law 9 on the way."""
    with TemporaryDirectory() as folder:
        save = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        whole = train(recipe, plan, factors, [save], enable_checkpointing=True)
        resumed = train(recipe, plan, factors, ckpt_path=Path(folder) / f"epoch={stop}.ckpt")
    for one, other in zip(results(whole), results(resumed), strict=True):
        assert_same(one, other)
    assert [{name: lr for (name, _), lr in row.items()} for row in whole[2]][STEPS * (stop + 1) :] == [
        {name: lr for (name, _), lr in row.items()} for row in resumed[2]
    ]
    assert whole[0].components == resumed[0].components


def results(run):
    net, trainer, _ = run
    (optimizer,) = trainer.optimizers
    names = {tensor: name for name, tensor in net.named_parameters()}
    state = {names[tensor]: dict(entries) for tensor, entries in optimizer.state.items()}
    lrs = {names[tensor]: group["lr"] for group in optimizer.param_groups for tensor in group["params"]}
    schedulers = [config.scheduler.state_dict()["_last_lr"] for config in trainer.lr_scheduler_configs]
    return weights(net), state, lrs, schedulers


@pytest.mark.slow
@examples(20)
@given(recipe=recipes, plan=plans(GROW))
def test_lrs_of_old_groups_stay_and_newborns_have_the_same_base(recipe, plan):
    """Law 5."""
    _, _, alone = train(recipe, [])
    net, _, grown = train(recipe, plan)
    assert len(alone) == len(grown) == EPOCHS * STEPS
    for before, now in zip(alone, grown, strict=True):
        base = {origin: lr for (_, origin), lr in before.items()}
        assert {key: base[key[1]] for key in now} == now
    assert {origin for row in grown for _, origin in row} == {origin for row in alone for _, origin in row}
    for one in net.growth_log:
        assert not set(one.born) & set(one.removed)


class FailingPlan(Plan):
    """Every growth fails, and leaves the run unchanged."""

    def act(self, trainer, pl_module, one):
        before, kept = everything(trainer, pl_module), weights(pl_module)
        with pytest.raises((OSError, ValueError), match=r"out of luck|no optimizer holds 'nobody'"):
            getattr(pl_module, one.method)(at=one.at, by=one.by)
        assert everything(trainer, pl_module) == before
        assert_same(weights(pl_module), kept)


def everything(trainer, net):
    """The identities of all objects that growth could change; the objects stay alive in between."""
    (optimizer,) = trainer.optimizers
    parts = [part for config in trainer.lr_scheduler_configs for part in reachable([config.scheduler])]
    return {
        "modules": [(id(part), name, type(part), part.extra_repr()) for name, part in net.named_modules()],
        "attributes": [sorted(vars(part).keys()) for part in net.modules()],
        "tensors": [(id(one), name, one.shape, one.requires_grad) for name, one in net.named_parameters()],
        "buffers": [(id(one), name) for name, one in net.named_buffers()],
        "log": net.growth_log,
        "components": dict(net.components),
        "groups": [(id(group), {**group, "params": [*map(id, group["params"])]}) for group in optimizer.param_groups],
        "state": [(id(one), [*map(id, entries.values())]) for one, entries in optimizer.state.items()],
        "group_infos": dict(table_of(optimizer).groups.group_infos),
        "schedulers": [{key: copy.copy(value) for key, value in attributes_of(part).items()} for part in parts],
        "users": [
            (id(group), {**group, "params": [*map(id, group["params"])]}) for group in table_of(optimizer).groups.user
        ],
    }


@pytest.mark.slow
@examples(15)
@given(
    recipe=recipes.filter(lambda recipe: recipe.norm != "layer"),  # which is not widened
    grown=plans(GROW, most=2),
    failing=plans(FAIL, most=3),
)
def test_a_failed_growth_leaves_no_trace(recipe, grown, failing):
    """Rollback restores the same objects; the run then equals one without the attempt."""

    class Both(FailingPlan):
        def act(self, trainer, pl_module, one):
            (super().act if one.method in FAIL else super(FailingPlan, self).act)(trainer, pl_module, one)

    def isolated(run_plan):  # what failed has drawn random numbers: the order of the data must not depend on them
        return train(recipe, run_plan, shuffle=False)

    failing = [one._replace(epoch=EPOCHS - 2) for one in failing]
    grown = [one._replace(epoch=min(one.epoch, EPOCHS - 3)) for one in grown]
    for one, other in zip(results(isolated(grown)), results(isolated(Both([*grown, *failing]))), strict=True):
        assert_same(one, other)


@examples(30)
@given(recipe=recipes, plan=plans(GROW, most=6), walk=st.lists(st.integers(0, 6), max_size=5))
def test_state_dicts_are_replayed(recipe, plan, walk):
    """They load into a fresh module, a copy and the module itself, at earlier and later stages of growth."""
    seed_everything(1, verbose=False)
    net = Living(recipe)
    x = torch.randn(5, 6)

    def look(module):
        module.eval()
        return dict(module.components), module.growth_log, weights(module), module(x).detach()

    states, seen = [copy.deepcopy(net.state_dict())], [look(net)]
    for one in plan:
        apply(net, one.method, one.at, one.by)
        states.append(copy.deepcopy(net.state_dict()))
        seen.append(look(net))
    fresh, numbers = Living(recipe), torch.get_rng_state()
    fresh.load_state_dict(states[-1])
    assert torch.equal(torch.get_rng_state(), numbers)
    assert_same(look(fresh), seen[-1])
    assert_same(look(copy.deepcopy(net)), seen[-1])
    for step in walk:
        for module in (net, fresh):
            module.load_state_dict(states[step % len(states)])
            assert_same(look(module), seen[step % len(states)])
            for tensor in module.parameters():
                assert tensor.requires_grad


# --------------------------------------------------------------------------------------- growth that keeps the function


class Plain(GrowthMixin, LightningModule):
    """Layers with ReLUs between them, perhaps with batch norms."""

    def __init__(self, widths, normed, conv):
        super().__init__()
        self.conv = conv
        layers = [layer for pair in zip([3, *widths], [*widths, 2], strict=True) for layer in self.layer(*pair, normed)]
        self.net = nn.Sequential(*layers[: -1 - normed])

    def layer(self, inputs, outputs, normed):
        first = nn.Conv1d(inputs, outputs, 3, padding=1) if self.conv else nn.Linear(inputs, outputs)
        return [first, *([nn.BatchNorm1d(outputs)] if normed else []), nn.ReLU()]

    def forward(self, x):
        return self.net(x)

    def places(self):
        return [at for at, layer in enumerate(self.net) if isinstance(layer, nn.Linear | nn.Conv1d)]

    @growth()
    def widen(self, index: int, by: int, scheme: str, rescale: bool):
        *inner, _ = places = self.places()
        at = inner[index % len(inner)]
        layer, reader = self.net[at], self.net[places[places.index(at) + 1]]
        norm = self.net[at + 1] if isinstance(self.net[at + 1], nn.BatchNorm1d) else None
        old = layer.out_channels if self.conv else layer.out_features
        widen(layer, reader, old + (2 * by if scheme == "pair" else by), norm, scheme=scheme, rescale=rescale)

    @growth()
    def deepen(self, index: int):
        rectified = [at for at, layer in enumerate(self.net) if isinstance(layer, nn.ReLU)]
        at = rectified[index % len(rectified)]
        before = self.net[max(place for place in self.places() if place < at)]
        self.net.insert(at + 1, identity_like(before))
        self.net.insert(at + 2, nn.ReLU())


@examples(60)
@given(
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    normed=st.booleans(),
    conv=st.booleans(),
    train_mode=st.booleans(),
    plan=st.lists(
        st.one_of(
            st.fixed_dictionaries(
                {
                    "index": st.integers(0, 5),
                    "by": st.integers(1, 3),
                    "scheme": st.sampled_from(["copy", "zero", "pair"]),
                    "rescale": st.booleans(),
                }
            ),
            st.fixed_dictionaries({"index": st.integers(0, 5)}),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_widening_and_identities_keep_the_function(widths, normed, conv, train_mode, plan):
    seed_everything(1, verbose=False)
    net = Plain(widths, normed, conv).double().train(train_mode)
    fresh = copy.deepcopy(net)
    x = torch.randn(6, 3, *([5] if conv else []), dtype=torch.float64)
    before = net(x)
    for arguments in plan:
        (net.widen if "by" in arguments else net.deepen)(**arguments)
        torch.testing.assert_close(net(x), before, rtol=1e-9, atol=1e-9)
    fresh.load_state_dict(net.state_dict())
    torch.testing.assert_close(fresh(x), before, rtol=1e-9, atol=1e-9)
