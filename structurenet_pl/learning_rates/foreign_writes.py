"""What is said when somebody else writes lrs: once for each optimizer."""

from collections.abc import Sequence

from structurenet_pl.lightning import rank_zero_warn
from structurenet_pl.optim.param_groups import Group


class ForeignWrites:
    """Warnings about lrs of param groups that somebody else has set."""

    def __init__(self) -> None:
        self.told = False

    def look(self, written: Sequence[Group], acted_on: Sequence[Group], groups: Sequence[Sequence[Group]]) -> None:
        """Say if a write is likely to be meant otherwise.

        Args:
            written: The pieces whose lr was written.
            acted_on: Those among them with a factor that is not 1.
            groups: The pieces of each of the user's groups.
        """
        pieces = [piece["name"] for some in groups for piece in some]
        names = [piece["name"] for piece in written]
        first, rest = pieces[: len(groups)], [name for name in pieces if name not in names]
        in_part = any(0 < sum(piece["name"] in names for piece in some) < len(some) for some in groups)
        if in_part and set(names) <= set(first):
            self._say(
                f"the lr of {', '.join(map(repr, names))} was set from outside, but not that of {rest}: your "
                f"{len(groups)} param group(s) are split by component. If they were meant as a whole, write to all of "
                "optimizer.param_groups, or to the groups that you made, which stay alive."
            )
        elif acted_on:
            self._say(
                f"the lr of param group {acted_on[0]['name']!r} was set to {float(acted_on[0]['lr']):g} from outside. "
                "It is taken as the new base lr, and the factors multiply it. If it was meant to change what stood "
                "there (`group['lr'] *= ...`), write an LRFactor instead."
            )

    def in_step(self, piece: Group, optimizer: str) -> None:
        """Say that an lr was written between the last refresh and the update.

        Args:
            piece: A piece whose lr was written.
            optimizer: The class that made the update.
        """
        self._say(
            f"the lr of param group {piece['name']!r} was written during the step, after the factors had been applied, "
            f"so they had no effect: by {optimizer}.step() itself, or by on_before_optimizer_step or "
            "configure_gradient_clipping of the module. Write it in optimizer_step or on_train_batch_start of the "
            "module, or in an LR scheduler."
        )

    def _say(self, message: str) -> None:
        if not self.told:
            self.told = True
            rank_zero_warn(message)
