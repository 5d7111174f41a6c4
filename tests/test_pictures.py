"""Pictures show every component, what rests and when it grew; logs say the same as the run."""

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.colors import LogNorm, to_hex

from helpers import LRTrace, Net, Plain, fit
from structurenet_pl import (
    Clock,
    GrowEvery,
    GrowthEvent,
    LRFactor,
    SedimentaryDecay,
    Strata,
    StrataMonitor,
    Warmup,
    plot_strata,
    preview,
)
from structurenet_pl.looking.plots import FROZEN, ZERO, curves, heat_map
from structurenet_pl.looking.reading import _read_growth, read_strata
from structurenet_pl.looking.strata import mark
from structurenet_pl.looking.tensorboard import growth_table

GROWING = [GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}), GrowEvery("add_neck", 2, limit=1)]
PICTURES = [curves, heat_map]
GROWTH = ((40, "+ patches.0"), (80, "+ necks.0"))


def example():
    """Five components: two come to rest, one has lr 0 for a while, two are born on the way; steps are uneven."""
    steps = np.array([0, 10, 20, 40, 50, 80, 81, 100])
    lrs = 1e-3 * np.array([0.5, 1.0, 2.0, 4.0, 8.0])[:, None] * np.ones(len(steps))
    lrs[3, steps < 40] = lrs[4, steps < 80] = np.nan
    lrs[2, steps < 20] = 0
    frozen = np.zeros(lrs.shape, dtype=bool)
    frozen[0, steps >= 50] = frozen[1, steps >= 80] = True
    lrs[0, steps >= 50] = 0  # the other keeps its lr while it rests
    return Strata(("body.0", "body.3", "head", "patches.0", "necks.0"), steps, lrs, frozen, GROWTH)


def many(count, steps=200):
    births = np.linspace(-steps / 2, steps * 0.9, count).clip(0).astype(int)
    lrs = np.where(np.arange(steps) >= births[:, None], np.geomspace(1e-3, 1e-5, steps), np.nan)
    names = tuple(f"model.encoder.blocks.{index}.attention" for index in range(count))
    events = tuple((int(birth), f"+ {name}") for birth, name in zip(births, names, strict=True) if birth)
    return Strata(names, np.arange(steps), lrs, np.zeros(lrs.shape, dtype=bool), events)


def steady(lr, steps=(4, 9, 14), components=("a", "b")):
    shape = len(components), len(steps)
    return Strata(tuple(components), np.array(steps), np.full(shape, lr), np.zeros(shape, dtype=bool))


def drawn(figure):
    """The figure as it stands on paper: positions of text are known from here on."""
    figure.draw_without_rendering()
    return figure


def texts(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def boxes(axes, label):
    """What a legend entry stands for in a heat map: left, bottom, right and top of each box."""
    (collection,) = [one for one in axes.collections if one.get_label() == label]
    return collection, [tuple(path.get_extents().extents.tolist()) for path in collection.get_paths()]


def overlap(labels):
    """Whether two of the texts cover each other."""
    extents = [label.get_window_extent() for label in labels if label.get_text()]
    return any(one.overlaps(other) for number, one in enumerate(extents) for other in extents[:number])


def test_heat_map_shows_what_was_when():
    strata = example()
    axes, bar = drawn(heat_map(strata)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(strata.components)
    mesh = axes.collections[0]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [*strata.steps, 101]  # each row holds until the next
    colours = mesh.get_array()
    hidden = strata.frozen | ~(strata.lrs > 0)
    assert (colours.mask == hidden).all()
    assert (colours[~hidden] == strata.lrs[~hidden]).all()
    assert isinstance(mesh.norm, LogNorm)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0.0005", "0.001", "0.002", "0.003", "0.005"]
    assert not mesh.cmap(mesh.norm(colours))[np.isnan(strata.lrs)].any()  # transparent before birth
    assert axes.get_facecolor() == (1, 1, 1, 1)


def test_heat_map_tells_frozen_from_lr_0():
    figure = heat_map(example())
    frozen, stretches = boxes(figure.axes[0], "frozen")
    assert stretches == [(50, -0.5, 101, 0.5), (80, 0.5, 101, 1.5)]
    assert frozen.get_hatch() == FROZEN["hatch"]
    zero, stretches = boxes(figure.axes[0], "lr 0")
    assert stretches == [(0, 1.5, 20, 2.5)]
    assert to_hex(zero.get_facecolor()[0]) == ZERO["facecolor"]
    assert texts(figure) == ["frozen", "lr 0", "growth"]
    assert figure.legends[0].get_patches()[0].get_hatch() == FROZEN["hatch"]


def test_curves_show_what_rests_in_a_strip():
    strata = example()
    figure = curves(strata)
    axes, strip = figure.axes
    assert axes.get_yscale() == "log"
    for line, lrs, frozen in zip(axes.get_lines(), strata.lrs, strata.frozen, strict=False):
        shown = line.get_ydata()[:-1]
        assert (np.isnan(shown) == (frozen | ~(lrs > 0))).all()
        assert (shown == lrs)[~np.isnan(shown)].all()
    resting = [line for line in strip.get_lines() if line.get_linestyle() != "--"]
    assert [(line.get_linestyle(), line.get_xdata().tolist(), line.get_ydata()[0]) for line in resting] == [
        (":", [50, 101], 0),
        (":", [80, 101], 1),
        ("-", [0, 20], 2),
    ]
    assert [label.get_text() for label in strip.get_yticklabels()] == ["0"]
    assert texts(figure) == [*strata.components, "frozen", "lr 0"]


@pytest.mark.parametrize("picture", PICTURES)
def test_growth_is_marked(picture):
    for axes in [axes for axes in picture(example()).axes if axes.get_ylabel() != "learning rate"]:
        dashed = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == "--"]
        assert dashed == [40, 80]
    axes = picture(example()).axes[0]
    assert [text.get_text() for text in axes.texts] == ["+ patches.0", "+ necks.0"]
    assert [text.xy[0] for text in axes.texts] == [40, 80]


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("count", [1, 2, 14, 20, 21, 100, 1000])
def test_labels_have_room(picture, count):
    strata = many(count)
    figure = drawn(picture(strata))
    chart = figure.axes[0]
    for axes in figure.axes if picture is heat_map else figure.axes[1:]:  # a logarithmic axis sees to itself
        labels = axes.get_yticklabels()
        assert len(labels) > 1 or count == 1
        assert not overlap(labels)
    assert not overlap(chart.get_xticklabels())
    entries = [text for legend in figure.legends for text in legend.get_texts()]
    for text in [*chart.texts, *entries]:
        extent = text.get_window_extent()
        assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width
        assert 0 <= extent.y0 < extent.y1 <= figure.bbox.height
    marked = [text.xy[0] for text in chart.texts]
    assert all(right - left >= 0.08 * len(strata.steps) for left, right in pairwise(marked))
    assert chart.get_position().width > 0.4


def test_many_curves_have_a_colour_bar_in_place_of_a_legend():
    few, figure = curves(many(20)), curves(many(21))
    assert len(texts(few)) == 20
    assert figure.legends == []
    assert figure.axes[1].get_ylabel() == "component, by birth"
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert (labels[0], labels[-1]) == ("model.encoder.blocks.0.attention", "…del.encoder.blocks.20.attention")


def test_many_events_hide_nothing():
    chart = heat_map(many(100)).axes[0]
    ticks = [line for line in chart.get_lines() if not line.get_clip_on()]
    assert len(ticks) == len({step for step, _ in many(100).events})
    assert all(min(line.get_ydata()) >= 1 for line in ticks)  # above the chart
    assert len(chart.get_lines()) == len(ticks)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(
    "strata",
    [
        steady(0.1),
        steady(0.0),
        steady(0.1, steps=[0]),
        steady(0.1, components=["self"]),
        steady(0.0, steps=[7], components=["self"]),
        replace(steady(0.1), lrs=np.array([[0.1, 0.1001, 0.1002], [0.1, 0.1, 0.1]])),
        replace(steady(0.1), frozen=np.ones((2, 3), dtype=bool)),
        replace(steady(0.1), lrs=np.array([[1e-12, 1e-3, 1e3], [np.nan, np.nan, 0.1]])),
        replace(steady(0.1), events=((0, "before"), (4, "first"), (15, "last"), (16, "after"))),
    ],
    ids=["equal", "all 0", "one step", "one component", "one 0", "narrow", "all frozen", "wide", "events"],
)
def test_whatever_there_is_can_be_drawn(picture, strata, tmp_path):
    figure = picture(strata)
    figure.savefig(tmp_path / "picture.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["first", "last"][: len(strata.events)]


@pytest.mark.parametrize("picture", PICTURES)
def test_nothing_to_draw(picture):
    with pytest.raises(ValueError, match="nothing to draw"):
        picture(steady(0.1, steps=[]))


def test_what_is_narrower_than_a_pixel_is_left_out():
    strata = steady(0.1, steps=range(100_000))
    mesh = heat_map(strata).axes[0].collections[0]
    assert mesh.get_array().shape == (2, 1000)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A growing run: module, Trainer, the lrs that were used, and two log directories."""
    folder = tmp_path_factory.mktemp("run")
    net, record = Net(), LRTrace()
    loggers = [TensorBoardLogger(folder / "tensorboard"), CSVLogger(folder / "csv")]
    callbacks = [Warmup(), SedimentaryDecay([("active", 0, 1.0), ("old", 2, 0.1)]), *GROWING, StrataMonitor(), record]
    trainer = fit(net, callbacks, epochs=3, logger=loggers, log_every_n_steps=1)
    return net, trainer, record.rows, [logger.log_dir for logger in loggers]


@pytest.mark.parametrize(("format", "rounding"), [(0, 1e-6), (1, 0)], ids=["TensorBoard", "CSV"])  # float32 there
def test_logs_are_read_back(run, format, rounding):
    _, _, used, folders = run
    strata = read_strata(folders[format])
    assert strata.steps.tolist() == list(range(12))
    assert set(strata.components[:4]) == {"body.0", "body.3", "body.4", "head"}
    assert strata.components[4:] == ("patches.0", "necks.0")
    for component, lrs in zip(strata.components, strata.lrs, strict=True):
        expected = [row.get(component, np.nan) for row in used]
        np.testing.assert_allclose(lrs, expected, rtol=rounding)
    assert strata.events == ((4, "+ patches.0"), (8, "+ necks.0"))
    assert not strata.frozen.any()


def test_growth_is_read_back_from_the_table():
    log = [
        GrowthEvent("a", {}, Clock(7, 1, 1), born=("b.0", "b.1"), adjacent=("stem",), parameters=(1000, 2000)),
        GrowthEvent("b", {}, Clock(9, 2, 2), widened=("stem", "b.0"), removed=("b.1",), asked_by="GrowEvery"),
        GrowthEvent("c", {}, Clock(9, 2, 3), shrunk=("stem", "heads.task: one"), depth=3),
    ]
    assert _read_growth(growth_table(log)) == tuple(map(mark, log))


class Freeze(LRFactor):
    freezes = True

    def factor(self, component, now):
        return 0.0 if now.clock.epoch and component.name == "body.0" else 1.0


def test_a_log_with_gaps(tmp_path):
    """Two optimizers take turns; what is frozen says so; a component that is gone leaves no trace."""
    logger = CSVLogger(tmp_path, name=None)
    for step, row in {
        3: {"lr/a": 0.1, "frozen/a": 0.0},
        4: {"lr/b": 0.2},
        7: {"lr/a": 0.3, "frozen/a": 1.0, "lr/c": 0.5},
        8: {"lr/b": 0.4, "loss": 1.0},
        9: {"loss": 1.0},
        11: {"lr/b": 0.4},
    }.items():
        logger.log_metrics(row, step)
    logger.save()
    strata = read_strata(logger.log_dir)
    assert strata.components == ("a", "b", "c")
    assert strata.steps.tolist() == [3, 4, 7, 8, 11]
    nan = np.nan
    expected = [[0.1, 0.1, 0.3, nan, nan], [nan, 0.2, 0.2, 0.4, 0.4], [nan, nan, 0.5, nan, nan]]
    np.testing.assert_array_equal(strata.lrs, expected)
    assert strata.frozen.tolist() == [[False, False, True, False, False], [False] * 5, [False] * 5]
    assert strata.events == ((4, "+ b"), (7, "+ c"))


def test_a_csv_log_is_read_in_its_order_and_beside_what_is_no_number(tmp_path):
    logger = CSVLogger(tmp_path, name=None)
    names = [f"body.{number}" for number in range(9)]
    logger.log_metrics({f"lr/{name}": 0.1 for name in names} | {"note": "warm"}, 0)
    logger.save()
    assert read_strata(logger.log_dir).components == tuple(names)


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_a_log_with_a_prefix(kind, tmp_path):
    logger = kind(tmp_path, name=None, prefix="fold-1")
    fit(Plain(), [Freeze(), StrataMonitor()], epochs=2, logger=logger)
    strata = read_strata(logger.log_dir)
    assert sorted(strata.components) == ["body.0", "body.3", "body.4", "head"]
    assert strata.frozen[strata.components.index("body.0"), -1]


@pytest.mark.parametrize("kind", ["curves", "heat_map"])
def test_a_picture_of_every_source(run, kind):
    net, trainer, _, folders = run
    sources = [trainer, *folders, preview([Warmup()], module=net, epochs=3)]
    for source in sources:
        axes = plot_strata(source, kind=kind).axes[0]
        assert [text.get_text() for text in axes.texts] == ["+ patches.0", "+ necks.0"]
        assert [text.xy[0] for text in axes.texts] == [4, 8]
    (label,) = plot_strata(trainer, net.growth_log[1:], kind).axes[0].texts
    assert label.get_text() == "+ necks.0"


def test_sources_without_strata(tmp_path):
    with pytest.raises(ValueError, match="train with StrataMonitor"):
        plot_strata(tmp_path)
    with pytest.raises(ValueError, match="is no directory"):
        plot_strata(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no StrataMonitor in the Trainer"):
        plot_strata(Trainer(logger=False, enable_checkpointing=False))
    with pytest.raises(ValueError, match=r"no StrataMonitor in the list.* preview\(callbacks"):
        plot_strata([Warmup()])
    with pytest.raises(ValueError, match="kind must be one of curves, heat_map, got 'pie'"):
        plot_strata(example(), kind="pie")


@pytest.mark.parametrize(("module", "source"), [("matplotlib.figure", example()), ("tensorboard", "tensorboard")])
def test_what_is_missing_is_named(monkeypatch, module, source, tmp_path):
    (tmp_path / "tensorboard").mkdir()
    hidden = [name for name in sys.modules if f"{name}.".startswith(f"{module}.")]
    for name in [*hidden, module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'structurenet-pl\[plots\]'"):
        plot_strata(source)
