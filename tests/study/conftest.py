"""Fixtures of the study's tests."""

from collections.abc import Callable

import pandas as pd
import pytest

from tests import synthetic

SyntheticRows = Callable[..., pd.DataFrame]


@pytest.fixture
def synthetic_rows() -> SyntheticRows:
    """A function (sizes, replications, first, **exponents) -> rows with errors n^exponent times lognormal noise."""
    return synthetic.synthetic_rows
