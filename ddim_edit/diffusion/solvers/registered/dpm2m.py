"""DPM-Solver++(2M), the default solver, and its inverse.

Explicit steps upwards, as other programs take them, are of order 2 too, but they are not the steps that decoding takes:
these have their x0 at other levels, and the first one has no step before it. The inverse here looks for the states that
the steps of decoding themselves pass through. On 32 photographs, 20 + 20 evaluations of faces64, it comes back with
64 dB where explicit steps have 57.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from ddim_edit.diffusion.solvers.entry import SolverEntry
from ddim_edit.diffusion.solvers.solver import SingleStateSolver
from ddim_edit.diffusion.solvers.steps import HistoryEntry, ddim_step_x0, extrapolation_weights

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.diffusion.parametrization import Prediction
    from ddim_edit.diffusion.schedules import Level, Span
    from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
    from ddim_edit.diffusion.solvers.steps import History


def dpm2m_step(denoiser: TrackedDenoiser, x: Tensor, span: Span, history: History) -> tuple[Tensor, History]:
    """Take a step of DPM-Solver++(2M): order 2, one evaluation.

    With lambda = -log s, h = lambda' - lambda and the step before, h_prev, x0 is extrapolated linearly in lambda to the
    middle of the step,

        x0~ = x0 + (x0 - x0_prev) h / (2 h_prev),

    and a DDIM step is taken with x0~ and the eps~ that belongs to it at x. The first step, and any from or to s = 0
    where lambda is infinite, is DDIM's own.

    References:
        Lu, Zhou, Bao, Chen, Li, Zhu, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        2022, arXiv:2211.01095, algorithm 2.
    """
    return _explicit_step(denoiser(x, span.here), span, history)


def _explicit_step(prediction: Prediction, span: Span, history: History) -> tuple[Tensor, History]:
    """Take the step from the prediction at its start."""
    x0, eps = prediction
    remembered = (HistoryEntry(span.here, x0),)
    # lambda is infinite at s = 0, at the end of this step or where the step before came from.
    if not history or not span.there.s or not history[-1].level.s:
        return ddim_step_x0(x0, eps, span.there), remembered
    previous = history[-1]
    ratio = log(span.there.s / span.here.s) / log(span.here.s / previous.level.s) / 2
    change = ratio * (x0 - previous.value)
    # x0 + s eps stays as it was, because x does.
    return ddim_step_x0(x0 + change, eps - change / span.here.s, span.there), remembered


LARGEST_UNDONE_STEP = 0.7
"""Largest h that `dpm2m_inverse_step` undoes: that magnifies what is wrong with x0 by exp(h)."""
LARGEST_GROWTH = 1.001
"""How much longer, in log s, the next step may be than the last for x0 to be extrapolated over it by three and four
predictions. Logarithms of equal steps differ by rounding."""


def dpm2m_inverse_step(denoiser: TrackedDenoiser, x: Tensor, span: Span, history: History) -> tuple[Tensor, History]:
    """Take a step towards noise that `dpm2m_step` undoes: order 2, one evaluation.

    The denoiser is evaluated at a state, predicted from the history, that decoding passes through; with what it finds
    the state is corrected, and kept in the history for the next step. What is returned is the x_T from which decoding
    would begin at the end of the span. A step that is too large to be undone is explicit.

    The correction is the mean of those through the last three and the last four predictions. On eight photographs at 20
    steps three alone come back with 61 dB, four with 64 and the mean with 65; at 10 steps with 44, 43 and 46.5.

    Where steps grow towards noise only the first one is corrected: beyond it these polynomials are read too far away.
    A flow on `karras:-2.2` comes back with 83 dB so, with 58 where every state is corrected, and with 74 where none is.
    """
    here, there = span.here, span.there
    known = tuple(entry for entry in history if entry.level.s)  # at s = 0 log s, in which is extrapolated, is infinite
    x = predict_state(x, span, known)
    prediction = denoiser(x, here)
    if not here.s or log(there.s / here.s) > LARGEST_UNDONE_STEP:
        return _explicit_step(prediction, span, history)
    predictions = (*known, HistoryEntry(here, prediction.x0))
    grows = len(known) > 1 and log(there.s / here.s) > LARGEST_GROWTH * log(here.s / known[-1].level.s)
    if known and known[-1].state is not None and not grows:
        three = _undo_step(known[-1], here, there, predictions[-3:])
        four = _undo_step(known[-1], here, there, predictions[-4:])
        x = (three + four) / 2
    found = HistoryEntry(here, prediction.x0, x)
    return _undo_step(found, there, None, predictions[-2:]), (*known[-2:], found)


def predict_state(x: Tensor, span: Span, history: History) -> Tensor:
    """Return the state [B, ...] at the start of a span where `dpm2m_inverse_step` evaluates the denoiser.

    Args:
        x: what the step before returned, or the first state.
        span: the step that is next.
        history: what the step before returned, or ().
    """
    if not history or history[-1].state is None:
        return x
    return _undo_step(history[-1], span.here, span.there, history[-2:])


def _undo_step(before: HistoryEntry, there: Level, beyond: Level | None, predictions: History) -> Tensor:
    """Return the x' at a level from which DPM-Solver++(2M) steps down to the state of an entry.

    That step takes x0~ = x0' + (x0' - x0'') h' / (2 h''), where x0' is predicted at x' and x0'' at the level before.
    Both are read off the polynomial in lambda through predictions at other levels.

    Args:
        before: has the state that it steps down to.
        there: the level of x'.
        beyond: the level of x''; None where decoding begins at x', with x0~ = x0'.
        predictions: of x0, at levels up to `there`.
    """
    assert before.state is not None
    here = before.level
    levels = [entry.level for entry in predictions]
    weights = extrapolation_weights(levels, there)
    if beyond is not None:
        ratio = log(there.s / here.s) / log(beyond.s / there.s) / 2
        further = extrapolation_weights(levels, beyond)
        weights = [weight + ratio * (weight - other) for weight, other in zip(weights, further, strict=True)]
    # x' = alpha' x0~ + sigma' (x - alpha x0~) / sigma, in which each tensor is multiplied once.
    scale = there.sigma / here.sigma
    result = scale * before.state
    for weight, entry in zip(weights, predictions, strict=True):
        result = result.add(entry.value, alpha=(there.alpha - scale * here.alpha) * weight)
    return result


ENTRY = SolverEntry(
    name="dpm2m",
    help="DPM-Solver++(2M), a multistep solver",
    solver=SingleStateSolver(up=dpm2m_inverse_step, down=dpm2m_step),
    position=10,
    order=2,
    evaluations=(1, 1),
    uses_x0=True,
)
