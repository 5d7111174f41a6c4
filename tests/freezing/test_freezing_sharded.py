"""Freezing under FSDP2, two gloo processes: as on one process through freeze, growth and thaw."""

import pytest

import sharded_worker
from rank_processes import assert_as_one_process, assert_equal_ranks, run_ranks
from sharded_worker import FREEZES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_ranks(sharded_worker, "freezing", tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("name", FREEZES)
def test_ranks_are_equal_to_the_last_bit(ranks, name):
    assert_equal_ranks(ranks, name)
    assert ranks[0][name]["log"], "it should have grown while something was frozen"


@pytest.mark.parametrize("name", FREEZES)
def test_equal_to_one_process_on_the_same_batches(ranks, name):
    assert_as_one_process(FREEZES[name], ranks[0][name])
