"""Settings of groups and pieces: the comparison that each step makes misses no write."""

import numpy as np
import pytest
import torch

from structurenet_pl.optim.group_settings import GroupSettings


def split(**settings):
    """Two of the user's groups with two pieces each, and what keeps them equal."""
    groups = [{"params": [], "lr": 0.1, **settings} for _ in range(2)]
    pieces = [[{**group, "name": f"{number}.{part}"} for part in range(2)] for number, group in enumerate(groups)]
    kept = GroupSettings(lambda: zip(groups, pieces, strict=True))
    kept.mark_passed_on()
    kept.collect()
    return kept, groups, pieces


@pytest.mark.parametrize("origin", [0, 1])
@pytest.mark.parametrize(
    ("eps", "write"),
    [
        (1.0, lambda group: group.update(decay=0.5)),
        (1.0, lambda group: group.update(more=1.0)),
        (1.0, lambda group: (group.pop("eps"), group.update(other=1.0))),
        (np.array([1.0, 1.0]), lambda group: group.update(eps=np.array([1.0, 2.0]))),
        (torch.tensor(0.9), lambda group: group["eps"].fill_(0.5)),
    ],
    ids=["another value", "a new key", "another key", "an array", "in place"],
)
def test_a_write_to_any_of_the_users_groups_reaches_its_pieces(origin, eps, write):
    kept, groups, pieces = split(decay=0.0, eps=eps)
    write(groups[origin])
    kept.collect()
    for piece in pieces[origin]:
        assert all(np.array_equal(piece[key], value) for key, value in groups[origin].items())
    assert all("more" not in piece and piece["decay"] == 0 for piece in pieces[1 - origin])


@pytest.mark.parametrize("origin", [0, 1])
def test_a_write_to_all_pieces_of_a_group_reaches_the_group_and_one_to_a_single_piece_does_not(origin):
    kept, groups, pieces = split(decay=0.0)
    for piece in pieces[origin]:
        piece["decay"] = 0.5
    pieces[1 - origin][0]["decay"] = 0.7
    for _ in range(2):
        kept.collect()
        assert (groups[origin]["decay"], groups[1 - origin]["decay"]) == (0.5, 0.0)
        assert kept.settings_of_single_pieces() == {f"{1 - origin}.0": {"decay": 0.7}}


def test_groups_without_settings_are_no_exception():
    kept, groups, pieces = split()
    kept.collect()
    groups[1]["decay"] = 0.5
    kept.collect()
    assert [piece.get("decay") for of_group in pieces for piece in of_group] == [None, None, 0.5, 0.5]


def test_a_loop_of_a_scheduler_writes_settings_at_once():
    kept, groups, pieces = split(momentum=0.9)
    for group in groups:
        group["momentum"] = 0.8
    kept.pass_on_from_loop()
    assert {piece["momentum"] for of_group in pieces for piece in of_group} == {0.8}
