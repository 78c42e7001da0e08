"""Work shared out among processes: everything is done once, and a process that dies is told."""

import math
import os

import jax
import pytest

from moe_theory.errors import MoeTheoryError
from moe_theory.study.processes import as_finished, default_workers


def test_an_accelerator_is_not_shared(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert default_workers() == 1
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert default_workers() == os.cpu_count()


def test_jax_says_what_there_is_where_nobody_asked(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert default_workers() == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert default_workers() == os.cpu_count()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_piece_is_done_once(workers):
    assert sorted(as_finished(math.isqrt, [16, 4, 9], workers)) == [2, 3, 4]
    assert list(as_finished(math.isqrt, [], workers)) == []


def test_a_process_that_dies_is_told():
    with pytest.raises(MoeTheoryError, match="fewer --workers"):
        list(as_finished(os._exit, [1, 1], 2))
