"""Compositions that are worth a name."""

from typing import Literal

from structurenet_pl.callbacks.age_decay import AgeDecay
from structurenet_pl.callbacks.depth_decay import DepthDecay
from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.callbacks.role_lr import RoleLR
from structurenet_pl.callbacks.warmup import Warmup


def recommended(form: Literal["evidence", "seed"] = "evidence") -> list[LRFactor]:
    r"""A composition of factors, as a list to hand to ``Trainer(callbacks=...)`` as it is or edited.

    - ``"evidence"``: a composition of ours. The scaffold slows down with each growth event and towards the input,
      everything newborn warms up, and the head stays active:
      ``DepthDecay(where="scaffold")``, ``AgeDecay(floor=0.01, where="scaffold")``, ``Warmup()``.
      Our second pilot does not support it: at a base lr tuned for uniform training, final accuracy was .001 to .043
      lower in seven of eight settings; old weights moved .6 to .9 times as far.
    - ``"seed"``: the seed document's combined strategy as written, in which the earliest scaffold layer is the fastest:

      .. math:: f = 0.1^{\lfloor a / 20 \rfloor} \cdot 0.1^{i / n}

      for scaffold layer :math:`i` of :math:`n` at age :math:`a` in epochs, 0.5 for patches, and a warm-up over 5 epochs
      for what is newborn. A component's age is its own, where the seed has one epoch for all; a newborn patch has both
      factors.

    Roles come from ``configure_components``, from ``@growth(role=...)`` or from a ``Components`` callback.

    Args:
        form: ``"evidence"`` or ``"seed"``.

    Raises:
        ValueError: If ``form`` is neither.

    Example:
        >>> from structurenet_pl import recommended
        >>> [type(factor).__name__ for factor in recommended("seed")]
        ['DepthDecay', 'AgeDecay', 'RoleLR', 'Warmup']
    """
    if form == "evidence":
        return [DepthDecay(where="scaffold"), AgeDecay(floor=0.01, where="scaffold"), Warmup()]
    if form == "seed":
        return [
            DepthDecay(slowest="output", where="scaffold"),
            AgeDecay(per=20, unit="epoch", where="scaffold"),
            RoleLR({"patch": 0.5}),
            Warmup(),
        ]
    raise ValueError(f"form must be 'evidence' or 'seed', got {form!r}")
