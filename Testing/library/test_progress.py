"""Progress for people and for programs."""

from __future__ import annotations

import io
import json

from imagingai.progress import Bar, Lines, clock, seconds_left


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_time_left_is_in_proportion():
    assert seconds_left(0.25, 10) == 30
    assert seconds_left(0.01, 10) is None, "too early to say"
    assert clock(65) == "1:05" and clock(3725) == "1:02:05"


def test_a_log_gets_a_line_every_tenth():
    stream = io.StringIO()
    bar = Bar(stream)
    for number in range(101):
        bar(number / 100, "working")
    assert len(stream.getvalue().splitlines()) == 11
    assert stream.getvalue().splitlines()[-1] == "100 %  working"


def test_a_terminal_gets_one_line_that_is_redrawn():
    stream = Terminal()
    Bar(stream)(1.0, "done")
    assert stream.getvalue().startswith("\r\033[K[" + "#" * 30 + "] 100 %")


def test_a_program_gets_json_lines():
    stream = io.StringIO()
    Lines(stream)(1.0, "done")
    assert json.loads(stream.getvalue()) == {"fraction": 1.0, "text": "done", "seconds_left": 0.0}
