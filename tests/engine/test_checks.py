"""Bad input gets a clear error at the earliest moment, and nothing has changed by then."""

import io
import logging
import warnings

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import nn

from helpers import Net, Plain, example_factors, fit, weights
from structurenet_pl import (
    AgeDecay,
    Components,
    DepthDecay,
    GrowEvery,
    GrowthResponder,
    LRFactor,
    RoleLR,
    SedimentaryDecay,
    Warmup,
    explain,
    growth,
    recommended,
)


def unchanged_after(error, message, module, callbacks, **kwargs):
    before = weights(module)
    with pytest.raises(error, match=message):
        fit(module, callbacks, **kwargs)
    after = weights(module)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_lbfgs_takes_one_group_only():
    module = Plain(optimizer=lambda params: torch.optim.LBFGS(list(params)))
    unchanged_after(MisconfigurationException, "LBFGS takes one param group only.*such as SGD", module, [Warmup()])


def test_lbfgs_of_one_component_works():
    class OneLayer(Plain):
        def __init__(self):
            super().__init__(optimizer=lambda params: torch.optim.LBFGS(list(params), lr=0.5, max_iter=2))
            self.body, self.head = nn.Identity(), nn.Linear(6, 3)

    trainer = fit(OneLayer(), [Warmup(length=4, newborn_only=False)], epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5 * 3 / 4  # at the start of a third epoch


def test_optimizer_whose_lr_does_not_matter():
    with pytest.warns(UserWarning, match="Rprop was tried with two lrs and gave the same updates, so Warmup may have"):
        fit(Plain(optimizer=lambda params: torch.optim.Rprop(params)), [Warmup()], epochs=1)


def test_optimizer_whose_lr_does_not_matter_may_grow():
    fit(Net(optimizer=lambda params: torch.optim.Rprop(params)), [GrowEvery("add_neck", 1, limit=1)], epochs=2)


def test_shared_parameter_says_who_owns_it():
    class Tied(Plain):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 8)
            self.head.weight = self.body[3].weight

    with pytest.warns(UserWarning, match=r"component 'body.3' shares tensors with \['head.weight'\]: it owns them"):
        trainer = fit(Tied(), [Warmup()], epochs=1)
    assert [group["name"] for group in trainer.optimizers[0].param_groups] == ["body.0", "body.3", "body.4", "head"]


def test_pattern_that_matches_nothing_warns():
    with pytest.warns(UserWarning, match=r"\['encoder.\*'\] match no module or parameter.*\['body', 'head'\]"):
        fit(Plain(), [Components({"encoder.*": "pretrained", "head": "new"})], epochs=1)


def test_where_that_matches_nothing_warns():
    with pytest.warns(UserWarning, match=r"Warmup\(where='patch'\) acts on nothing"):
        fit(Plain(), [Warmup(where="patch")], epochs=1)


def test_patterns_for_the_unborn_do_not_warn_once_they_are_born():
    callbacks = [Warmup(where="neck"), Components({"patches.*": "patch"})]
    fit(Net(), [*callbacks, GrowEvery("add_neck", 1, limit=1), GrowEvery("add_patch", 1, limit=1, arguments={"at": 0})])


@pytest.mark.filterwarnings("ignore:Warmup")
def test_patterns_for_the_unborn_warn_at_the_end_if_they_stay_so():
    with pytest.warns(UserWarning, match=r"\['patches.\*'\] match no module or parameter"):
        fit(Net(), [Components({"patches.*": "patch"})], epochs=1)


def test_growth_method_that_is_none():
    unchanged_after(
        AttributeError,
        r"no growth method 'widen', expected one of \['add_neck', 'add_patch'\]",
        Net(),
        [GrowEvery("widen", 1)],
    )
    unchanged_after(
        AttributeError,
        "Plain has no growth method 'add_neck', nor any other: derive it from GrowableModule",
        Plain(),
        [GrowEvery("add_neck", 1)],
    )


@pytest.mark.parametrize("first", [1, 9])  # a patch that is gone at the end, or one that never came
def test_roles_of_growth_are_no_mistake(first):
    class Drops(Net):
        @growth()
        def drop_patch(self):
            del self.patches[0]

    add, drop = GrowEvery("add_patch", first, limit=1, arguments={"at": 1}), GrowEvery("drop_patch", 3, limit=1)
    factors = [SedimentaryDecay(roles={"patch": 0.1}), Warmup(where="patch"), GrowthResponder(roles={"patch": 0.5})]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* in this run|.*many workers|.*LeafSpec")
        fit(Drops(), [*factors, add, *([drop] if first == 1 else [])], epochs=4)


@pytest.mark.parametrize(("every", "unit"), [(3, "epoch"), (9, "step")])
def test_growth_that_is_due_after_the_run_is_told(caplog, every, unit):
    message = f"its first growth is due at {unit} {every}, and the run ended at {2 if unit == 'epoch' else 8}"
    with caplog.at_level(logging.INFO):
        fit(Net(), [GrowEvery("add_neck", every, unit)], epochs=2)
        assert message in caplog.text
        caplog.clear()
        fit(Net(), [GrowEvery("add_neck", every - 1, unit)], epochs=2)
        assert "is due at" not in caplog.text


def test_growth_method_of_a_class_that_cannot_grow():
    class Bare(Plain):
        @growth()
        def deeper(self):
            self.body.append(torch.nn.Linear(8, 8))

    unchanged_after(
        TypeError, "Bare.deeper is marked with @growth.*GrowthMixin first", Bare(), [GrowEvery("deeper", 1)]
    )


def test_growth_arguments_that_do_not_fit():
    unchanged_after(TypeError, "at", Net(), [GrowEvery("add_patch", 1)])


def test_newborn_that_fits_two_groups_names_the_way_out():
    class Two(Net):
        def configure_optimizers(self):
            early, late = list(self.body.parameters()), list(self.head.parameters())
            return torch.optim.SGD([{"params": early}, {"params": late}], lr=0.1)

    net = Two()
    with pytest.raises(ValueError, match=r"\['body.4', 'head'\] equally well.*like=|'body.3'.*like="):
        fit(net, [GrowEvery("add_neck", 1)])
    assert net.growth_log == ()


def test_five_callbacks_in_a_plain_module():
    trainer = fit(Plain(), example_factors(), epochs=4)
    assert [group["name"] for group in trainer.optimizers[0].param_groups] == [
        *("body.0", "body.0/1d", "body.3", "body.3/1d", "body.4/1d", "head", "head/1d")
    ]
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.0


def test_two_factors_that_go_by_the_same_thing_are_reported(caplog):
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, logger.name):
        trainer = fit(Plain(), [AgeDecay(per=2, unit="epoch"), SedimentaryDecay(where="body")], epochs=1)
    said = "AgeDecay and SedimentaryDecay both depend on the age: their product acts on body.0, body.3, body.4"
    assert f"structurenet_pl: {said}" in caplog.messages
    output = io.StringIO()
    explain(trainer, Console(file=output, width=100))
    assert said in output.getvalue()


def told(caplog, module, callbacks, **kwargs):
    """Our warnings and infos in a fit, in this order, without the list of components."""
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        fit(module, callbacks, **kwargs)
    infos = [message for message in caplog.messages if NEVER in message]
    return [str(one.message) for one in caught if "structurenet_pl" in one.filename], infos


NEVER = "has changed no learning rate in this run"


def test_factor_that_was_always_1_says_why(caplog):
    class Named(LRFactor):
        basis = "names"

        def factor(self, component, now):
            return {"body.0": 1.0, "body.3": 1.0, "body.4": 1.0, "head": 1.0}[component.name]  # fails for a newborn

    long = SedimentaryDecay([("a", 0, 1.0), ("b", 700, 0.1)], unit="step")
    callbacks = [DepthDecay(1.0), SedimentaryDecay(), long, Named(), Warmup(), GrowthResponder(), AgeDecay()]
    warned, informed = told(caplog, Plain(), callbacks, epochs=1)
    advice = "Check roles, patterns, durations and values, or remove it"
    assert warned == [
        "DepthDecay(gamma=1.0, slowest='input', where=None, layers=None) changes no learning rate in this run: its "
        "factor is 1 for each of the components body.0, body.3, body.4, head. Correct its roles, patterns or values, "
        "or remove it.",
        f"each of SedimentaryDecay_1, SedimentaryDecay_2 {NEVER}: the run was too short for it: it differs from 1 "
        "later on.",
        f"Named {NEVER}: its factor was 1 for every component at every step. {advice}.",
    ]
    assert informed == [
        f"each of Warmup, GrowthResponder, AgeDecay {NEVER}: nothing has grown, and it acts only after growth."
    ]


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (RoleLR({"pretrianed": 0.1}), "RoleLR looks for 'pretrianed' .* Did you mean 'pretrained'?"),
        (RoleLR({"pretrained": 0.1, "adaptor": 0.5}), "RoleLR looks for 'adaptor' .* body.0 .pretrained."),
        (DepthDecay(0.5, layers=["body.*", "haed"]), "DepthDecay looks for 'haed' .* Did you mean 'head'?"),
        (SedimentaryDecay(roles={"pach": 0.1}), "SedimentaryDecay looks for 'pach' and finds nothing"),
        (DepthDecay(where="pretraind"), "acts on nothing: 'pretraind' is neither .* Did you mean 'pretrained'?"),
    ],
)
def test_roles_and_patterns_that_match_nothing_are_told_at_the_start(factor, said):
    with pytest.warns(UserWarning, match=said):
        fit(Plain(), [Components({"body.*": "pretrained"}), factor], epochs=1)


def test_a_role_that_is_missing_says_what_to_add(caplog):
    factors = [DepthDecay(where="scaffold"), AgeDecay(where="scaffold"), Warmup()]
    warned, informed = told(caplog, Plain(), factors, epochs=1)
    assert warned == [
        "DepthDecay(where='scaffold'), AgeDecay(where='scaffold') act on nothing: 'scaffold' is neither the role nor a "
        "name pattern of any of the components body.0, body.3, body.4, head. If it is a role, give it to components, "
        """as in Components({"body.*": "scaffold"}); else correct it."""
    ]
    assert informed == [f"Warmup {NEVER}: nothing has grown, and it acts only after growth."]
    warned, _ = told(caplog, Plain(), [Components({"body.*": "scaffold"}), *factors], epochs=1)
    assert warned == []


def test_recommended_without_a_head_says_what_to_add(caplog):
    class Headless(Plain):
        def __init__(self):
            super().__init__()
            self.body.append(self.head)
            del self.head

        def forward(self, x):
            return self.body(x)

    warned, informed = told(caplog, Headless(), recommended(), epochs=1)
    assert warned == [
        "AgeDecay(where='!head') leaves nothing out: 'head' is neither the role nor a name pattern of any of the "
        "components body.0, body.3, body.4, body.5. If it is a role, give it to components, as in "
        """Components({"body.5": "head"}); else correct it."""
    ]
    assert informed == [f"AgeDecay {NEVER}: nothing has grown, and it acts only after growth."]
    warned, _ = told(caplog, Headless(), [Components({"body.5": "head"}), *recommended()], epochs=1)
    assert warned == []


def test_all_that_is_tied_is_told_once(caplog):
    class Tied(Plain):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.twin = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8))
            for layer, number in ((0, 0), (1, 3)):
                self.twin[layer].weight = self.body[number].weight

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.body, self.head)]

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.step()

    warned, _ = told(caplog, Tied(), [Warmup(newborn_only=False)], epochs=1)
    assert [message for message in warned if "shares" in message] == [
        "component 'body.0' shares tensors with ['twin.0.weight']; component 'body.3' shares tensors with "
        "['twin.1.weight']: it owns them, because it is defined first, and its lr is used for them"
    ]


def test_parameters_in_no_optimizer_are_reported(caplog):
    class Partial(Plain):
        def configure_optimizers(self):
            return torch.optim.SGD(self.body.parameters(), lr=0.1)

    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        fit(Partial(), [Warmup(newborn_only=False)], epochs=1)
    assert "structurenet_pl: in no optimizer, and so never trained: ['head.bias', 'head.weight']" in caplog.messages
