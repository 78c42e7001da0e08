"""Errors that a user can act on; each message says what to do."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class MoeTheoryError(Exception):
    """Any error that the toolkit raises on purpose."""


class InputError(MoeTheoryError, ValueError):
    """A request that cannot be honoured; the message names the value and the fix."""


class StoreError(MoeTheoryError):
    """A results folder or file that cannot be written, read or trusted; the message names it and the fix."""


@contextmanager
def portable_errors() -> Iterator[None]:
    """For worker processes: within it every error can be sent to the process that waits for it.

    Some of JAX's cannot be unpickled, and a pool that meets one reports that a process died. An error that is not one
    of ours is raised as a RuntimeError that holds its whole text.
    """
    try:
        yield
    except MoeTheoryError:
        raise
    except Exception as error:
        raise RuntimeError("".join(traceback.format_exception(error))) from None
