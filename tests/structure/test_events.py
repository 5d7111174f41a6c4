import json

import pytest

from structurenet_pl import Clock, Component, GrowthEvent, Moment
from structurenet_pl.structure.events import dump_log, load_log


def test_age_never_runs_backwards():
    # born in the epoch that is about to start
    assert Moment(Clock(step=40, epoch=3)).age(Component("patch", born=Clock(40, 4, 1))) == Clock()


def test_born_generation_counts_its_own_event():
    founder, newborn = Component("stem"), Component("patch", born=Clock(8, 1, 1))
    log = tuple(GrowthEvent("grow", {}, Clock(8 * n, n, n)) for n in (1, 2, 3))
    now = Moment(Clock(16, 2, 2), log)
    assert founder.founding
    assert not newborn.founding
    assert [event.clock.generation for event in now.events_since_birth(founder)] == [1, 2]
    assert [event.clock.generation for event in now.events_since_birth(newborn)] == [1, 2]
    second = Component("neck", born=Clock(16, 2, 2))
    assert [event.clock.generation for event in now.events_since_birth(second)] == [2]


def test_frozen():
    with pytest.raises(AttributeError):
        Component("stem").role = "head"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder", True),
        ("encoder.*", True),
        ("encoder.0", True),
        ("*.0", True),
        ("pretrained", True),
        ("enc", False),
        ("encoder.1", False),
    ],
)
def test_a_component_matches_its_role_its_name_and_what_is_around_it(pattern, expected):
    assert Component("encoder.0", role="pretrained").matches(pattern) is expected


def test_log_survives_json():
    log = (
        GrowthEvent(
            "add", {"at": 1, "sizes": [1, 2.5], "name": None}, Clock(3, 2, 1), ("a", "b"), ("c",), "patch", 1, "c"
        ),
        GrowthEvent("insert", {}, Clock(4, 2, 2), ("net.1@2",), moved={"net.1": "net.2"}),
    )
    assert load_log(dump_log(log)) == log


def test_logs_from_before_somebody_noted_who_asked():
    event = GrowthEvent("add", {"at": 2}, Clock(4, 1, 1), ("patch",), asked_by="GrowEvery", parameters=(10, 14))
    (loaded,) = load_log(dump_log([event]))
    assert (loaded.asked_by, loaded.parameters) == ("GrowEvery", (10, 14))
    (entry,) = json.loads(dump_log([event]))
    (old,) = load_log(json.dumps([{key: entry[key] for key in entry.keys() - {"asked_by", "parameters"}}]))
    assert (old.asked_by, old.parameters) == (None, ())
    assert old == event
