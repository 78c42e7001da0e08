"""A batched trust-region Newton method for over-fitted problems on a compact parameter space.

One lane minimises, for a barrier weight mu that falls to ``SMALLEST_BARRIER``,

    phi_mu(z) = F(z) - mu sum_c log s_c(z),        F in statistical units, slacks s_c > 0 inside Theta,

by primal-dual steps: multipliers lambda_c approximate mu / s_c and the model Hessian is

    W = hess F - sum_c lambda_c hess s_c + sum_c (lambda_c / s_c) grad s_c grad s_c'.

At the end lambda >= 0 and sum lambda s = (number of constraints) mu: the KKT conditions up to that gap.
Five things make it converge on the nearly flat, curved valleys of over-fitted problems:

- the gauge is divided out analytically: steps stay in a slice across its orbits (``frames.gauge_slice``), and along
  an orbit only where a bound presses (``pressed``); W in what follows is the model restricted to these steps;
- steps are straight in moment coordinates of the closest pair of atoms (``frames``), where the valley is;
- the trust-region problem is solved exactly in the eigenbasis of W, indefinite or not (More and Sorensen 1983);
- each step is corrected back to the valley's floor with the same factorisation: stiff coordinates follow the flat
  ones at second order, and a chord (Shamanskii) step q = -(W + l I)^-1 [grad phi(z + p) - (grad phi(z) + W p)] removes
  what a straight step p leaves, so that steps along the valley can be long;
- from every W more than one step is tried, longer after a success and shorter after a failure.

A step predicted to gain less than F's rounding is judged by the gradient alone. Code is for one lane; the caller vmaps.
Sources: Nocedal and Wright 2006, ch. 4 and 19; Waechter and Biegler 2006 for the primal-dual safeguards; the corrected
step is in the spirit of Transtrum and Sethna 2012 (geodesic acceleration); internal doubling is Dennis and Schnabel's
(1983, section 6.4).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe_theory.estimation.smooth import AbstractProblem, AbstractView, GaugeSlice
from moe_theory.estimation.spectrum import REACH, Spectrum, decompose, possible_gains, trust_region_step

FIRST_BARRIER = 0.01
FIRST_SHARE = 1e-5
"""mu begins at this share of F, and no lower than ``FIRST_BARRIER``. A mu of what F can still fall by drives a lane to
the middle of Theta first: near the truth F is about half the number of observations however large n is, and falls by
some tens. A share of 0.01 cost 10 to 25 % more steps than this one and ended in higher minima."""
SMALLEST_BARRIER = 1e-6
SMALLEST_GAP = 9e-5
"""The barrier ends at ``SMALLEST_BARRIER``, or lower where many constraints would add up to a larger gap."""
DECREMENT = 1e-5
CENTRALITY = 0.01
"""The certificate is judged with multipliers mu / s. A lane ends where its own are this near, relatively; one that has
settled otherwise goes on from mu / s."""
INACTIVE = 0.1
"""Where phi_mu's last barrier would leave a decrement below this share of mu, no constraint is active (an active one
leaves mu / 2), and the barrier ends at once."""
UNRESOLVED_GAIN = 4e-4
NEAR = 0.1
"""A bound presses along a gauge orbit from no farther than this, in the frame's units."""
CORRECTIONS = 4
STIFF = 1.0
FIRST_RADIUS, LARGEST_RADIUS = 0.5, 4.0
GROWTH, SHRINKAGE = 2.0, 0.3
"""Of the trust radius after a step that kept what the model promised, and after one that did not."""
TRIES = 2
"""Steps tried from one W, which costs as much as three (HoRA) to seven (DoRA) of them. Two take 16 to 32 % fewer
iterations than one that grows by 1.5 in the next; three take a tenth fewer still, and as much time as they save."""
DUAL_RANGE = 1e3
RESTORATIONS = 3

SHORTEST_RADIUS = 1e-13

RUNNING, CONVERGED, ITERATION_LIMIT, STALLED = 0, 1, 2, 3


class State(NamedTuple):
    """One lane's progress.

    Attributes:
        z: coordinates, see ``Chart``.
        multipliers: lambda, one per constraint.
        barrier: mu.
        radius: of the trust region.
        value: F at z.
        decrement: Newton decrement 1/2 g' W^-1 g of phi_mu at the last point where it was formed.
        status: RUNNING, CONVERGED, ITERATION_LIMIT or STALLED.
        iterations: steps tried so far.
    """

    z: Float[Array, " z"]
    multipliers: Float[Array, " c"]
    barrier: Float[Array, ""]
    radius: Float[Array, ""]
    value: Float[Array, ""]
    decrement: Float[Array, ""]
    status: Int[Array, ""]
    iterations: Int[Array, ""]


class Local(NamedTuple):
    """Everything a step needs at z."""

    y: Float[Array, " z"]
    value: Float[Array, ""]
    slope: Float[Array, " z"]
    slacks: Float[Array, " c"]
    slack_slopes: Float[Array, "c z"]
    spectrum: Spectrum


class Standpoint(NamedTuple):
    """A lane with all that a step from where it is, or a judgement of it, needs to know.

    Attributes:
        state: the lane's, its atoms reordered and aligned.
        frame: of the view in which ``local`` is.
        local: the model.
    """

    state: State
    frame: Any
    local: Local


def standpoint(problem: AbstractProblem, state: State) -> Standpoint:
    """Choose the view of a lane and form the model there: the dear half of a step."""
    z, multipliers, view = problem.sight(state.z, state.multipliers)
    here = state._replace(z=z, multipliers=multipliers)
    return Standpoint(here, view.frame, look(view, here, view.enter(z)))


def centred(problem: AbstractProblem, state: State) -> State:
    """The same lane with the multipliers mu / s, which make no use of how it came there."""
    return state._replace(multipliers=state.barrier / problem.slacks(state.z))


def look(view: AbstractView, state: State, y: Float[Array, " z"]) -> Local:
    """Form the primal-dual model at y, the state's point in the view's coordinates."""
    level, steep, hessian, slacks, slack_slopes = view.derivatives(y, state.multipliers)
    model = hessian + slack_slopes.T @ ((state.multipliers / slacks)[:, None] * slack_slopes)
    slope = steep - slack_slopes.T @ (state.barrier / slacks)
    across = view.across(y)
    extra = pressed(across, state.barrier, slacks, slack_slopes, view.loose)
    spectrum = decompose(jnp.concatenate([across.basis, extra], axis=1), slope, model)
    return Local(y, level, steep, slacks, slack_slopes, spectrum)


def pressed(
    across: GaugeSlice,
    barrier: Float[Array, ""],
    slacks: Float[Array, " c"],
    slack_slopes: Float[Array, "c z"],
    loose: int,
) -> Float[Array, "z loose"]:
    """The gauge motions along which a bound presses, less what lies in the slice; columns of zeros for the rest.

    F does not change along a gauge orbit, a slack may: the model sees sym(W_Q M_K) alone, say, and Theta bounds W_Q.
    Where such a bound is active, F falls further once the orbit is followed away from it, so these motions are steps
    too. Where it is not they are none, because phi_mu is flat along the orbit and the orbit curved.

    Args:
        across: the slice.
        barrier, slacks, slack_slopes: mu, s and grad s.
        loose: ``AbstractView.loose``.
    """
    if not loose:
        return across.orbit[:, :0]
    felt = slack_slopes @ across.orbit
    stiffness = felt.T @ ((barrier / slacks**2)[:, None] * felt)
    values, turn = jnp.linalg.eigh(stiffness, symmetrize_input=True)
    values, along = values[-loose:], across.orbit @ turn[:, -loose:]
    push = jnp.abs((barrier / slacks) @ slack_slopes @ along)
    presses = (REACH * push > UNRESOLVED_GAIN) & (push < NEAR * values)
    outside = across.normals.T @ jnp.where(presses[None], along, 0.0)
    squares, mixed = jnp.linalg.eigh(outside.T @ outside, symmetrize_input=True)
    lengths = jnp.sqrt(jnp.where(squares > 1e-12, squares, jnp.inf))
    return across.normals @ (outside @ (mixed / lengths[None]))


def merit(local: Local, barrier: Float[Array, ""], slacks: Float[Array, " c"], value: Float[Array, ""]) -> Array:
    """phi_mu where F is ``value``; infinite where a slack would fall below a fraction of what it is now."""
    inside = jnp.all(slacks > 0.005 * local.slacks)
    level = value - barrier * jnp.sum(jnp.log(jnp.where(slacks > 0, slacks, 1.0)))
    return jnp.where(inside & jnp.isfinite(level), level, jnp.inf)


class Trial(NamedTuple):
    """Where a step may lead: y, phi_mu and F there."""

    y: Float[Array, " z"]
    merit: Float[Array, ""]
    value: Float[Array, ""]


def corrected(
    view: AbstractView, local: Local, barrier: Float[Array, ""], step: Array, shift: Array, bend: Array
) -> Trial:
    """The best of the straight step and its chord corrections, which begin at its end moved by ``bend``.

    The corrections run from the stiffest directions down to those in which a displacement as long as the step costs
    one unit of F: a residual left in a stiffer direction would be mistaken for a force along the softer ones.
    """
    spectrum = local.spectrum
    expected = spectrum.slope + spectrum.values * (spectrum.vectors.T @ step)
    curvature = jnp.maximum(spectrum.values + shift, spectrum.rounding)
    softest = STIFF / jnp.maximum(jnp.sum(step**2), 1e-200)
    stiffest = jnp.maximum(0.1 * spectrum.values[-1], softest)

    def better(trial: Trial, best: Trial) -> Trial:
        return jax.tree.map(lambda new, old: jnp.where(trial.merit < best.merit, new, old), trial, best)

    def correct(index: Array, carry: tuple[Array, Trial]) -> tuple[Array, Trial]:
        trial, best = carry
        cut = softest * (stiffest / softest) ** (1.0 - (index + 1) / CORRECTIONS)
        slacks, pull = jax.vjp(view.slacks, trial)
        value, steep = view.slope(trial)
        tried = Trial(trial, merit(local, barrier, slacks, value), value)
        excess = (spectrum.vectors.T @ (steep - pull(barrier / slacks)[0]) - expected) / curvature
        moved = trial - spectrum.vectors @ jnp.where(spectrum.values > cut, excess, 0.0)
        return moved, better(tried, best)

    first = restored(view, local, step, bend)
    nowhere = Trial(first, jnp.full((), jnp.inf), jnp.full((), jnp.inf))
    last, best = jax.lax.fori_loop(0, CORRECTIONS, correct, (first, nowhere))
    value = view.value(last)
    return better(Trial(last, merit(local, barrier, view.slacks(last), value), value), best)


def restored(view: AbstractView, local: Local, step: Array, bend: Array) -> Float[Array, " z"]:
    """The end of a step, moved by ``bend`` and brought back inside where the boundary curves away from its tangent.

    The model holds the curvature of the constraints (W contains -lambda hess s), so it speaks of a step along the
    boundary, with slack s + grad s . p; a straight step misses that by its length squared. Where less than half of it
    is left, Newton steps in the worst constraint restore it.
    """
    target = jnp.maximum(local.slacks + local.slack_slopes @ step, 0.01 * local.slacks)
    steepness = jnp.maximum(jnp.sum(local.slack_slopes**2, axis=1), 1e-300)

    def restore(_: Any, y: Array) -> Array:
        slacks = view.slacks(y)
        worst = jnp.argmin(slacks / target)
        lack = jnp.where(slacks[worst] < 0.5 * target[worst], target[worst] - slacks[worst], 0.0)
        return y + lack / steepness[worst] * local.slack_slopes[worst]

    return jax.lax.fori_loop(0, RESTORATIONS, restore, local.y + step + bend)


def _feasible_length(local: Local, step: Array) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The longest part of the step that keeps a hundredth of every slack, and the constraint that asks for it."""
    loss = -(local.slack_slopes @ step) / local.slacks
    lengths = 0.99 / jnp.maximum(loss, 0.99)
    return jnp.min(lengths), jnp.argmin(lengths)


class Move(NamedTuple):
    """The outcome of a step.

    Attributes:
        y, merit, value: where it leads, phi_mu (infinite unless accepted) and F there.
        step: the straight one.
        accepted: whether y is better than where it began, which it otherwise is.
        radius: of the trust region, next.
        promising: whether it kept what the model promised and only the radius kept it from being longer.
        shortened, tightest: whether a constraint cut it short, and which.
    """

    y: Float[Array, " z"]
    merit: Float[Array, ""]
    value: Float[Array, ""]
    step: Float[Array, " z"]
    accepted: Bool[Array, ""]
    radius: Float[Array, ""]
    promising: Bool[Array, ""]
    shortened: Bool[Array, ""]
    tightest: Int[Array, ""]


def attempt(view: AbstractView, state: State, local: Local) -> Move:
    """The best of ``TRIES`` steps: after a promising one a longer one, after one that failed a shorter one.

    What the corrections add to a step grows with the square of its length: the longer one begins with as much.
    """

    def again(_: Any, best: Move) -> Move:
        scale = jnp.where(best.promising, jnp.minimum(GROWTH, LARGEST_RADIUS / best.radius), 1.0)
        bend = jnp.where(best.promising, scale**2 * (best.y - local.y - best.step), 0.0)
        new = one_step(view, state, local, scale * best.radius, bend)
        keep = best.accepted & ~(new.merit < best.merit)
        return jax.tree.map(lambda old, other: jnp.where(keep, old, other), best, new)

    no, none = jnp.asarray(False), jnp.zeros_like(local.y)
    nowhere = Move(
        local.y, jnp.full((), jnp.inf), local.value, none, no, state.radius, no, no, jnp.zeros((), jnp.int64)
    )
    return jax.lax.fori_loop(0, TRIES, again, nowhere)


def one_step(
    view: AbstractView, state: State, local: Local, radius: Float[Array, ""], bend: Float[Array, " z"]
) -> Move:
    """Solve the trust-region problem, correct the step, and judge it by phi_mu (by rounding's leave if tiny)."""
    spectrum = local.spectrum
    along, shift = trust_region_step(spectrum, radius)
    length, tightest = _feasible_length(local, spectrum.vectors @ along)
    full = length * (spectrum.vectors @ along)
    predicted = -length * jnp.vdot(spectrum.slope, along) - 0.5 * length**2 * jnp.vdot(spectrum.values, along**2)
    start = local.value - state.barrier * jnp.sum(jnp.log(local.slacks))
    trial = corrected(view, local, state.barrier, full, shift, bend)
    rounding = 1e-9 + 1e-11 * jnp.abs(local.value)
    ratio = (start - trial.merit + rounding) / (jnp.maximum(predicted, 0.0) + rounding)
    size = jnp.linalg.norm(along)
    accepted = (ratio > 1e-3) & jnp.isfinite(trial.merit)
    return Move(
        y=jnp.where(accepted, trial.y, local.y),
        merit=jnp.where(accepted, trial.merit, jnp.inf),
        value=jnp.where(accepted, trial.value, local.value),
        step=full,
        accepted=accepted,
        radius=jnp.where(ratio < 0.2, SHRINKAGE * jnp.minimum(size, radius), radius),
        promising=(ratio > 0.8) & (size > 0.8 * radius) & (length > 0.5),
        shortened=length < 1.0,
        tightest=tightest,
    )


def step(problem: AbstractProblem, state: State) -> State:
    """One iteration of one lane; a lane that is not RUNNING does not move."""
    return move(problem, state, standpoint(problem, state))


def move(problem: AbstractProblem, state: State, at: Standpoint) -> State:
    """The other half of an iteration: from the state and its ``standpoint`` to the next state."""
    local, view = at.local, problem.seen_in(at.frame)
    here = at.state._replace(iterations=state.iterations + 1)
    gain, unresolved, downward = possible_gains(local.spectrum)
    minimum = downward <= UNRESOLVED_GAIN
    central = jnp.max(jnp.abs(here.multipliers * local.slacks / here.barrier - 1.0)) <= CENTRALITY
    last = min(SMALLEST_BARRIER, SMALLEST_GAP / local.slacks.shape[0])
    settled = (gain <= DECREMENT) & minimum & (unresolved <= UNRESOLVED_GAIN) & (state.barrier <= last)
    done = settled & central

    tried = attempt(view, here, local)
    z = jnp.where(tried.accepted, problem.tidied(view.leave(tried.y)), here.z)
    ready = (gain <= here.barrier) & minimum
    inactive = ready & (_decrement_at(local, last) <= INACTIVE * here.barrier)
    barrier = jnp.where(inactive, last, _next_barrier(here.barrier, local.value, ready, last))
    ideal = barrier / problem.slacks(z)
    multipliers = jnp.where(settled | inactive, ideal, _dual_step(here, local, tried))
    stalled = ~tried.accepted & (tried.radius < SHORTEST_RADIUS)
    moved = State(
        z, jnp.clip(multipliers, ideal / DUAL_RANGE, ideal * DUAL_RANGE), barrier, tried.radius, tried.value, gain,
        jnp.where(stalled, STALLED, RUNNING), here.iterations,
    )  # fmt: skip
    kept = here._replace(value=local.value, decrement=gain, status=jnp.full_like(state.status, CONVERGED))
    after = jax.tree.map(lambda new, old: jnp.where(done, old, new), moved, kept)
    return jax.tree.map(lambda new, old: jnp.where(state.status == RUNNING, new, old), after, state)


def _decrement_at(local: Local, barrier: float) -> Float[Array, ""]:
    """The Newton decrement that phi_mu has here for another barrier, with the curvature of the present one."""
    slope = local.slope - local.slack_slopes.T @ (barrier / local.slacks)
    return possible_gains(local.spectrum._replace(slope=local.spectrum.vectors.T @ slope)).decrement


def _next_barrier(
    barrier: Float[Array, ""], level: Float[Array, ""], ready: Bool[Array, ""], last: float
) -> Float[Array, ""]:
    """Tenfold (later superlinearly) lower once a minimum of phi_mu is near, and never above a share of F."""
    lower = jnp.minimum(0.1 * barrier, jnp.minimum(barrier, 1.0) ** 1.5)
    lower = jnp.where(ready, jnp.maximum(last, lower), barrier)
    return jnp.minimum(lower, jnp.maximum(FIRST_BARRIER, FIRST_SHARE * level))


def _dual_step(state: State, local: Local, move: Move) -> Float[Array, " c"]:
    """lambda + d lambda with d lambda = mu / s - lambda - (lambda / s) grad s . p, kept positive.

    A constraint that cut the step short gets at least its least-squares multiplier grad F . grad s / ||grad s||^2:
    its lambda / s must hold the next step back, and lambda alone would grow to that value only slowly.
    """
    change = state.barrier / local.slacks - state.multipliers
    change = change - state.multipliers / local.slacks * (local.slack_slopes @ move.step)
    multipliers = jnp.maximum(state.multipliers + change, 0.01 * state.multipliers)
    force = local.slack_slopes @ local.slope / jnp.maximum(jnp.sum(local.slack_slopes**2, axis=1), 1e-300)
    blocked = move.shortened & (jnp.arange(local.slacks.shape[0]) == move.tightest)
    return jnp.where(blocked, jnp.maximum(multipliers, force), multipliers)


def initial_state(problem: AbstractProblem, z: Float[Array, " z"]) -> State:
    """The state of a lane that starts at z, which must lie inside Theta."""
    level = problem.value(z)
    barrier = jnp.maximum(FIRST_BARRIER, FIRST_SHARE * level)
    radius, infinite = jnp.asarray((FIRST_RADIUS, jnp.inf), jnp.float64)  # not weakly typed, else steps compile twice
    return State(z, barrier / problem.slacks(z), barrier, radius, level, infinite, jnp.int64(RUNNING), jnp.int64(0))
