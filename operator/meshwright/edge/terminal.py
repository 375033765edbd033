"""Words on a terminal: colour where there is one, bars, and tables. Plain ANSI, and plain text elsewhere."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

_EIGHTHS = " ▏▎▍▌▋▊▉"


class Paint(Enum):
    """SGR codes, ECMA-48 8.3.117."""

    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    CYAN = "36"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Where to write, and whether it shows colours."""

    out: TextIO
    has_colour: bool = False

    def say(self, text: str = "") -> None:
        """Write one line, at once."""
        print(text, file=self.out, flush=True)

    def paint(self, text: str, *paints: Paint) -> str:
        """Return ``text`` painted, or as it is."""
        if not self.has_colour or not paints:
            return text
        return f"\x1b[{';'.join(paint.value for paint in paints)}m{text}\x1b[0m"

    def table(self, rows: Iterable[Sequence[str]], *, indent: str = "  ") -> None:
        """Write rows as columns, each as wide as its widest text, the last one as it is."""
        lines = [tuple(row) for row in rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for number, line in enumerate(lines):
            text = indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            self.say(self.paint(text, Paint.DIM) if number == 0 else text)


def open_terminal(out: TextIO | None = None) -> Terminal:
    """Return the terminal behind ``out`` (stdout): colours when it is one and NO_COLOR is not set (no-color.org)."""
    out = out or sys.stdout
    has_colour = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Terminal(out=out, has_colour=has_colour)


def bar(ratio: float, width: int) -> str:
    """Return a bar of ``width`` cells, of which ``ratio`` (0 to 1) is filled, to an eighth of a cell."""
    eighths = round(min(max(ratio, 0.0), 1.0) * width * 8)
    text = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return text.ljust(width, "·")
