"""The recipes in `structurenet_pl.recipes` equal their originals; their code is taken from the page."""

import copy
import importlib.util
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import references
import structurenet_pl
from helpers import assert_same, fit, weights
from pretrained import (
    Adapted,
    Classifier,
    Layers,
    VisionTransformer,
    batches,
    lrs_by_parameter,
    seeded,
    train_plainly,
)
from recorders import UsedLRs
from structurenet_pl import Components, DepthDecay, GrowEvery, GrowthMixin, RoleLR, growth, recipes, recommended, widen

FREEZE_OUT = Path(__file__).parents[2] / "examples" / "recipes" / "freeze_out.py"
SECTIONS = [section.partition("\n") for section in recipes.__doc__.split("\n## ")[1:]]
RECIPES = {title: code for title, _, text in SECTIONS for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)}
LR = 0.1
momentum = partial(torch.optim.SGD, lr=LR, momentum=0.9)


def recipe(start, **names):
    """What the code of a recipe defines; ``start`` is the start of its title."""
    (title,) = [title for title in RECIPES if title.startswith(start)]
    names = {name: getattr(structurenet_pl, name) for name in structurenet_pl.__all__} | {"math": math} | names
    exec(RECIPES[title], names)
    return names


def test_recipes_are_short():
    lines = {title: len([line for line in code.splitlines() if line]) for title, code in RECIPES.items()}
    assert len(lines) == recipes.__doc__.count("```python") == 8
    assert lines.pop("gromo decides what and where, this package how fast") <= 25
    assert max(lines.values()) <= 10


@pytest.mark.parametrize(("origin", "norm"), [("beit", 5), ("timm", 4)])
def test_decay_by_layer(origin, norm):
    module = VisionTransformer()
    trainer = fit(module, [recipe("Decay by layer")[origin]], epochs=1, data=batches())
    factors = {name: references.layer_decay(name, 4, 0.75, norm) for name, _ in module.named_parameters()}
    param_groups = references.timm_layer_decay()
    if origin == "timm" and param_groups:
        groups = param_groups(module, layer_decay=0.75)
        of_timm = [{"params": group["params"], "lr": group["lr_scale"]} for group in groups]
        assert factors == lrs_by_parameter(module, torch.optim.SGD(of_timm))
    assert lrs_by_parameter(module, trainer.optimizers[0]) == {name: LR * factors[name] for name in factors}


def test_discriminative_rates_and_gradual_unfreezing():
    names = recipe("Discriminative")
    ours = seeded(Layers, momentum)
    fit(ours, [names["discriminative"], names["gradual"]], epochs=5, data=batches())
    plain = seeded(Layers)
    parts = [*plain.layers, plain.head]
    groups = [{"params": part.parameters(), "lr": LR * (1 / 2.6) ** (3 - depth)} for depth, part in enumerate(parts)]

    def unfreeze(epoch):
        for depth, part in enumerate(parts):
            part.requires_grad_(depth >= 3 - epoch)

    assert_same(weights(ours), train_plainly(plain, momentum(groups), 5, unfreeze))


def test_slice_of_fastai():
    module = Layers()
    trainer = fit(module, [DepthDecay(0.01 ** (1 / 3), layers="*")], epochs=1, data=batches())
    lrs = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert lrs == pytest.approx(np.geomspace(LR / 100, LR, 4).tolist(), rel=1e-12)  # roundings of a cubic root


def test_head_first():
    ours = seeded(Layers, momentum)
    fit(ours, [recipe("The head first")["head_first"]], epochs=7, data=batches())
    plain = seeded(Layers)

    def unfreeze(epoch):
        plain.layers.requires_grad_(epoch >= 5)

    assert_same(weights(ours), train_plainly(plain, momentum(plain.parameters()), 7, unfreeze))


def test_lora_plus():
    names = recipe("LoRA+")
    adam = partial(torch.optim.AdamW, lr=LR, weight_decay=0.0)
    ours = seeded(Adapted, adam)
    fit(ours, [names["roles"], names["ratio"]], epochs=3, data=batches())
    plain = seeded(Adapted)
    assert_same(weights(ours), train_plainly(plain, adam(references.loraplus_groups(plain, LR, 16)), 3))


@pytest.fixture(scope="module")
def freeze_out():
    spec = importlib.util.spec_from_file_location("freeze_out", FREEZE_OUT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FreezeOut


@pytest.mark.parametrize(("how", "power"), [("linear", 1), ("squared", 2), ("cubic", 3)])
@pytest.mark.parametrize("scale_lr", [True, False])
def test_freeze_out(freeze_out, how, power, scale_lr):
    steps, used = 20, UsedLRs()
    fit(Layers(), [freeze_out(steps, 0.5, how, scale_lr), used], epochs=5, data=batches())
    for step, lrs in used.lrs.items():
        for depth, lr in enumerate(lrs.values()):
            end = (0.5 + 0.5 * depth / 3) ** power
            share = step / (end * steps)
            annealed = 0.5 * (1 + math.cos(math.pi * share)) / (end if scale_lr else 1) if share < 1 else 0.0
            assert lr == pytest.approx(LR * annealed, rel=1e-12)  # the order of a few multiplications
    assert len(used.lrs) == steps


@pytest.mark.parametrize("arguments", [(0,), (9, 0.0), (9, 1.5)])
def test_freeze_out_checks_its_arguments(freeze_out, arguments):
    with pytest.raises(ValueError, match="expected steps >= 1 and t_0 in"):
        freeze_out(*arguments)


@pytest.mark.parametrize(("how", "power"), [("squared", 2), ("cubic", 3)])
def test_freeze_out_estimates_the_saving(freeze_out, how, power):
    costs, saving = references.freeze_out_saving(growth=12, blocks=16, t_0=0.8, power=power)
    # the last entry stands for the classifier, which is trained to the end and costs nothing there
    assert freeze_out(100, 0.8, how).speedup([*costs, 0.0]) == pytest.approx(saving, rel=1e-12)  # the order of a sum


def test_auto_rgn():
    used = UsedLRs()
    ours = seeded(Layers, momentum)
    factor = recipe("Auto-RGN")["AutoRGN"]()
    fit(ours, [factor, used], epochs=3, data=batches(torch.float64), precision="64-true")
    plain = seeded(Layers).double()
    parts = [*plain.layers, plain.head]
    optimizer = momentum([{"params": part.parameters()} for part in parts])

    def set_lrs():
        ratios = []
        for part in parts:
            grads = torch.cat([weight.grad.flatten() for weight in part.parameters()])
            ratios.append(grads.norm() / torch.cat([weight.flatten() for weight in part.parameters()]).norm())
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = LR * (ratio / max(ratios)).item()

    expected = train_plainly(plain, optimizer, 3, before_step=set_lrs)
    for name, weight in weights(ours).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-9, atol=1e-12)  # norms are summed in another order


class Widening(GrowthMixin, Classifier):
    """A hidden matrix of 4 x 4 that becomes 4 x 8, then 4 x 12."""

    def __init__(self):
        super().__init__(partial(torch.optim.Adam, lr=LR))
        self.stem, self.hidden, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    @growth()
    def wider(self):
        widen(self.stem, self.hidden, self.stem.out_features + 4, noise=0.1)

    def forward(self, x):
        return self.head(self.hidden(self.stem(x).relu()).relu())


def test_mup_follows_the_width():
    used = UsedLRs()
    callbacks = [Components({"hidden": "hidden"}), recipe("muP")["MuAdam"](base_width=2), used]
    module = Widening()
    fit(module, [*callbacks, GrowEvery("wider", 1, limit=2)], epochs=3, data=batches())
    for step, fan_in in ((0, 4), (4, 8), (8, 12)):
        lrs = used.lrs[step]
        matrices = {name for name, lr in lrs.items() if lr != LR}
        assert {lrs[name] for name in matrices} == {LR * (2 / fan_in)}
        assert len(lrs) - len(matrices) >= 3  # stem, head, and the bias of the hidden layer
    assert module.components["hidden"].shapes == ((4, 12), (4,))


def test_shapes_of_copies_and_of_loaded_networks():
    module = Widening()
    module.wider()
    loaded = Widening()
    loaded.load_state_dict(module.state_dict())
    shapes = {name: component.shapes for name, component in module.components.items()}
    assert shapes == {"stem": ((8, 6), (8,)), "hidden": ((4, 8), (4,)), "head": ((3, 4), (3,))}
    for other in (loaded, copy.deepcopy(module)):
        assert {name: component.shapes for name, component in other.components.items()} == shapes


class Pretrained(Classifier):
    """A frozen body whose weights are always at hand, and adapters that a growth method adds."""

    def __init__(self):
        super().__init__(partial(torch.optim.Adam, lr=LR))
        self.body = seeded(nn.Linear, 6, 6).requires_grad_(False)
        self.adapters = nn.ModuleList()
        self.head = nn.Linear(6, 3)

    @growth(role="adapter")
    def add_adapter(self):
        self.adapters.append(nn.Linear(6, 6))

    def forward(self, x):
        x = self.body(x)
        return self.head(sum((adapter(x) for adapter in self.adapters), x))


@pytest.mark.filterwarnings("ignore:Found keys that are in the model state dict but not in the checkpoint")  # the body
def test_checkpoints_with_adapters_only(tmp_path):
    module = recipe("Checkpoints with adapters", Pretrained=Pretrained)["AdaptersOnly"]
    callbacks = [GrowEvery("add_adapter", 1, limit=2), RoleLR({"adapter": 0.5})]
    torch.manual_seed(0)
    whole = module()
    fit(whole, copy.deepcopy(callbacks), epochs=4, data=batches())
    torch.manual_seed(0)
    trainer = fit(module(), copy.deepcopy(callbacks), epochs=2, data=batches())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]
    assert {name.partition(".")[0] for name in saved} == {"growth_log", "adapters", "head"}
    resumed = module()
    fit(resumed, copy.deepcopy(callbacks), epochs=4, data=batches(), ckpt_path=tmp_path / "half.ckpt")
    loaded = module.load_from_checkpoint(tmp_path / "half.ckpt")
    assert set(saved) - {"growth_log"} == {name for name, weight in loaded.named_parameters() if weight.requires_grad}
    assert_same(dict(resumed.named_parameters()), dict(whole.named_parameters()))


def test_recommended_for_fine_tuning():
    module = Layers()
    trainer = fit(module, [Components({"layers.*": "pretrained"}), *recommended("finetune")], epochs=1, data=batches())
    lrs = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert lrs == pytest.approx([LR * 0.1 * 0.75**2, LR * 0.1 * 0.75, LR * 0.1, LR], rel=1e-15)  # one rounding
