"""Progress of a long run, with an estimate of the time left."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

CLEAR_TO_END = "\x1b[K"


@runtime_checkable
class Stream(Protocol):
    """What a report is written to: any text stream."""

    def write(self, text: str, /) -> Any: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


class Progress:
    """Report how much of a run is done: one updating line on a terminal, elsewhere a plain line now and then.

    With w of W units done, v of them in the t seconds since the last call of `ready` (or since the start), the time
    left is estimated as t (W - w) / v: what is spent on compilation does not count as work. Stored work that is only
    loaded does not belong into `total`.

        with Progress(640, "lora-over") as progress:
            compile()
            progress.ready()
            for block in blocks:
                fit(block)
                progress.advance(64)
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        stream: Stream | None = None,
        clock: Callable[[], float] = time.monotonic,
        interval: float | None = None,
    ) -> None:
        """Start the clock.

        Args:
            total: W, units of work, at least 0.
            label: what is being done.
            stream: where to report; standard error by default.
            clock: seconds, monotonic.
            interval: least seconds between two lines; by default 0.2 on a terminal and 30 elsewhere.

        Raises:
            ValueError: if `total` is negative.
        """
        if total < 0:
            raise ValueError(f"total must not be negative, got {total}")
        self._stream = sys.stderr if stream is None else stream
        self._updates = self._stream.isatty()
        self._interval = interval if interval is not None else (0.2 if self._updates else 30.0)
        self._clock = clock
        self._total, self._label = total, label
        self._done, self._note = 0, ""
        self._started = self._shown = self._ready = clock()
        self._done_before = 0
        self._finished = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def ready(self) -> None:
        """Estimate from now on by what is done from now on: a worker has compiled and begins to work."""
        self._ready, self._done_before = self._clock(), self._done

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count finished units and report, unless the last report is too recent.

        Args:
            units: units finished since the last call.
            note: short text shown behind the estimate, for example the sample size at work.
        """
        self._done += units
        self._note = note
        now = self._clock()
        if now - self._shown >= self._interval:
            self._shown = now
            self._write(self._line(now))

    def seconds_left(self) -> float | None:
        """Estimate the seconds left, t (W - w) / v; None before anything is done since `ready`."""
        recent = self._done - self._done_before
        if recent == 0:
            return None
        return (self._clock() - self._ready) * max(self._total - self._done, 0) / recent

    def finish(self) -> None:
        """Write the last line; further calls do nothing."""
        if self._finished:
            return
        self._finished = True
        elapsed = format_seconds(self._clock() - self._started)
        self._write(f"{self._label}: {self._done}/{self._total} done in {elapsed}", last=True)

    def _line(self, now: float) -> str:
        share = 100 * self._done // self._total if self._total else 100
        left = self.seconds_left()
        estimate = "" if left is None else f", about {format_seconds(left)} left"
        note = f" ({self._note})" if self._note else ""
        gone = format_seconds(now - self._started)
        return f"{self._label}: {self._done}/{self._total} ({share} %), {gone} gone{estimate}{note}"

    def _write(self, line: str, *, last: bool = False) -> None:
        if self._updates:
            self._stream.write(f"\r{line}{CLEAR_TO_END}" + ("\n" if last else ""))
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()


def format_seconds(seconds: float) -> str:
    """Write a duration for people: '0:07', '12:03', '1:02:03'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
