"""How the errors of a density's cells are called: the words that fits, moduli and verdicts share, without JAX."""

KINDS = {"singleton": 1, "pair": 2, "triple": 3}
"""Cells by the number of their atoms; an error is ``<kind>`` (all blocks) or ``<kind>_<block>``."""
WHOLE = "D"
"""The loss of the whole measure among errors by block."""
