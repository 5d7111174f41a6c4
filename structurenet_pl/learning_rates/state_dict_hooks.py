"""The state dict of an optimizer holds the user's groups and base lrs, as without this package."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from structurenet_pl.learning_rates.base_lrs import BaseLRs
from structurenet_pl.optim.group_checkpoints import install_loaded_groups, state_with_pieces, state_with_user_groups
from structurenet_pl.optim.param_groups import Group, copy_if_mutable
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.optim.wrappers import hookable_optimizers


class StateDictHooks:
    """Has ``state_dict`` and ``load_state_dict`` of an optimizer speak of the user's groups instead of the pieces.

    A setting that somebody has written to a single piece has no place in the user's groups. A checkpoint holds these
    settings beside the state dict.

    Args:
        groups: The pieces and the user's groups.
        base_lrs: The base lrs of the pieces.
        before_save: Is called before a state dict is made, to bring pieces and user's groups in line.
        after_load: Is called when a state dict has been loaded, to write effective lrs to the pieces.
    """

    def __init__(
        self,
        groups: SplitGroups,
        base_lrs: BaseLRs,
        before_save: Callable[[], None],
        after_load: Callable[[], None],
    ) -> None:
        self._groups = groups
        self._base_lrs = base_lrs
        self._before_save = before_save
        self._after_load = after_load
        self._expected: Mapping[str, Mapping[str, Any]] = {}
        self._loading: list[Group] = []
        self._handles = []
        for optimizer in hookable_optimizers(groups.optimizer):
            self._handles.append(optimizer.register_state_dict_post_hook(self._join_groups))
            self._handles.append(optimizer.register_load_state_dict_pre_hook(self._split_groups))
            self._handles.append(optimizer.register_load_state_dict_post_hook(self._keep_objects))

    def remove(self) -> None:
        """Let the optimizer save and load the groups that it holds."""
        for handle in self._handles:
            handle.remove()

    def settings_of_single_pieces(self) -> dict[str, Group]:
        """The settings and base lrs that were written to single pieces, by name of the piece."""
        settings = self._groups.settings.settings_of_single_pieces()
        for name, lr in self._base_lrs.of_single_pieces.items():
            settings[name] = settings.get(name, {}) | {"lr": copy_if_mutable(lr)}
        return settings

    def expect_piece_settings(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Give single pieces settings of their own when the next state dict is loaded.

        Args:
            settings: The result of ``settings_of_single_pieces``, from a checkpoint.
        """
        self._expected = settings

    def _join_groups(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        self._before_save()
        return state_with_user_groups(self._groups, optimizer, state)

    def _split_groups(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        self._loading = state["param_groups"]
        return state_with_pieces(self._groups, optimizer, state, self._expected)

    def _keep_objects(self, optimizer: Optimizer) -> None:
        # torch has put new dicts into the optimizer, but schedulers hold on to the dicts from before
        install_loaded_groups(self._groups, optimizer, self._loading)
        self._base_lrs.of_single_pieces = {
            name: copy_if_mutable(values["lr"]) for name, values in self._expected.items() if "lr" in values
        }
        self._base_lrs.record_user_lrs()
        self._expected, self._loading = {}, []
        self._after_load()
