"""The numbers of the seed document, one row each."""

import pytest
import torch
from torch import nn

import references
from helpers import Net, fit
from structurenet_pl import (
    AgeDecay,
    Clock,
    Component,
    Components,
    DensityScaler,
    DepthDecay,
    GrowEvery,
    GrowthEvent,
    GrowthResponder,
    LARSScaler,
    LRFactor,
    Moment,
    Norms,
    ProgressiveFreeze,
    RoleLR,
    SedimentaryDecay,
    Warmup,
    explain,
    growth,
    recommended,
)

SCAFFOLD = tuple(Component(f"scaffold.{i}", "scaffold", i) for i in range(4))
EVENT = GrowthEvent("grow", {}, Clock(10, 1, 1), born=("grown",), adjacent=("near",))
GROWN, NEAR = Component("grown", "new", 3, Clock(10, 1, 1)), Component("near", "scaffold", 2)
FAR = Component("far", "x", 0)
AFTER = Moment(Clock(20, 2, 1), (EVENT,))


def at(epoch=0, **kwargs):
    return Moment(Clock(epoch=epoch), **kwargs)


def role(name):
    return Component(name, name)


ROWS = [
    # (what the seed says, factor, component, moment, lr at a base lr of 1e-3)
    *(
        (f"1: layer {i} of 4", DepthDecay(slowest="output"), layer, at(components=SCAFFOLD), 0.001 * 0.1 ** (i / 4))
        for i, layer in enumerate(SCAFFOLD)
    ),
    *(
        (f"1: mirrored, layer {i} of 4", DepthDecay(), layer, at(components=SCAFFOLD), 0.001 * 0.1 ** ((3 - i) / 4))
        for i, layer in enumerate(SCAFFOLD)
    ),
    ("2: scaffold", RoleLR(), role("scaffold"), at(), 0.0001),
    ("2: patches", RoleLR(), role("patch"), at(), 0.0005),
    *((f"3: age {a}", AgeDecay(), role("x"), Moment(Clock(generation=a)), 0.001 * 0.1**a) for a in range(4)),
    *((f"3: in epochs {a}", AgeDecay(unit="epoch"), role("x"), at(a), 0.001 * 0.1**a) for a in range(4)),
    ("4: scaffold", RoleLR({"scaffold": 1e-4}, base_lr=1e-3), role("scaffold"), at(), 0.0001),
    ("4: patches", RoleLR({"patch": 5e-4}, base_lr=1e-3), role("patch"), at(), 0.0005),
    ("4: neck", RoleLR(), role("neck"), at(), 0.001),
    ("4: new sparse layers", RoleLR(), role("new"), at(), 0.001),
    ("5: pretrained", RoleLR(), role("pretrained"), at(), 1e-5),
    ("5: new", RoleLR(), role("new"), at(), 1e-3),
    ("5: adapter", RoleLR(), role("adapter"), at(), 5e-4),
    ("6: scaffold after growth", GrowthResponder(roles={"scaffold": 0.5, "new": 1.0}), NEAR, AFTER, 0.0005),
    ("6: fresh lr for new", GrowthResponder(roles={"scaffold": 0.5, "new": 1.0}), GROWN, AFTER, 0.001),
    *(
        (f"7: epoch {epoch}", Warmup(5, newborn_only=False), role("x"), at(epoch), 0.001 * min(1, (epoch + 1) / 5))
        for epoch in range(8)
    ),
    (
        "8: norm ratio",
        LARSScaler(trust_coefficient=1.0),
        role("x"),
        at(norms=lambda component, skip_1d: Norms(3.0, 4.0, 0.0)),
        0.001 * (3.0 / (4.0 + 1e-8)),
    ),
    *(
        (f"9: {phase}, layer {i}", ProgressiveFreeze(), layer, at(epoch, components=SCAFFOLD), lr)
        for phase, epoch, lrs in [
            ("warmup", 0, [0.001] * 4),
            ("refinement", 10, [0.00001, 0.00001, 0.0001, 0.0001]),
            ("final", 30, [0, 0, 0, 0.0001]),
        ]
        for i, (layer, lr) in enumerate(zip(SCAFFOLD, lrs, strict=True))
    ),
    ("10: grown", GrowthResponder(), GROWN, AFTER, 0.0009),
    ("10: adjacent", GrowthResponder(), NEAR, AFTER, 0.0007),
    ("10: distant", GrowthResponder(), FAR, AFTER, 0.0005),
    ("11: under 2 %", DensityScaler(), role("x"), at(density=lambda component: 0.0199), 0.002),
    ("11: at 2 %", DensityScaler(), role("x"), at(density=lambda component: 0.02), 0.001),
    ("11: at 10 %", DensityScaler(), role("x"), at(density=lambda component: 0.1), 0.001),
    ("11: over 10 %", DensityScaler(), role("x"), at(density=lambda component: 0.1001), 0.0005),
    ("12: geological", SedimentaryDecay(), role("x"), at(100), 0.00001),
    ("12: sediment", SedimentaryDecay(), role("x"), at(20), 0.0001),
    ("12: active", SedimentaryDecay(), role("x"), at(0), 0.001),
    ("12: patches", SedimentaryDecay(), role("patch"), at(100), 0.0005),
]


@pytest.mark.parametrize(("factor", "component", "now", "lr"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_lr_equals_the_number_in_the_seed_document(factor, component, now, lr):
    assert 1e-3 * factor.applied(component, now) == pytest.approx(lr, rel=1e-15)  # one rounding


def test_every_strategy_has_a_row():
    assert {int(row[0].partition(":")[0]) for row in ROWS} == set(range(1, 13))


class Scaffolded(Net):
    """Grows a scaffold layer, a patch and a neck in the course of 60 epochs."""

    def __init__(self):
        super().__init__(optimizer=lambda params: torch.optim.SGD(params, lr=1e-3))

    @growth(role="scaffold")
    def deepen(self):
        self.body.append(nn.Linear(8, 8))


def test_the_combined_strategy_over_60_epochs_of_a_growing_network():
    seen = {}

    class Watch(GrowEvery):
        """Notes the lrs at the start of each epoch."""

        def on_train_epoch_start(self, trainer, pl_module):
            lrs = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
            seen[trainer.current_epoch] = lrs, dict(pl_module.components)

    growths = [GrowEvery("add_patch", 7, limit=1, arguments={"at": 1}), GrowEvery("deepen", 13, limit=2)]
    fit(Scaffolded(), [*recommended("seed"), *growths, Watch("add_neck", 31, limit=1)], epochs=60)
    assert len(seen) == 60
    for epoch, (lrs, components) in seen.items():
        scaffold = [name for name, component in components.items() if component.role == "scaffold"]
        assert len(scaffold) == 3 + (epoch >= 13) + (epoch >= 26)
        for name, component in components.items():
            index = scaffold.index(name) if name in scaffold else None
            expected = references.seed_combined(component.born.epoch, component.role, index, len(scaffold), epoch)
            assert lrs[name] == pytest.approx(expected, rel=1e-14)  # the order of a few multiplications
    assert {len(lrs) for lrs, _ in seen.values()} == {4, 5, 6, 7, 8}


def test_recommended_is_a_plain_list_of_fresh_factors():
    for form in ("seed", "evidence", "finetune"):
        one, other = recommended(form), recommended(form)
        assert isinstance(one, list)
        assert all(isinstance(factor, LRFactor) for factor in one)
        assert not set(map(id, one)) & set(map(id, other))


def test_recommended_by_default_slows_all_that_is_old_but_the_head():
    net = Net(optimizer=lambda params: torch.optim.SGD(params, lr=1e-3))
    trainer = fit(net, [*recommended(), GrowEvery("add_neck", 2, limit=2)], epochs=7)
    lrs = {rate.component.name: rate.lr for rate in explain(trainer)}
    assert lrs["head"] == 1e-3
    assert lrs["necks.1"] == 1e-3
    assert lrs["necks.0"] == 1e-3 * 0.4
    assert {lrs[name] for name in ("body.0", "body.3", "body.4")} == {1e-3 * 0.4**2}


def test_a_pretrained_body_has_its_own_lr():
    net = Net(optimizer=lambda params: torch.optim.SGD(params, lr=1e-3))
    roles = Components({"body.0": "pretrained", "body.3": "pretrained", "body.4": "adapter", "head": "new"})
    trainer = fit(net, [roles, RoleLR()], epochs=1)
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [1e-5, 1e-5, 5e-4, 1e-3]
    # what the callback says goes before what the module says
    assert [component.role for component in net.components.values()] == ["pretrained", "pretrained", "adapter", "new"]
