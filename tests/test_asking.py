"""The options by which commands choose a sweep."""

import pytest
import typer
from typer.testing import CliRunner

from moe_theory.asking import OF_PROBLEMS, Asked, asks_for_sweeps
from moe_theory.errors import InputError
from moe_theory.study.spec import problem_hash
from moe_theory.study.stored import OPTIONS
from moe_theory.theory.claims import claim_named

NOTHING = Asked()


def invoked(*arguments):
    """What a command with the options is given for these arguments, beside its own."""
    seen = []
    app = typer.Typer()

    @app.command()
    @asks_for_sweeps
    def command(asked: Asked, name: str = "none") -> None:
        """Keep what was asked for."""
        seen.append((asked, name))

    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def test_the_command_line_sets_what_a_store_can_name():
    assert tuple(OF_PROBLEMS) == OPTIONS


def test_nothing_given_is_the_claims_own_sweep():
    assert invoked() == (NOTHING, "none")


def test_options_are_collected():
    asked, name = invoked("--name", "x", "--n", "1e3:1e6:4", "--seed", 3, "--rank", 2, "--no-anchor", "--sigma", 0.5)
    assert name == "x"
    assert asked == Asked(n="1e3:1e6:4", seed=3, problem={"rank": 2, "sigma": 0.5, "anchored": False})


def test_fitted_atoms_follow_the_true_ones():
    for claim, extra in (("lora-over", 1), ("lora-exact", 0)):
        problem = NOTHING._replace(problem={"k_true": 3}).sweep(claim_named(claim)).problem
        assert (problem.k_true, problem.k_fit) == (3, 3 + extra)


def test_unknown_starts_are_refused_before_anything_runs():
    with pytest.raises(InputError, match="standard"):
        NOTHING._replace(starts="lucky").sweep(claim_named("lora-over"))


def test_rows_are_the_same_ones_in_any_block():
    claim = claim_named("lora-over")
    asked, _ = invoked("--block", 1024)
    assert asked.sweep(claim).block == 1024
    assert problem_hash(asked.sweep(claim)) == problem_hash(NOTHING.sweep(claim))
