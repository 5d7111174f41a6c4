"""On a real terminal of 80 columns, progress bars overwrite nothing that is printed beside them."""

import fcntl
import os
import pty
import struct
import sys
import termios
import threading

import pyte
import pytest
import rich
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.live import Live

from helpers import Net, Validated, fit, loader
from structurenet_pl import (
    GrowEvery,
    GrowthResponder,
    RoleLR,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    explain,
)
from structurenet_pl.monitoring.terminal import print_beside_bars

COLUMNS, ROWS = 80, 24


class Terminal:
    """Standard output is a pseudo-terminal, whose screen and history can be read."""

    def __init__(self, monkeypatch):
        self.screen = pyte.HistoryScreen(COLUMNS, ROWS, history=10_000)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._stream = os.fdopen(slave, "w")
        for name, value in {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}.items():
            monkeypatch.setenv(name, value)  # rich asks the real standard output for its size, but these first
        monkeypatch.setattr(sys, "stdout", self._stream)
        rich.reconfigure()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        screen = pyte.ByteStream(self.screen)
        try:
            while output := os.read(self._master, 65536):
                screen.feed(output)
        except OSError:  # all has been read, and the other end is closed
            pass

    def close(self):
        """All lines that were ever printed, as they look in the end."""
        self._stream.close()
        self._reader.join()
        os.close(self._master)
        lines = [*self.screen.history.top, *(self.screen.buffer[row] for row in range(ROWS))]
        return ["".join(line[column].data for column in range(COLUMNS)).rstrip() for line in lines]


class GrowingValidated(Net, Validated):
    pass


def run(bars):
    """A fit that grows at the end of an epoch, at its start and within it, and a look at the end."""
    torch.manual_seed(0)
    trainer = fit(
        GrowingValidated(),
        [
            *(Warmup(), SedimentaryDecay(), RoleLR({"patch": 0.5}), GrowthResponder(), StrataMonitor(), *bars),
            GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}),
            GrowEvery("add_neck", 6, unit="step", limit=1),
        ],
        epochs=3,
        validation=loader(2, shuffle=False),
        enable_progress_bar=bool(bars),
    )
    explain(trainer)


@pytest.fixture(scope="module")
def without_bar():
    with pytest.MonkeyPatch.context() as monkeypatch:
        terminal = Terminal(monkeypatch)
        run([])
    rich.reconfigure()
    return [line for line in terminal.close() if line]


@pytest.mark.filterwarnings("ignore:StrataMonitor has no logger")
@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_all_that_is_printed_is_on_the_screen_whole(bar, without_bar, monkeypatch):
    terminal = Terminal(monkeypatch)
    run([bar()])
    lines = terminal.close()
    rich.reconfigure()
    assert len(without_bar) > 25
    beside_bar = iter(lines)
    assert [line for line in without_bar if line not in beside_bar] == []  # in this order, too
    bars = [line for line in lines if line.startswith("Epoch ")]
    assert bars[-1].startswith("Epoch 2")  # it is drawn again
    assert len(bars) <= 3, "pieces of bars are left behind"


class RefreshedMeanwhile:
    """Something to print: while it is rendered, the bars lose a row, and another thread refreshes them."""

    def __init__(self, bars):
        self._bars = bars

    def _refresh(self):
        with self._bars._lock:
            self._bars.update("bar", refresh=True)

    def __rich_console__(self, console, options):
        self.thread = threading.Thread(target=self._refresh)
        self.thread.start()
        self.thread.join(0.2)  # in vain if it has to wait
        yield "second"


def test_a_refresh_by_another_thread_waits_until_all_is_printed(monkeypatch):
    terminal = Terminal(monkeypatch)
    with Live("bar\nmetrics", auto_refresh=False, console=rich.get_console()) as bars:
        bars.refresh()
        second = RefreshedMeanwhile(bars)
        print_beside_bars("first", second)
        second.thread.join()
        bars.refresh()
    lines = terminal.close()
    rich.reconfigure()
    assert [line for line in lines if line] == ["first", "second", "bar"]
