"""Freezing under DDP, two gloo processes: ranks stay equal to the last bit through freeze, growth and thaw."""

import pytest
import torch

import freezing_worker
from freezing_worker import NORMED, RESUMED, TRAINS
from helpers import assert_same
from rank_processes import assert_as_one_process, assert_equal_ranks, assert_resumed, largest_difference, run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("freezing")


@pytest.fixture(scope="module")
def ranks(folder):
    return run_ranks(freezing_worker, "first", folder)


@pytest.mark.parametrize("name", TRAINS)
def test_ranks_are_equal_to_the_last_bit(ranks, name):
    assert_equal_ranks(ranks, name)
    assert ranks[0][name]["log"], "it should have grown while something was frozen"


@pytest.mark.parametrize("name", TRAINS)
def test_equal_to_one_process_on_the_same_batches(ranks, name):
    assert_as_one_process(TRAINS[name], ranks[0][name])


def test_ranks_diverge_where_ddp_is_not_wrapped_again_at_the_thaw(ranks):
    assert largest_difference(*(rank["control"] for rank in ranks)) > 1e-3


@pytest.mark.parametrize("name", NORMED)
def test_norms_hold_the_statistics_of_their_rank(ranks, name):
    first, second = (rank[name] for rank in ranks)
    assert (first["error"], second["error"]) == (None, None)
    for rank in ranks:
        (before, _), (frozen, late), (still, later), (thawed, _) = rank[name]["statistics"]
        if name == "norms-apart" or rank is ranks[0]:  # else DDP gives it those of rank 0 in the next forward pass
            assert_same(before, frozen)
        assert_same(frozen, still)
        assert not torch.equal(still["running_mean"], thawed["running_mean"])
        assert not torch.equal(late["running_mean"], later["running_mean"])
    means = [rank[name]["statistics"][1][0]["running_mean"] for rank in ranks]
    assert torch.equal(*means) == (name == "norms")
    unequal = {key for key, value in first["weights"].items() if not torch.equal(value, second["weights"][key])}
    assert all("running" in key for key in unequal)


def test_ranks_that_freeze_different_components_raise_on_every_rank(ranks):
    for rank in ranks:
        with pytest.raises(
            AssertionError,
            match=r"at step 8 the learning rates differ.*rank 1 differs from rank 0 in 'the lr of body.0",
        ):
            raise AssertionError(rank["own"]["error"])


def test_a_thaw_takes_effect_where_growth_fails_at_that_moment(ranks):
    first, second = (rank["forgiven"] for rank in ranks)
    assert "no room" in first["error"]
    assert_same(first["weights"], second["weights"])


def test_resumed_in_new_processes_bit_for_bit(ranks, folder):
    assert_resumed(run_ranks(freezing_worker, "second", folder), ranks, RESUMED)


def test_one_process_under_ddp(folder):
    (found,) = run_ranks(freezing_worker, "alone", folder, world=1)
    for name, one in found.items():
        assert one["error"] is None
        assert_as_one_process(TRAINS[name], one)
