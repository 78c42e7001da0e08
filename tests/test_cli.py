"""The command line: helps without JAX, refuses bad requests before anything is written, runs a claim end to end."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moe_theory import certifying, cli
from moe_theory.errors import MoeTheoryError
from moe_theory.study import planner
from moe_theory.study import sweep as sweeps
from moe_theory.study.foreseeing import Foreseen
from moe_theory.study.store import Store, load_results
from moe_theory.study.sweep import sweep_of
from moe_theory.theory.claims import CLAIMS, GROUPS, HALF, HEADLINE, claim_named
from moe_theory.theory.comparisons import COMPARISONS
from tests.synthetic import stored_rows, synthetic_rows

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("claims", "run", "verdict", "plot", "plan", "reproduce", "certify")
EXACT = "replora-linear-exact"
KEYS = {
    "id",
    "model",
    "specification",
    "loss",
    "predicted",
    "exponent",
    "interval",
    "law",
    "verdict",
    "reason",
    "certified_share",
    "replications",
    "n",
}
# The smallest problem that is still one: its real fits take a second, after half a minute of compilation.
SMALL = ("--smoke", "--dimension", "2")

HELP = """
import sys
from typer.testing import CliRunner
from moe_theory.cli import app
for command in sys.argv[1:]:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0, (command, result.output)
    assert "Usage" in result.output, result.output
assert CliRunner().invoke(app, ["claims"]).exit_code == 0
assert "jax" not in sys.modules, "help must not wait for jax"
"""

SINGLE_PRECISION = """
from moe_theory.errors import InputError
from moe_theory.study.problem import build
from moe_theory.study.spec import ProblemSpec
try:
    build(ProblemSpec())
except InputError as error:
    print(error)
"""


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the entry point in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moe-theory", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture
def no_fits(monkeypatch):
    def never(*_):
        raise AssertionError("a bad request must be refused before anything is computed")

    monkeypatch.setattr(sweeps, "compute_cells", never)
    monkeypatch.setattr(sweeps, "ProcessPoolExecutor", never)


def test_help_of_every_command_does_not_import_jax():
    done = python("-c", HELP, "", *COMMANDS)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command_and_an_error_has_no_traceback(tmp_path):
    done = python("-m", "moe_theory", "run", "lora", "--results", str(tmp_path / "results"))
    assert done.returncode == 2
    assert done.stderr.startswith("moe-theory: unknown claim 'lora': choose from lora-exact")
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_single_precision_is_refused():
    done = python("-c", SINGLE_PRECISION, JAX_ENABLE_X64="0")
    assert done.returncode == 0, done.stderr
    assert "call moe_theory.enable_x64()" in done.stdout


def test_claims_are_listed(command):
    status, out, _ = command("claims")
    assert status == 0
    assert all(name in out for name in [*CLAIMS, *COMPARISONS])
    status, out, _ = command("claims", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [*CLAIMS, *COMPARISONS]


def test_a_comparison_runs_its_parts_and_is_judged_when_all_are_stored(command, tmp_path):
    store = Store(tmp_path / "store")
    comparison = COMPARISONS["hora-vs-mh-lora"]
    for name in comparison.parts:
        stored_rows(store, claim_named(name), sweep_of(claim_named(name)))
    here = ("--results", store.root)
    status, out, err = command("run", comparison.id, "--json", *here)
    assert status == 0, err
    *parts, last = (json.loads(line) for line in out.splitlines())
    assert [part["id"] for part in parts] == list(comparison.parts)
    assert last["id"] == comparison.id
    assert last["verdict"] in ("SUPPORTED", "REFUTED", "UNDECIDED")
    for names in ((comparison.id,), ()):
        assert comparison.id in command("verdict", *names, *here)[1]
    status, _, err = command("run", comparison.id, "--rank", 2, *here)
    assert status == 2
    assert "leave out --rank" in err


BAD = {
    "rank above d": ((EXACT, "--rank", 5), "rank must be between 1 and dimension = 4, got 5"),
    "k_fit below k_true": (("lora-over", "--k-fit", 1), "k_fit must be at least k_true = 2"),
    "sigma zero": ((EXACT, "--sigma", 0), "sigma: must be greater than 0, got 0.0"),
    "sigma negative": ((EXACT, "--sigma", -1), "sigma: must be greater than 0, got -1.0"),
    "sigma nan": ((EXACT, "--sigma", "nan"), "sigma: must be"),
    "grid reversed": ((EXACT, "--n", "1e12:1e3:10"), "must increase, got '1e12:1e3:10': write 1e3:1e12:10"),
    "grid from zero": ((EXACT, "--n", "0:1e3:4"), "must lie between 1 and 1e15, got '0'"),
    "grid negative": ((EXACT, "--n", "-10:1e3:4"), "must lie between 1 and 1e15, got '-10'"),
    "grid malformed": ((EXACT, "--n", "1e3"), "'first:last:count'"),
    "grid below 3": ((EXACT, "--n", "1:1e6:7"), "from 3 or more to 1e+04 or more"),
    "grid before the law": (("lora-over", "--n", "1e3:1e4:4"), "from 3 or more to 1e+05 or more"),
    "no replications": ((EXACT, "--reps", 0), "replications: must be greater than or equal to 1"),
    "too few replications": ((EXACT, "--reps", 2), "at least --reps 3, got 2"),
    "exact with an extra atom": ((EXACT, "--k-fit", 3), "needs k_fit = k_true, got --k-fit 3 and --k-true 2"),
    "over without one": (("lora-over", "--k-fit", 2), "needs k_fit > k_true"),
    "negative seed": ((EXACT, "--seed", -1), "seed: must be"),
    "floor too high": (("lora-over", "--weight-floor", 0.5), "weight_floor must be below 1/k_fit = 1/3"),
    "unknown starts": ((EXACT, "--starts", "fast"), "unknown starts 'fast': choose one of standard"),
    "unknown claim": (("lora",), "unknown claim 'lora': choose from lora-exact"),
    "one of several": ((EXACT, "lora"), "unknown claim 'lora'"),
    "no claim": ((), "name one or more claims, or all: lora-exact"),
    "accuracy zero": ((EXACT, "--eps", 0), "--eps must be positive, got 0"),
    "accuracy infinite": ((EXACT, "--eps", "inf"), "--eps must be positive, got inf"),
    "no workers": ((EXACT, "--workers", 0), "--workers"),
    "unknown option": ((EXACT, "--repetitions", 3), "No such option"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_a_bad_request_is_refused_with_its_fix_and_writes_nothing(command, no_fits, tmp_path, arguments, message):
    status, out, err = command("run", *arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_several_faults_are_told_at_once(command, no_fits):
    _, _, err = command("run", EXACT, "--rank", 9, "--sigma", -1)
    assert "rank" in err
    assert "sigma" in err


@pytest.mark.parametrize("arguments", [("run", EXACT), ("reproduce",)], ids=["run", "reproduce"])
def test_an_unwritable_results_folder_is_refused(command, no_fits, tmp_path, arguments):
    (tmp_path / "file").write_text("")
    status, out, err = command(*arguments, "--smoke", "--results", tmp_path / "file" / "results")
    assert (status, out) == (2, "")
    assert "choose a writable folder with --results DIR" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["verdict", "plot"])
def test_without_results_there_is_nothing_to_judge(command, tmp_path, name):
    for claims in ((), (EXACT,)):
        status, out, err = command(name, *claims)
        assert (status, out) == (2, "")
        assert "run `moe-theory run" in err
    assert not list(tmp_path.iterdir())


def test_every_claim_stored_under_the_defaults_is_judged_and_the_rest_is_told(command, tmp_path):
    store, exact, over = Store(tmp_path / "results"), claim_named(EXACT), claim_named("replora-linear-over")
    stored_rows(store, exact, sweep_of(exact, replications=8))
    stored_rows(store, exact, sweep_of(exact, replications=8, seed=7))
    stored_rows(store, over, sweep_of(over, sizes="1e6:1e8:3", replications=8, seed=3))
    status, out, err = command("verdict", "--json")
    assert status == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == [EXACT]
    assert "replora-linear-over is not stored under these options" in err
    assert f"  moe-theory verdict {EXACT} --seed 7  (10 sizes from 1e3 to 1e12, 8 replications)" in err
    asked = "moe-theory verdict replora-linear-over --seed 3"
    assert f"  {asked}  (3 sizes from 1e6 to 1e8, 8 replications)" in err
    status, out, err = command(*asked.split()[1:], "--json")
    assert (status, json.loads(out)["n"]) == (0, [10**6, 10**7, 10**8])
    assert err == ""


@pytest.mark.parametrize("name", ["verdict", "plot"])
def test_what_is_stored_only_otherwise_is_not_judged_but_told(command, tmp_path, name):
    exact = claim_named(EXACT)
    stored_rows(Store(tmp_path / "results"), exact, sweep_of(exact, replications=8, seed=7))
    for claims in ((), ("all",), (EXACT,)):
        status, out, err = command(name, *claims)
        assert (status, out) == (2, "")
        assert f"{EXACT} is not stored under these options" in err
        assert f"  moe-theory {name} {EXACT} --seed 7" in err
    assert not (tmp_path / "figures").exists()


def test_a_claim_that_cannot_be_judged_yet_does_not_stop_the_others(command, tmp_path):
    store, exact, over = Store(tmp_path / "results"), claim_named(EXACT), claim_named("replora-linear-over")
    stored_rows(store, exact, sweep_of(exact, replications=8))
    stored_rows(store, over, sweep_of(over, sizes=(1000, 10**4), replications=8))  # interrupted before its law begins
    status, out, err = command("verdict", "--json")
    assert status == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == [EXACT]
    assert "replora-linear-over needs a grid" in err
    assert command("verdict", EXACT, over.id)[0] == 2


def uncertified(jobs, *_):
    """Rows of which one in four is not certified, but only of LoRA."""
    made = []
    for claim, sweep in jobs:
        rows = synthetic_rows(sweep.sizes, sweep.replications)
        made.append(rows.assign(certified=(rows["replication"] % 4 > 0) | (not claim.id.startswith("lora"))))
    return made


def test_a_run_that_is_not_certified_has_status_3_and_prints_everything(command, monkeypatch):
    monkeypatch.setattr(cli, "run_claims", uncertified)
    assert command("run", EXACT, "--reps", 8)[0] == 0
    status, out, err = command("run", "lora-exact", EXACT, "--reps", 8, "--json")
    assert status == 3
    assert [json.loads(line)["certified_share"] for line in out.splitlines()] == [0.75, 1.0]
    assert "not so: lora-exact (75.0 %)" in err
    assert EXACT not in err


def test_reproduce_draws_everything_before_it_tells_what_is_not_certified(command, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(cli, "run_claims", uncertified)
    monkeypatch.setattr(cli, "foresee", lambda claims, *_: [Foreseen(claim.id, "no memory") for claim in claims[:1]])
    monkeypatch.setattr(cli, "draw_headline", lambda judged, folder, _: drawn.extend(judged) or [folder / "a.png"])
    status, out, err = command("reproduce")
    assert status == 3
    assert [made.claim.id for made, _ in drawn] == list(HEADLINE)
    assert out.endswith("a.png\n")
    assert "not so: lora-exact (75.0 %), lora-over (75.0 %)" in err
    assert f"not certified: {HEADLINE[0]}: no memory" in err


def test_the_problems_of_many_claims_are_certified_by_one_command(command, monkeypatch):
    asked = []

    def foresee(claims, *_):
        asked.extend(claims)
        return [Foreseen(claims[0].id, ""), Foreseen("lora-over", "no memory")]

    monkeypatch.setattr(certifying, "foresee", foresee)
    status, out, err = command("certify", "singles")
    assert status == 1
    assert [claim.id for claim in asked] == list(GROUPS["singles"])
    assert "1 problems certified" in out
    assert "lora-over: no memory" in err


@pytest.mark.parametrize("name", ["run", "reproduce"])
def test_the_exit_statuses_are_documented(name):
    text = CliRunner().invoke(cli.app, [name, "--help"]).output
    assert "certified minimisers" in " ".join(text.split())
    assert "3: fewer" in " ".join(text.split())


def test_sample_sizes_of_the_errors_asked_for_are_told(command, monkeypatch):
    monkeypatch.setattr(cli, "run_claims", uncertified)
    _, out, _ = command("run", EXACT, "--reps", 8, "--eps", 1e-3, "--eps", 1e-9, "--json")
    inside, beyond = json.loads(out)["sample_complexity"]
    assert (inside["accuracy"], inside["extrapolated"]) == (1e-3, False)
    assert inside["lower"] < inside["n"] < inside["upper"]
    assert (beyond["accuracy"], beyond["extrapolated"]) == (1e-9, True)
    _, out, _ = command("run", EXACT, "--reps", 8, "--eps", 1e-9)
    assert "an extrapolation of the power law beyond the sizes measured" in out


def test_bad_settings_of_the_other_commands_are_refused(command):
    for arguments, message in (
        (("verdict", "--statistic", "mode"), "--statistic must be median or mean"),
        (("plan", "lora"), "unknown claim"),
        (("plan", EXACT, "--log-sd", 0), "--log-sd must be positive"),
        (("certify", "lorra"), "unknown model 'lorra': give an adapter (lora, "),
        (("certify",), "name a model: an adapter"),
        (("certify", "lora", "--atlas"), "the atlas covers every model: leave out 'lora'"),
        (("certify", "lora", "--rank", 9), "rank must be between 1 and dimension = 4"),
        (("certify", "all", "--rank", 2), "all certifies claims at their own problems: leave out --rank"),
        (("certify", "dora", "--tau", "small"), "--tau must be 0, a positive number or 'free'"),
    ):
        status, _, err = command(*arguments)
        assert status == 2
        assert message in err


def test_a_plan_names_the_run_that_decides(command, monkeypatch):
    option = planner.Option(decades=5, sizes=6, replications=64, correct=0.95, wrong=0.0)
    made = planner.Plan(HALF, 0.3, (option,), option)
    monkeypatch.setattr(planner, "plan", lambda prediction, log_sd: made)  # the simulation takes 13 to 24 seconds
    status, out, _ = command("plan", EXACT, "--log-sd", 0.3, "--json")
    assert status == 0
    expected = {"decades": 5, "sizes": 6, "reps": 64}
    assert json.loads(out) == {"id": EXACT, "predicted": "n^-0.5", "log_sd": 0.3, "plan": expected}
    _, out, _ = command("plan", EXACT)
    assert out.endswith(f"moe-theory run {EXACT} --n 1e3:1e+08:6 --reps 64\n")
    monkeypatch.setattr(planner, "plan", lambda prediction, log_sd: planner.Plan(HALF, 0.3, (option,), None))
    assert json.loads(command("plan", EXACT, "--json")[1])["plan"] is None
    assert "use more decades or replications" in command("plan", EXACT)[1]


def test_what_could_not_be_finished_has_status_1(command, monkeypatch):
    def dies(*_):
        raise MoeTheoryError("a worker process died")

    monkeypatch.setattr(cli, "run_claims", dies)
    status, _, err = command("run", EXACT, "--smoke")
    assert status == 1
    assert err == "moe-theory: a worker process died\n"


def test_stopping_says_that_the_finished_cells_are_kept(command, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_claims", stopped)
    status, _, err = command("run", EXACT, "--smoke")
    assert status == 130
    assert "finished so far are kept" in err


@pytest.mark.slow
def test_a_claim_is_run_judged_and_drawn(tmp_path, monkeypatch):
    """Real fits: 20 to 60 seconds, nearly all of it compilation when the cache is cold."""
    results, figures = str(tmp_path / "results"), str(tmp_path / "figures")
    common = [EXACT, *SMALL, "--results", results, "--json"]
    runner = CliRunner()
    run = python("-m", "moe_theory", "run", *common, "--workers", "1")
    assert run.returncode == 0, run.stderr
    described = json.loads(run.stdout)
    assert set(described) >= KEYS
    assert (described["id"], described["certified_share"], described["replications"]) == (EXACT, 1.0, 8)
    assert described["exponent"] == pytest.approx(-0.5, abs=0.2)
    assert "32/32 done" in run.stderr
    assert len(load_results(results)) == 32
    # From here on only what is stored is read: nothing may be fitted again.
    monkeypatch.setattr(sweeps, "compute_cells", None)
    again = runner.invoke(cli.app, ["run", *common, "--workers", "1"], catch_exceptions=False)
    verdict = runner.invoke(cli.app, ["verdict", *common], catch_exceptions=False)
    assert json.loads(again.stdout) == json.loads(verdict.stdout) == described
    plot = runner.invoke(cli.app, ["plot", *common, "--figures", figures], catch_exceptions=False)
    assert plot.exit_code == 0
    drawn = [Path(path) for path in json.loads(plot.stdout)["figures"]]
    assert [path.suffix for path in drawn] == [".png", ".pdf", ".csv", ".json"]
    assert all(path.stat().st_size for path in drawn)


def children_of(parent: int) -> list[int]:
    """Living child processes, from the kernel's table."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, its_parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(its_parent) == parent and state != "Z":
            found.append(int(entry.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the kernel's table of processes")
def test_a_terminated_run_leaves_no_worker_behind(tmp_path):
    command = [sys.executable, "-m", "moe_theory", "run", EXACT, "--workers", "2", "--results", str(tmp_path)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while len(started := children_of(run.pid)) < 3:  # the workers, and what they share
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run.terminate()
    _, told = run.communicate(timeout=60)
    assert run.returncode == 143
    assert "the cells finished so far are kept" in told
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.1)
