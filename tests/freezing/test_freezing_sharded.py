"""Freezing under FSDP2, two gloo processes: as on one process through freeze, growth and thaw."""

import pytest

import sharded_worker
from helpers import assert_same
from rank_processes import assert_as_one_process, run_ranks
from sharded_worker import FREEZES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_ranks(sharded_worker, "freezing", tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("name", FREEZES)
def test_ranks_are_equal_to_the_last_bit(ranks, name):
    first, second = (rank[name] for rank in ranks)
    assert (first["error"], second["error"]) == (None, None)
    assert first["log"], "it should have grown while something was frozen"
    for part in ("weights", "optimizer", "log"):
        assert_same(first[part], second[part])


@pytest.mark.parametrize("name", FREEZES)
def test_equal_to_one_process_on_the_same_batches(ranks, name):
    assert_as_one_process(FREEZES[name], ranks[0][name])
