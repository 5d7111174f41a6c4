"""Prints to a terminal or notebook in which progress bars may stand."""

from contextlib import ExitStack

from rich import get_console
from rich.console import Console, RenderableType
from rich.live import Live
from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a package of their own


def print_beside_bars(*lines: RenderableType, console: Console | None = None) -> None:
    """Print above the progress bars, which neither overwrite what is printed nor leave a piece of a bar behind.

    Args:
        lines: What to print, each on lines of its own.
        console: The console to print to, None for rich's global console. On this one Lightning's ``RichProgressBar``
            draws its bars, so it knows how to print above them; in a notebook it prints into the output cell.
    """
    console = console or get_console()
    with ExitStack() as held:
        # Lightning refreshes its bars in a thread of its own. A refresh that changes their height while rich renders
        # what is to be printed makes rich erase as many rows as the bars had before, and with them a printed line. Rich
        # has no public way to keep that thread waiting; its own threads take this lock before any other, as here.
        for bars in console._render_hooks:
            if isinstance(bars, Live):
                held.enter_context(bars._lock)
        held.enter_context(tqdm.external_write_mode())  # takes away the bars of tqdm, and draws them again below
        for line in lines:
            console.print(line)
