"""Rows as a sweep stores them, made up: every error follows a law that the test chooses."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

EXPONENTS = {
    "D_1": -0.5,
    "D_12": -0.5,
    "D_12_lowest": -0.5,
    "D_12_highest": -0.5,
    "singleton_error": -0.5,
    "overfitted_error": -0.25,
    "overfitted_value_error": -0.25,
    "function_error": -0.5,
}

SyntheticRows = Callable[..., pd.DataFrame]


@pytest.fixture
def synthetic_rows() -> SyntheticRows:
    """A function (sizes, replications, first, **exponents) -> rows with errors n^exponent times lognormal noise."""

    def make(sizes, replications: int = 16, first: int = 0, **exponents: float) -> pd.DataFrame:
        numbers = np.arange(first, first + replications)
        rows = pd.DataFrame([(int(n), int(number)) for n in sizes for number in numbers], columns=["n", "replication"])
        rows["certified"] = True
        for name, exponent in {**EXPONENTS, **exponents}.items():
            noise = np.concatenate([np.random.default_rng([int(n), first]).normal(size=replications) for n in sizes])
            rows[name] = rows["n"].to_numpy(dtype=float) ** exponent * np.exp(0.3 * noise)
        return rows

    return make
