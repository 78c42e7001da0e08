"""Certifying the problems of many claims: each truth once, only what is lacking, and what fails is told."""

import pytest

from moe_theory.errors import InputError
from moe_theory.study import certification
from moe_theory.study.foreseeing import Foreseen, foresee
from moe_theory.study.store import Store
from moe_theory.study.sweep import sweep_of
from moe_theory.study.witnesses import keep, kept
from moe_theory.theory.claims import CLAIMS, claim_named

SAME_TRUTH = ("replora-linear-exact", "replora-linear-over", "replora-linear-over-nofloor")


@pytest.fixture
def asked(monkeypatch):
    """Replace the computation; the claims that were certified. LoRA cannot be."""
    names = []

    def certified(name, changes, *, store):
        assert changes == {}
        names.append(name)
        if name.startswith("lora"):
            raise InputError("too little memory")
        keep(store, sweep_of(claim_named(name)).problem, {"laws": {}})

    monkeypatch.setattr(certification, "certified", certified)
    return names


def test_claims_of_one_truth_share_an_answer_that_is_computed_once(asked, tmp_path):
    store, claims = Store(tmp_path), [claim_named(name) for name in SAME_TRUTH]
    assert foresee(claims, store, 1) == [Foreseen("replora-linear-exact", "")]
    assert all(kept(store, sweep_of(claim).problem) is not None for claim in claims)
    assert foresee(claims, store, 1) == []
    assert asked == ["replora-linear-exact"]


def test_what_cannot_be_certified_is_told_and_the_others_are(asked, tmp_path):
    found = foresee([claim_named(name) for name in ("lora-over", "replora-tanh-over")], Store(tmp_path), 1)
    assert found == [Foreseen("lora-over", "too little memory"), Foreseen("replora-tanh-over", "")]


def test_densities_of_one_truth_share_an_answer_too(asked, tmp_path):
    densities = [claim for claim in CLAIMS.values() if claim.kind == "density"]
    foresee(densities, Store(tmp_path), 1)
    assert asked == ["gaussian-gated-exact", "gaussian-gated-type2-k4", "softmax-gated-k2"]
    same_law = ["conditional-density-replora-over", "conditional-mean-replora-over"]  # of the data, not the estimator
    foresee([claim_named(name) for name in same_law], Store(tmp_path), 1)
    assert asked[3:] == same_law
