"""Progress reports: the estimate, the two kinds of stream, and the last line."""

import io

import pytest

from moe_theory.study.progress import CLEAR_TO_END, Progress, format_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_stream_gets_an_occasional_line_and_a_last_one():
    stream, clock = io.StringIO(), Clock()
    with Progress(100, "lora-over", stream=stream, clock=clock) as progress:
        for _ in range(10):
            clock.now += 10.0
            progress.advance(10, note="n = 1000")
    assert stream.getvalue().splitlines() == [
        "lora-over: 30/100 (30 %), 0:30 gone, about 1:10 left (n = 1000)",
        "lora-over: 60/100 (60 %), 1:00 gone, about 0:40 left (n = 1000)",
        "lora-over: 90/100 (90 %), 1:30 gone, about 0:10 left (n = 1000)",
        "lora-over: 100/100 done in 1:40",
    ]


def test_terminal_gets_one_updating_line():
    stream, clock = Terminal(), Clock()
    progress = Progress(2, "claim", stream=stream, clock=clock)
    clock.now += 1.0
    progress.advance()
    clock.now += 0.1
    progress.advance()
    progress.finish()
    progress.finish()
    assert stream.getvalue() == (
        f"\rclaim: 1/2 (50 %), 0:01 gone, about 0:01 left{CLEAR_TO_END}\rclaim: 2/2 done in 0:01{CLEAR_TO_END}\n"
    )


def test_estimate_needs_something_done_and_never_falls_below_zero():
    clock = Clock()
    progress = Progress(4, "claim", stream=io.StringIO(), clock=clock)
    assert progress.seconds_left() is None
    clock.now += 3.0
    progress.advance()
    assert progress.seconds_left() == 9.0
    progress.advance(9)
    assert progress.seconds_left() == 0.0


def test_compilation_is_not_work():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(12, "claim", stream=stream, clock=clock)
    clock.now += 60.0
    progress.ready()
    assert progress.seconds_left() is None
    clock.now += 5.0
    progress.advance(2)
    assert progress.seconds_left() == 25.0
    assert stream.getvalue() == "claim: 2/12 (16 %), 1:05 gone, about 0:25 left\n"
    progress.ready()  # a second worker: from here on two share the work
    assert progress.seconds_left() is None
    clock.now += 5.0
    progress.advance(4)
    assert progress.seconds_left() == 7.5


def test_interrupted_run_says_how_far_it_came():
    stream, clock = io.StringIO(), Clock()

    def interrupted() -> None:
        with Progress(4, "claim", stream=stream, clock=clock) as progress:
            progress.advance(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue() == "claim: 3/4 done in 0:00\n"


def test_nothing_to_do_is_fine_and_negative_work_is_not():
    stream = io.StringIO()
    with Progress(0, "claim", stream=stream, clock=Clock(), interval=0.0) as progress:
        progress.advance(0)
    assert stream.getvalue().splitlines()[0].startswith("claim: 0/0 (100 %)")
    with pytest.raises(ValueError, match="negative"):
        Progress(-1, "claim", stream=stream)


def test_report_goes_to_standard_error_by_default(capsys):
    with Progress(1, "claim"):
        pass
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "claim: 0/1" in captured.err


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (723, "12:03"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str):
    assert format_seconds(seconds) == text
