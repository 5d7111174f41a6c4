"""Pictures show every component, what rests and when it grew."""

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.colors import LogNorm, to_hex

from helpers import Net, fit, slow_but_for
from structurenet_pl import (
    GrowEvery,
    LRHistory,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    plot_strata,
    preview,
)
from structurenet_pl.monitoring.heat_map import FROZEN_STYLE, ZERO_STYLE, draw_heat_map
from structurenet_pl.monitoring.lr_curves import draw_curves

GROWING = [GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}), GrowEvery("add_neck", 2, limit=1)]
PICTURES = [draw_curves, draw_heat_map]
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
    return LRHistory(("body.0", "body.3", "head", "patches.0", "necks.0"), steps, lrs, frozen, GROWTH)


def many(count, steps=200):
    births = np.linspace(-steps / 2, steps * 0.9, count).clip(0).astype(int)
    lrs = np.where(np.arange(steps) >= births[:, None], np.geomspace(1e-3, 1e-5, steps), np.nan)
    names = tuple(f"model.encoder.blocks.{index}.attention" for index in range(count))
    events = tuple((int(birth), f"+ {name}") for birth, name in zip(births, names, strict=True) if birth)
    return LRHistory(names, np.arange(steps), lrs, np.zeros(lrs.shape, dtype=bool), events)


def steady(lr, steps=(4, 9, 14), components=("a", "b")):
    shape = len(components), len(steps)
    return LRHistory(tuple(components), np.array(steps), np.full(shape, lr), np.zeros(shape, dtype=bool))


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
    history = example()
    axes, bar = drawn(draw_heat_map(history)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(history.components)
    mesh = axes.collections[0]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [*history.steps, 101]  # each row holds until the next
    colours = mesh.get_array()
    hidden = history.frozen | ~(history.lrs > 0)
    assert (colours.mask == hidden).all()
    assert (colours[~hidden] == history.lrs[~hidden]).all()
    assert isinstance(mesh.norm, LogNorm)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0.0005", "0.001", "0.002", "0.003", "0.005"]
    assert not mesh.cmap(mesh.norm(colours))[np.isnan(history.lrs)].any()  # transparent before birth
    assert axes.get_facecolor() == (1, 1, 1, 1)


def test_heat_map_tells_frozen_from_lr_0():
    figure = draw_heat_map(example())
    frozen, stretches = boxes(figure.axes[0], "frozen")
    assert stretches == [(50, -0.5, 101, 0.5), (80, 0.5, 101, 1.5)]
    assert frozen.get_hatch() == FROZEN_STYLE["hatch"]
    zero, stretches = boxes(figure.axes[0], "lr 0")
    assert stretches == [(0, 1.5, 20, 2.5)]
    assert to_hex(zero.get_facecolor()[0]) == ZERO_STYLE["facecolor"]
    assert texts(figure) == ["frozen", "lr 0", "growth"]
    assert figure.legends[0].get_patches()[0].get_hatch() == FROZEN_STYLE["hatch"]


def test_curves_show_what_rests_in_a_strip():
    history = example()
    figure = draw_curves(history)
    axes, strip = figure.axes
    assert axes.get_yscale() == "log"
    for line, lrs, frozen in zip(axes.get_lines(), history.lrs, history.frozen, strict=False):
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
    assert texts(figure) == [*history.components, "frozen", "lr 0"]


@pytest.mark.parametrize("picture", PICTURES)
def test_growth_is_marked(picture):
    for axes in [axes for axes in picture(example()).axes if axes.get_ylabel() != "learning rate"]:
        dashed = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == "--"]
        assert dashed == [40, 80]
    axes = picture(example()).axes[0]
    assert [text.get_text() for text in axes.texts] == ["+ patches.0", "+ necks.0"]
    assert [text.xy[0] for text in axes.texts] == [40, 80]


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("count", slow_but_for([1, 14, 21, 100], [1, 2, 14, 20, 21, 100, 1000]))
def test_labels_have_room(picture, count):
    history = many(count)
    figure = drawn(picture(history))
    chart = figure.axes[0]
    for axes in figure.axes if picture is draw_heat_map else figure.axes[1:]:  # a logarithmic axis sees to itself
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
    assert all(right - left >= 0.08 * len(history.steps) for left, right in pairwise(marked))
    assert chart.get_position().width > 0.4


def test_many_curves_have_a_colour_bar_in_place_of_a_legend():
    few, figure = draw_curves(many(20)), draw_curves(many(21))
    assert len(texts(few)) == 20
    assert figure.legends == []
    assert figure.axes[1].get_ylabel() == "component, by birth"
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert (labels[0], labels[-1]) == ("model.encoder.blocks.0.attention", "…del.encoder.blocks.20.attention")


def test_many_events_hide_nothing():
    chart = draw_heat_map(many(100)).axes[0]
    ticks = [line for line in chart.get_lines() if not line.get_clip_on()]
    assert len(ticks) == len({step for step, _ in many(100).events})
    assert all(min(line.get_ydata()) >= 1 for line in ticks)  # above the chart
    assert len(chart.get_lines()) == len(ticks)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(
    "history",
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
def test_whatever_there_is_can_be_drawn(picture, history, tmp_path):
    figure = picture(history)
    figure.savefig(tmp_path / "picture.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["first", "last"][: len(history.events)]


@pytest.mark.parametrize("picture", PICTURES)
def test_nothing_to_draw(picture):
    with pytest.raises(ValueError, match="nothing to draw"):
        picture(steady(0.1, steps=[]))


def test_what_is_narrower_than_a_pixel_is_left_out():
    history = steady(0.1, steps=range(100_000))
    mesh = draw_heat_map(history).axes[0].collections[0]
    assert mesh.get_array().shape == (2, 1000)


def test_of_what_is_narrower_than_a_pixel_a_curve_keeps_the_peaks():
    history = steady(0.1, steps=range(100_000))
    lrs = np.geomspace(1e-3, 1e-2, 100_000) * np.array([[1], [2]])
    lrs[0, 54_321], lrs[1, 54_321] = 1.0, 1e-6
    lrs[0, :500] = np.nan  # born in the middle of a column
    first, second = draw_curves(replace(history, lrs=lrs)).axes[0].get_lines()
    for line, values in ((first, lrs[0]), (second, lrs[1])):
        steps, shown = line.get_xdata()[:-1], line.get_ydata()[:-1]
        assert 1000 <= len(steps) <= 4000
        np.testing.assert_array_equal(shown, values[steps])
        assert np.diff(steps).max() <= 100
        assert 54_321 in steps


@pytest.mark.parametrize("picture", PICTURES)
def test_what_was_left_out_is_said(picture):
    figure = drawn(picture(replace(example(), note="before step 7 one step in 2 is shown\none more")))
    (label,) = {axes.get_xlabel() for axes in figure.axes} - {""}
    assert label == "optimizer step\nbefore step 7 one step in 2 is shown\none more"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A growing run: module, Trainer, and two log directories."""
    folder = tmp_path_factory.mktemp("run")
    net = Net()
    loggers = [TensorBoardLogger(folder / "tensorboard"), CSVLogger(folder / "csv", prefix="fold-1")]
    callbacks = [Warmup(), SedimentaryDecay([("active", 0, 1.0), ("old", 2, 0.1)]), *GROWING, StrataMonitor()]
    trainer = fit(net, callbacks, epochs=3, logger=loggers)
    return net, trainer, [logger.log_dir for logger in loggers]


@pytest.mark.parametrize("kind", ["curves", "heat_map"])
def test_a_picture_of_every_source(run, kind):
    net, trainer, folders = run
    sources = [trainer, *folders, preview([Warmup()], module=net, epochs=3)]
    for source in sources:
        axes = plot_strata(source, kind=kind).axes[0]
        assert [text.get_text() for text in axes.texts] == ["+ patches.0", "+ necks.0"]
        assert [text.xy[0] for text in axes.texts] == [4, 8]
    (label,) = plot_strata(trainer, net.growth_log[1:], kind).axes[0].texts
    assert label.get_text() == "+ necks.0"


def test_sources_without_strata(tmp_path):
    with pytest.raises(ValueError, match=r"holds no strata\.pt, which StrataMonitor writes there: train with it"):
        plot_strata(tmp_path)
    with pytest.raises(ValueError, match="is no directory"):
        plot_strata(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no StrataMonitor in the Trainer"):
        plot_strata(Trainer(logger=False, enable_checkpointing=False))
    with pytest.raises(ValueError, match=r"no StrataMonitor in the list.* preview\(callbacks"):
        plot_strata([Warmup()])


def test_matplotlib_is_named_where_it_is_missing(monkeypatch):
    hidden = [name for name in sys.modules if f"{name}.".startswith("matplotlib.figure.")]
    for name in [*hidden, "matplotlib.figure"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install matplotlib tensorboard"):
        plot_strata(example())
