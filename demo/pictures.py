"""Pictures of a run, as SVG: the terminal with its output at real times, and a move's timeline.

They need no script, so that they move in a README as well. Without animation, as in print, the
terminal shows its last lines.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TextIO
from xml.sax.saxutils import escape

import attrs

__all__ = ["MoveTimes", "Recording", "terminal", "timeline", "write_pictures"]

#: Characters of a line of the terminal, and lines.
_COLUMNS, _ROWS = 116, 34
#: Colours of lines by their mark, a check that holds or not and the view of a browser, and of how
#: many characters.
_MARKS = {"+": ("y", 3), "!": ("n", 3), "|": ("v", _COLUMNS)}
#: Columns before the text of a line of the demo.
_INDENT = 17
#: Pixels of a character, which is as wide in most fonts, and of a line.
_WIDTH, _HEIGHT = 7.23, 16
_MARGIN = 14
_TERMINAL = """\
text{font:12px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#d5dae2;\
white-space:pre}
.h{fill:#fff;font-weight:bold}.y{fill:#7ee08f}.n{fill:#ff8a80}.v{fill:#8fa3bd}
g{animation:later 0s}
@keyframes later{from,to{visibility:hidden}}
@media(prefers-reduced-motion:reduce){*{animation:none!important}}
"""
_TIMELINE = """\
text{font:13px system-ui,sans-serif;fill:#24292f}.s{fill:#57606a}
.bar{fill:#3b82c4}.run{fill:#3f9b5b}.down{fill:#d1453b}.grid{stroke:#d0d7de}
.page{fill:#fff;stroke:#d0d7de}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9da7b3}.grid{stroke:#30363d}\
.page{fill:#0d1117;stroke:#30363d}}
"""
#: The timeline: pixels of the whole, up to its bars, of the bars, and of a row.
_SPAN, _LEFT, _BARS, _ROW = 820, 200, 480, 28
#: Steps of its axis, in seconds: the first one is taken that gives at most so many.
_STEPS, _AT_MOST = (1, 2, 5, 10, 20, 30, 60, 120, 300), 10


class Recording(io.TextIOBase):
    """Standard output that is passed on to `output`; `lines` has when each line was written."""

    def __init__(self, output: TextIO) -> None:
        self.lines: list[tuple[float, str]] = []
        self._output = output
        self._began = time.monotonic()
        self._rest = ""

    def write(self, text: str) -> int:
        """Write text, and note its lines that are complete."""
        *whole, self._rest = (self._rest + text).split("\n")
        now = time.monotonic() - self._began
        self.lines += ((now, line) for line in whole)
        return self._output.write(text)

    def flush(self) -> None:
        """Flush the output."""
        self._output.flush()


def write_pictures(
    directory: Path, command: str, lines: Sequence[tuple[float, str]], times: MoveTimes
) -> None:
    """Write `demo.svg` with the output of `command` so far, and `live-move.svg` with a move."""
    about = f"The game of {command} moves while it is played. Seconds since the Panel's order."
    for name, picture in (
        ("demo.svg", terminal(command, lines)),
        ("live-move.svg", timeline(times, about)),
    ):
        (directory / name).write_text(picture, encoding="utf-8")


def terminal(command: str, lines: Iterable[tuple[float, str]]) -> str:
    """Return a terminal in which `command` writes `lines`, each at its seconds after the start."""
    shown = [(0.0, escape(f"$ {command}"))]
    # Tenths of a second: what appears together is one group of lines.
    shown += ((round(after, 1), part) for after, line in lines for part in _folded(line))
    width = round(_COLUMNS * _WIDTH) + 2 * _MARGIN
    height = _ROWS * _HEIGHT + 2 * _MARGIN
    scrolls = _scrolls([after for after, _ in shown])
    parts = [
        _opened(width, height, f"The output of {command}"),
        f"<style>{_TERMINAL}{scrolls}</style>",
        f'<clipPath id="c"><rect y="{_MARGIN}" width="{width}" height="{height - 2 * _MARGIN}"/>'
        "</clipPath>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#161b24"/>',
        '<g clip-path="url(#c)"><g class="all">',
    ]
    for after, group in groupby(enumerate(shown), key=lambda each: each[1][0]):
        parts.append(f'<g style="animation-duration:{after:.1f}s">')
        parts += (
            f'<text x="{_MARGIN}" y="{_MARGIN + number * _HEIGHT + 12}" '
            f'xml:space="preserve">{text}</text>'
            for number, (_, text) in group
            if text
        )
        parts.append("</g>")
    return "\n".join([*parts, "</g></g>", "</svg>", ""])


def _folded(line: str) -> Iterator[str]:
    """Yield the parts of a line in their colours; all but the first are put below its text."""
    if line and line[0] != " ":
        kind, marked = "h", _COLUMNS
    else:
        kind, marked = _MARKS.get(line[2:3], ("", 0))
    text = line[:_COLUMNS]
    yield _coloured(kind, text[:marked]) + escape(text[marked:])
    for begin in range(_COLUMNS, len(line), _COLUMNS - _INDENT):
        text = " " * _INDENT + line[begin : begin + _COLUMNS - _INDENT]
        yield _coloured(kind, text) if marked == _COLUMNS else escape(text)


def _coloured(kind: str, text: str) -> str:
    return f'<tspan class="{kind}">{escape(text)}</tspan>' if kind and text else ""


def _scrolls(times: Sequence[float]) -> str:
    """Return the rules by which the lines go up, so that those written last are in view."""
    end = times[-1]
    moved = {
        after: (number + 1 - _ROWS) * -_HEIGHT
        for number, after in enumerate(times)
        if number >= _ROWS
    }
    if not moved or not end:
        return ""
    steps = "".join(
        f"{after / end:.3%}{{transform:translateY({pixels}px)}}"
        for after, pixels in moved.items()
        if after < end
    )
    last = f"transform:translateY({moved[end]}px)"
    return (
        f".all{{{last};animation:up {end:.1f}s step-end}}\n"
        f"@keyframes up{{0%{{transform:none}}{steps}to{{{last}}}}}\n"
    )


@attrs.frozen
class MoveTimes:
    """When a move of a running server began and did each of its steps, in seconds of one clock.

    `silent` is the longest time in which a player got no answer.
    """

    ordered: float
    rounds: tuple[float, ...]
    stopping: float
    stopped: float
    sent: float
    silent: tuple[float, float]

    def phases(self) -> Iterator[tuple[str, float, float]]:
        """Yield the name, the beginning and the end of each phase."""
        yield "both nodes prepare", self.ordered, self.rounds[0]
        ends = (*self.rounds[1:], self.stopping)
        for number, (begin, end) in enumerate(zip(self.rounds, ends, strict=True), 1):
            yield f"round {number}, the game runs", begin, end
        yield "the game is stopped", self.stopping, self.stopped
        yield "last round", self.stopped, self.sent
        yield "start at the other node", self.sent, self.silent[1]


def timeline(times: MoveTimes, about: str) -> str:
    """Return the phases of a move below each other, and for how long a player got no answer."""
    down, up = times.silent
    # A little of the game at its new node is shown, too.
    whole = (up - times.ordered) * 1.08
    phases = list(times.phases())
    height = 48 + (len(phases) + 2) * _ROW
    title = f"A move of a running server: {up - down:.1f} s without an answer"
    parts = [
        _opened(_SPAN, height, title),
        f"<style>{_TIMELINE}</style>",
        f'<rect class="page" x=".5" y=".5" width="{_SPAN - 1}" height="{height - 1}" rx="8"/>',
        f'<text x="16" y="26">{escape(about)}</text>',
    ]

    def at(seconds: float) -> float:
        return _LEFT + (seconds - times.ordered) / whole * _BARS

    def bar(kind: str, row: int, begin: float, end: float) -> str:
        # Of a short one something is seen as well.
        width = max(at(end) - at(begin), 1.5)
        return (
            f'<rect class="{kind}" x="{at(begin):.1f}" y="{46 + row * _ROW}" '
            f'width="{width:.1f}" height="16"/>'
        )

    def label(x: float, row: int, text: str, more: str = "") -> str:
        return f'<text x="{x:.1f}" y="{59 + row * _ROW}"{more}>{escape(text)}</text>'

    bottom = 46 + (len(phases) + 1) * _ROW
    step = next((each for each in _STEPS if whole / each <= _AT_MOST), _STEPS[-1])
    for second in range(0, int(whole) + 1, step):
        x = at(times.ordered + second)
        parts.append(f'<path class="grid" d="M{x:.1f} 40V{bottom}"/>')
        parts.append(label(x, len(phases) + 1, f"{second} s", ' text-anchor="middle" class="s"'))
    for row, (name, begin, end) in enumerate(phases):
        kind = "down" if begin >= times.stopping else "bar"
        parts += [
            label(16, row, name),
            bar(kind, row, begin, end),
            label(at(end) + 6, row, f"{end - begin:.1f} s", ' class="s"'),
        ]
    row = len(phases)
    end = times.ordered + whole
    parts += [
        label(16, row, "a player gets answers"),
        bar("run", row, times.ordered, down),
        bar("down", row, down, up),
        bar("run", row, up, end),
        label(at(end) + 6, row, f"no answer for {up - down:.1f} s", ' font-weight="bold"'),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _opened(width: int, height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n<title>{escape(title)}</title>'
    )
