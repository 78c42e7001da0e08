"""Errors that a user can act on; each message says what to do."""


class MoeTheoryError(Exception):
    """Any error that the toolkit raises on purpose."""


class InputError(MoeTheoryError, ValueError):
    """A request that cannot be honoured; the message names the value and the fix."""


class StoreError(MoeTheoryError):
    """A results folder or file that cannot be written, read or trusted; the message names it and the fix."""
