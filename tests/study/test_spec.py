"""Specifications: grids of sizes, validation that names every error, and hashes that name results."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_theory.errors import InputError
from moe_theory.study.spec import (
    LARGEST_SIZE,
    ProblemSpec,
    SweepSpec,
    free_parameters,
    load_sweep,
    parse_sizes,
    problem_hash,
    revise,
    specification_hash,
    specify,
)

ranges = st.tuples(st.integers(1, LARGEST_SIZE), st.integers(1, LARGEST_SIZE)).filter(lambda ends: ends[0] < ends[1])
problems = st.builds(
    ProblemSpec,
    dimension=st.integers(2, 6),
    rank=st.integers(1, 2),
    k_true=st.integers(1, 3),
    k_fit=st.integers(3, 5),
    sigma=st.floats(1e-3, 1e3),
    gate=st.sampled_from(["attention", "gaussian"]),
    adapter=st.just("replora"),
    activation=st.sampled_from(["identity", "tanh", "sigmoid"]),
    anchored=st.booleans(),
    problem_seed=st.integers(0, 2**63 - 1),
    weight_floor=st.sampled_from([0.0, -0.0, 0.05]),
)


def test_decades_are_exact():
    assert parse_sizes("1e3:1e12:10") == tuple(10**power for power in range(3, 13))
    assert parse_sizes("1:1e15:16") == tuple(10**power for power in range(16))


def test_short_grid_has_no_repetitions():
    assert parse_sizes("1:4:20") == (1, 2, 3, 4)


@given(ends=ranges, count=st.integers(2, 60))
def test_grid_is_increasing_logarithmic_and_keeps_its_ends(ends: tuple[int, int], count: int):
    first, last = ends
    sizes = parse_sizes(f"{first}:{last}:{count}")
    assert sizes[0] == first
    assert sizes[-1] == last
    assert len(sizes) <= count
    assert all(later > earlier for earlier, later in pairwise(sizes))
    exact = np.geomspace(first, last, count)
    distance = np.abs(exact[:, None] - np.array(sizes, dtype=np.float64)[None, :])
    assert np.all(distance.min(axis=1) <= 0.5 + 1e-13 * exact)
    assert np.all(distance.min(axis=0) <= 0.5 + 1e-13 * np.array(sizes))


@given(text=st.text(max_size=20))
def test_garbage_is_an_input_error_or_a_grid(text: str):
    try:
        sizes = parse_sizes(text)
    except InputError:
        return
    assert len(sizes) >= 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1e6:1e3:4", "must increase.*write 1e3:1e6:4"),
        ("1e3:1e3:4", "must increase"),
        ("0:1e3:4", "first size.*between 1 and 1e15"),
        ("-10:1e3:4", "first size.*between 1 and 1e15"),
        ("nan:1e3:4", "first size.*between 1 and 1e15"),
        ("10:inf:4", "last size.*between 1 and 1e15"),
        ("10:1e16:4", "last size.*between 1 and 1e15"),
        ("1:1e999999999999:4", "last size"),
        ("ten:1e3:4", "first size.*must be a number"),
        ("10:1e3:1", "between 2 and 1000"),
        ("10:1e3:2.5", "between 2 and 1000"),
        ("10:1e3:1000000000", "between 2 and 1000"),
        ("10:1e3", "first:last:count"),
        ("", "first:last:count"),
    ],
)
def test_bad_grid_names_the_fix(text: str, reason: str):
    with pytest.raises(InputError, match=reason):
        parse_sizes(text)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rank": 5}, r"rank: rank must be between 1 and dimension = 4, got 5"),
        ({"rank": 0}, r"rank: rank must be between 1 and dimension = 4, got 0"),
        ({"k_true": 4}, r"k_fit: k_fit must be at least k_true = 4"),
        ({"sigma": 0}, r"sigma: must be greater than 0, got 0"),
        ({"sigma": float("nan")}, r"sigma: must be a finite number, got nan"),
        ({"radius": float("inf")}, r"radius: must be a finite number, got inf"),
        ({"weight_floor": 0.34}, r"weight_floor: weight_floor must be below 1/k_fit = 1/3"),
        ({"weight_floor": -0.1}, r"weight_floor: must be greater than or equal to 0"),
        ({"support": 50}, r"support: support must be at least 51, one point per free parameter"),
        ({"activation": "tanh"}, r"activation: lora has no activation.*replora"),
        ({"gate": "softmax"}, r"gate: must be 'attention', 'gaussian' or 'density', got 'softmax'"),
        ({"sigmma": 1.0}, r"sigmma: unknown setting; known are .*sigma"),
    ],
)
def test_bad_problem_names_the_fix(settings: dict[str, object], reason: str):
    with pytest.raises(InputError, match=reason):
        specify(ProblemSpec, settings)


def test_all_errors_are_reported_together_with_their_paths():
    with pytest.raises(InputError) as caught:
        specify(
            SweepSpec,
            {
                "problem": {"rank": 9, "sigma": -1, "k_true": 3, "k_fit": 2, "colour": "red"},
                "sizes": [100, 10],
                "replications": 0,
                "seeds": 1,
            },
        )
    lines = str(caught.value).splitlines()
    paths = {line.split(":")[0] for line in lines}
    assert paths == {
        "problem.rank",
        "problem.sigma",
        "problem.k_fit",
        "problem.colour",
        "sizes",
        "replications",
        "seeds",
    }
    known = {line.split(":")[0]: line for line in lines if "unknown setting" in line}
    assert "weight_cap" in known["problem.colour"]
    assert "replications" in known["seeds"]


@pytest.mark.parametrize("sizes", [[], [10, 10], [100, 10], [0, 10], [10, 10**15 + 1], [10.5, 20], "1e3:1e2:4"])
def test_bad_sizes_are_refused(sizes: object):
    with pytest.raises(InputError, match="sizes"):
        specify(SweepSpec, {"sizes": sizes})


def test_sizes_may_be_written_as_whole_floats_or_text():
    assert specify(SweepSpec, {"sizes": [1e3, 1e4]}).sizes == (1000, 10000)
    assert specify(SweepSpec, {"sizes": "1e3:1e5:3"}).sizes == (1000, 10000, 100000)


def test_specifications_are_immutable_and_hashable():
    sweep = SweepSpec()
    with pytest.raises(ValueError, match="frozen"):
        sweep.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert hash(sweep) == hash(SweepSpec())


def test_revision_is_checked():
    assert revise(SweepSpec(), replications=3).replications == 3
    assert revise(ProblemSpec(), adapter="replora", activation="tanh").activation == "tanh"
    with pytest.raises(InputError, match="replications"):
        revise(SweepSpec(), replications=0)


def test_free_parameters_by_hand():
    assert free_parameters(dimension=4, rank=1, atoms=3, adapter="lora") == 3 * (1 + 4 + 4 + 4 + 4)
    assert free_parameters(dimension=4, rank=2, atoms=2, adapter="replora") == 2 * (1 + 8 + 8)


@given(problem=problems, order=st.randoms(use_true_random=False))
def test_hash_ignores_the_order_of_settings(problem: ProblemSpec, order: object):
    settings = list(problem.model_dump().items())
    order.shuffle(settings)  # pyright: ignore[reportAttributeAccessIssue]
    assert specification_hash(specify(ProblemSpec, dict(settings))) == specification_hash(problem)


@given(one=problems, other=problems)
def test_hashes_agree_exactly_when_specifications_do(one: ProblemSpec, other: ProblemSpec):
    assert (specification_hash(one) == specification_hash(other)) == (one == other)


@given(problem=problems)
def test_hash_survives_json(problem: ProblemSpec):
    again = ProblemSpec.model_validate_json(problem.model_dump_json())
    assert specification_hash(again) == specification_hash(problem)


def test_equal_numbers_hash_equally():
    assert specification_hash(ProblemSpec(sigma=1)) == specification_hash(ProblemSpec(sigma=1.0))
    assert specification_hash(ProblemSpec(weight_floor=-0.0)) == specification_hash(ProblemSpec(weight_floor=0.0))


def test_hash_is_the_same_in_another_process():
    code = (
        "from moe_theory.study.spec import SweepSpec, problem_hash, specification_hash;"
        "print(specification_hash(SweepSpec()), problem_hash(SweepSpec()))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == [specification_hash(SweepSpec()), problem_hash(SweepSpec())]


def test_problem_hash_covers_what_a_row_depends_on_and_nothing_else():
    sweep = SweepSpec()
    same = [revise(sweep, replications=2), revise(sweep, sizes=(10, 20)), revise(sweep, block=7)]
    other = [
        revise(sweep, seed=1),
        revise(sweep, starts="far"),
        revise(sweep, problem=ProblemSpec(sigma=2.0)),
    ]
    assert {problem_hash(s) for s in same} == {problem_hash(sweep)}
    assert len({problem_hash(s) for s in [sweep, *other]}) == 4


def test_sweep_is_loaded_from_toml(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text('sizes = "1e3:1e6:4"\nreplications = 8\n[problem]\nadapter = "replora"\nactivation = "tanh"\n')
    sweep = load_sweep(path)
    assert sweep.sizes == (10**3, 10**4, 10**5, 10**6)
    assert (sweep.replications, sweep.problem.activation) == (8, "tanh")


def test_bad_toml_names_the_file_and_the_errors(tmp_path):
    path = tmp_path / "sweep.toml"
    with pytest.raises(InputError, match=r"sweep\.toml: cannot be read"):
        load_sweep(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_sweep(tmp_path)
    path.write_text("sizes = [")
    with pytest.raises(InputError, match=r"sweep\.toml: is not TOML"):
        load_sweep(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not TOML"):
        load_sweep(path)
    path.write_text("seed = -1\n[problem]\nrank = 9\n")
    with pytest.raises(InputError, match=r"(?s)sweep\.toml:.*problem\.rank.*seed"):
        load_sweep(path)


def test_study_plumbing_does_not_import_jax():
    code = (
        "import sys, moe_theory.study.spec, moe_theory.study.store, moe_theory.study.progress;"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
