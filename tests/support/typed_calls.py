"""Calls that type checkers must accept, and those that they must reject: see the comments. Never run."""

from abc import ABC, abstractmethod

from lightning.pytorch import LightningModule
from torch import nn
from typing_extensions import assert_type

from structurenet_pl import GrowableModule, GrowEvery, GrowthMixin, RoleLR, Warmup, growth, preview


class Net(GrowableModule):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.ModuleList()

    @growth(role="patch", depth="at")
    def add_patch(self, at: int, width: int = 8) -> None:
        self.patches.append(nn.Linear(width, width))

    @growth()
    def decide(self, *, share: float) -> dict[str, float]:
        return {"share": share}


class Wider(Net):
    @growth(role="patch")
    def add_patch(self, at: int, width: int = 8, bias: bool = True) -> None:
        super().add_patch(at, width=width)
        super().add_patch(at, bias=bias)  # rejected: the method of the base has no such argument


class Incompatible(Net):
    @growth()
    def add_patch(self, at: str) -> None: ...  # rejected: not every call of the base is possible


class Abstract(GrowableModule, ABC):
    @growth()
    @abstractmethod
    def deepen(self, width: int) -> None: ...


class Mixed(GrowthMixin, LightningModule):
    @growth()
    def deepen(self, width: int) -> None:
        self.head = nn.Linear(width, width)


def calls(net: Net) -> None:
    net.add_patch(2)
    net.add_patch(at=2, width=3)
    net.add_patch("2")  # rejected
    net.add_patch()  # rejected
    net.add_patch(at=2, wide=3)  # rejected
    net.decide(share=0.5)
    net.decide(0.5)  # rejected: by keyword only
    net.decide(share="half")  # rejected
    net.deepen()  # rejected: no such growth method
    assert_type(net.decide(share=0.5), dict[str, float] | None)  # None: the growth waits for a safe moment
    Net.add_patch(net, 2)
    Net.add_patch(2)  # rejected
    Wider().add_patch(2, bias=False)
    Abstract()  # rejected
    Mixed().deepen(3)
    Mixed().deepen("3")  # rejected

    GrowEvery("add_patch", every=3, arguments={"at": 2})
    GrowEvery(Net.add_patch, every=3)  # rejected: its name is meant
    growth(role=3)  # rejected
    growth(lambda self: None)  # rejected: the parentheses are forgotten
    Warmup(3, where=["body", "head"])
    Warmup("3")  # rejected
    Warmup(unit="epochs")  # rejected
    RoleLR({"new": "fast"})  # rejected
    preview([Warmup(3)], epochs=9)
    preview([Warmup(3)], epochs="9")  # rejected
