"""Growth under FSDP2, two gloo processes: as on one process, or all ranks say why not."""

import pytest

import sharded_worker
from ddp_worker import SAYS
from helpers import assert_same
from rank_processes import assert_as_one_process, largest_difference, run_ranks
from sharded_worker import FAILS, TRAINS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_ranks(sharded_worker, "growth", tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("name", TRAINS)
def test_ranks_are_equal_to_the_last_bit(ranks, name):
    first, second = (rank[name] for rank in ranks)
    assert (first["error"], second["error"]) == (None, None)
    for part in ("weights", "optimizer", "log"):
        assert_same(first[part], second[part])


@pytest.mark.parametrize("name", [name for name in TRAINS if name != "itself"])
def test_equal_to_one_process_on_the_same_batches(ranks, name):
    assert_as_one_process(TRAINS[name], ranks[0][name])


def test_ranks_diverge_where_new_parameters_are_not_divided(ranks):
    assert largest_difference(*(rank["control"] for rank in ranks)) > 1e-3


@pytest.mark.parametrize("name", FAILS)
def test_every_rank_raises_and_none_has_grown(ranks, name):
    for rank in ranks:
        with pytest.raises(AssertionError, match=SAYS[name]):
            raise AssertionError(rank[name]["error"])
        assert rank[name]["log"] == []
        assert not any("patches" in tensor or "necks" in tensor for tensor in rank[name]["weights"])


@pytest.mark.parametrize("name", ["forgiven", "forgiven-shuffled"])
def test_training_goes_on_after_a_growth_that_failed_on_one_rank(ranks, name):
    for rank in ranks:
        assert "undone on every rank" in ranks[0][name]["error"]
        assert_same(rank[name]["weights"], ranks[0]["never"]["weights"])
