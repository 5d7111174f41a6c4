"""Plain modules of every shape: which components are found, and that they train at their rates."""

import logging

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from helpers import Half, LRTrace, Plain, assert_same, fit, loader, unfelt, weights
from structurenet_pl import LARSScaler, RoleLR


class Residual(nn.Module):
    """A block as in torchvision's ResNet."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width)
        self.conv2, self.bn2 = nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width)
        self.shortcut = nn.Sequential(nn.Conv1d(width, width, 1), nn.BatchNorm1d(width))

    def forward(self, x):
        return self.shortcut(x) + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


class ResNet(nn.Module):
    """Stem, stages of blocks, and a classifier, named as in torchvision."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.layer1 = nn.Sequential(Residual(4), Residual(4))
        self.layer2 = nn.Sequential(Residual(4), Residual(4))
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(self.bn1(self.conv1(x[:, None])))).mean(2))


class Attention(nn.Module):
    """A layer as in transformers: no container inside, however many tensors there are."""

    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        scores = self.query(x) @ self.key(x).mT
        return self.norm(x + scores.softmax(-1) @ self.value(x))


class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.ModuleList(Attention(width) for _ in range(3))

    def forward(self, x):
        for layer in self.layer:
            x = layer(x)
        return x


class Bert(nn.Module):
    """Named as in transformers' BertModel."""

    def __init__(self, width=4):
        super().__init__()
        self.embeddings = nn.Linear(1, width)
        self.encoder = Encoder(width)
        self.pooler = nn.Linear(width, width)

    def forward(self, x):
        return self.pooler(self.encoder(self.embeddings(x[..., None])).mean(1))


class Shape(Plain):
    """A module whose network is all that it computes."""

    def __init__(self, **parts):
        super().__init__(optimizer=lambda params: torch.optim.SGD(list(params), lr=0.1))
        del self.body, self.head
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


class Scaled(Shape):
    """Parameters directly on the module, and in a ParameterList."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.shifts = nn.ParameterList(torch.zeros(6) for _ in range(3))
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(x * self.scale + sum(self.shifts))


class Tied(Shape):
    """A decoder that shares its weight with the encoder, as language models do."""

    def __init__(self):
        super().__init__(embed=nn.Linear(6, 6), norm=nn.LayerNorm(6), decode=nn.Linear(6, 6), fc=nn.Linear(6, 3))
        self.decode.weight = self.embed.weight


class Frozen(Shape):
    """A part that the project has frozen and yet hands to the optimizer."""

    def __init__(self):
        super().__init__(backbone=nn.Linear(6, 6), fc=nn.Linear(6, 3))
        self.backbone.requires_grad_(False)


BLOCKS = ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
LAYERS = ["encoder.layer.0", "encoder.layer.1", "encoder.layer.2"]
SHAPES = {
    "resnet": (lambda: Shape(model=ResNet()), [f"model.{name}" for name in ("conv1", "bn1", *BLOCKS, "fc")]),
    "resnet and head": (
        lambda: Shape(backbone=ResNet(), head=nn.Linear(3, 3)),
        [*(f"backbone.{name}" for name in ("conv1", "bn1", *BLOCKS, "fc")), "head"],
    ),
    "bert": (
        lambda: Shape(bert=Bert(), classifier=nn.Linear(4, 3)),
        [*(f"bert.{name}" for name in ("embeddings", *LAYERS, "pooler")), "classifier"],
    ),
    "lightning in lightning": (
        lambda: Shape(inner=Shape(bert=Bert()), fc=nn.Linear(4, 3)),
        [*(f"inner.bert.{name}" for name in ("embeddings", *LAYERS, "pooler")), "fc"],
    ),
    "compiled": (
        lambda: Shape(net=torch.compile(Bert(), backend="eager"), fc=nn.Linear(4, 3)),
        [*(f"net._orig_mod.{name}" for name in ("embeddings", *LAYERS, "pooler")), "fc"],
    ),
    "a list of models": (
        lambda: Shape(models=nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 3))),
        ["models.0", "models.1"],
    ),
    "one model in a list": (lambda: Shape(models=nn.Sequential(nn.Linear(6, 3))), ["models.0"]),
    "attention heads": (
        lambda: Shape(attention=Heads(), fc=nn.Linear(6, 3)),
        ["attention", "fc"],
    ),
    "own parameters": (Scaled, ["self", "shifts", "fc"]),
    "tied": (Tied, ["embed", "norm", "decode", "fc"]),
    "frozen": (Frozen, ["backbone", "fc"]),
    "lazy": (lambda: Shape(stem=nn.LazyLinear(8), fc=nn.LazyLinear(3)), ["stem", "fc"]),
}


class Heads(nn.Module):
    """Several layers of one class beside each other are heads of one part, not blocks."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        return sum(head(x) for head in self.heads)


@pytest.mark.filterwarnings("ignore:component 'embed' shares tensors with", "ignore:.*Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:The total number of parameters detected may be inaccurate")
@pytest.mark.parametrize("shape", SHAPES)
def test_components_of_a_shape_train_at_their_rates(shape, caplog):
    make, expected = SHAPES[shape]

    def train(callbacks):
        torch.manual_seed(0)
        module = make()
        fit(module, callbacks, epochs=2, data=loader(shuffle=False))
        return module

    alone = weights(train([]))
    assert_same(weights(train(unfelt())), alone)
    trace = LRTrace()
    with caplog.at_level(logging.INFO):
        halved = weights(train([Half(), trace]))
    assert not all(torch.equal(halved[name], alone[name]) for name in alone)
    assert list(trace.rows[0]) == expected
    assert set(trace.rows[0].values()) == {0.05}
    assert f"{len(expected)} components, in order of depth: {expected[0]}, " in caplog.text or len(expected) == 1


def test_many_components_are_told_in_one_line(caplog):
    deep = Shape(body=nn.Sequential(*(nn.Linear(6, 6) for _ in range(40))), fc=nn.Linear(6, 3))
    with caplog.at_level(logging.INFO):
        fit(deep, [Half()], epochs=1)
    (told,) = [record.message for record in caplog.records if "components, in order" in record.message]
    assert told == (
        "structurenet_pl: 41 components, in order of depth: "
        + ", ".join(f"body.{index}" for index in range(8))
        + ", 32 more, fc"
    )


@pytest.mark.filterwarnings("ignore:.*Lazy modules are a new feature")
def test_lazy_tensors_and_groups_by_dimension_are_refused():
    lazy = Shape(stem=nn.LazyLinear(8), fc=nn.LazyLinear(3))
    with pytest.raises(MisconfigurationException, match=r"stem\.weight.*no shape yet.*one batch through"):
        fit(lazy, [LARSScaler()], epochs=1)
    fit(lazy, [LARSScaler(skip_1d=False), RoleLR({"nobody": 1.0})], epochs=1)
