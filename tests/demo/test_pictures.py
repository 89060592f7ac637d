"""The pictures of a demo can be read, and have all of its lines and times."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from demo.pictures import MoveTimes, Recording, terminal, timeline, write_pictures

SVG = "{http://www.w3.org/2000/svg}"
#: What a run has written, and when.
LINES = [
    (1.81, ""),
    (1.81, "Two nodes, one Panel, and a game"),
    (1.93, "    engine       Docker 26.1.5, one for both nodes"),
    (4.90, "    node A       https://127.0.0.1:33007 (twistd -n wingsd, process 26557)"),
    (6.61, "  | script       Writing 48 MiB of a world <&>"),
    (7.57, "  + Panel        got a report of success"),
    (13.96, f"  |              [Source Node]: Following [{'=' * 80}  ] 44.8 MiB / 48.2 MiB"),
    (17.28, "    player       1.8 s without an answer at most, in 77 answers"),
    *((17.28 + number, f"    line         {number}") for number in range(30)),
]
TIMES = MoveTimes(
    ordered=100.0,
    rounds=(100.5, 106.0),
    stopping=107.0,
    stopped=107.4,
    sent=107.5,
    silent=(107.1, 108.9),
)


def read(picture: str) -> ET.Element:
    return ET.fromstring(picture)  # noqa: S314 - of our own


def texts(picture: str) -> list[ET.Element]:
    return list(read(picture).iter(f"{SVG}text"))


def words(element: ET.Element) -> str:
    return "".join(element.itertext())


def test_the_terminal_has_all_lines_in_order() -> None:
    picture = terminal("make demo", LINES)
    shown = [words(each) for each in texts(picture)]
    assert shown[0] == "$ make demo"
    # A long line goes on below its text.
    joined = re.sub(r"\n {17}(?=\S)", "", "\n".join(shown[1:]))
    assert joined.split("\n") == [line for _, line in LINES if line]


def test_each_line_appears_when_it_was_written() -> None:
    root = read(terminal("make demo", LINES))
    found = {
        words(text): group.get("style")
        for group in root.iter(f"{SVG}g")
        for text in group.findall(f"{SVG}text")
    }
    assert found["  + Panel        got a report of success"] == "animation-duration:7.6s"
    assert found["    line         29"] == "animation-duration:46.3s"


def test_the_terminal_ends_with_its_last_lines_which_stay() -> None:
    picture = terminal("make demo", LINES)
    height = int(read(picture).attrib["height"])
    last = max(int(each.attrib["y"]) for each in texts(picture))
    # Without the animation, and after it, the lines are up by that much.
    moved = re.search(r"\.all\{transform:translateY\((-\d+)px\);animation:up 46.3s", picture)
    assert moved
    assert height - 30 < last + int(moved[1]) < height
    assert "infinite" not in picture


def test_few_lines_do_not_move() -> None:
    assert "translate" not in terminal("make demo", LINES[:5])


def test_the_timeline_has_each_phase_with_its_seconds_and_the_silence() -> None:
    shown = [words(each) for each in texts(timeline(TIMES, "A move"))]
    phases = {"both nodes prepare": "0.5 s", "round 1, the game runs": "5.5 s"}
    phases |= {"round 2, the game runs": "1.0 s", "the game is stopped": "0.4 s"}
    phases |= {"last round": "0.1 s", "start at the other node": "1.4 s"}
    for name, seconds in phases.items():
        assert shown[shown.index(name) + 1] == seconds
    assert shown[-1] == "no answer for 1.8 s"
    assert {"0 s", "9 s"} <= set(shown)


def test_the_bars_of_the_timeline_are_within_it() -> None:
    root = read(timeline(TIMES, "A move"))
    width = float(root.attrib["width"])
    for bar in root.iter(f"{SVG}rect"):
        assert 0 <= float(bar.attrib["x"]) <= width - float(bar.attrib["width"])


def test_a_recording_passes_on_all_and_keeps_whole_lines() -> None:
    output = io.StringIO()
    recording = Recording(output)
    print("one\ntwo", file=recording)
    print("thr", end="", file=recording)
    assert [line for _, line in recording.lines] == ["one", "two"]
    print("ee", file=recording, flush=True)
    assert [line for _, line in recording.lines] == ["one", "two", "three"]
    assert output.getvalue() == "one\ntwo\nthree\n"
    times = [after for after, _ in recording.lines]
    assert times == sorted(times)


@pytest.mark.parametrize("name", ["demo.svg", "live-move.svg"])
def test_both_pictures_are_written_and_small(name: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, "make demo", LINES, TIMES)
    picture = (tmp_path / name).read_text()
    assert read(picture).tag == f"{SVG}svg"
    assert len(picture) < 16384
    assert "<script" not in picture
