"""Solvers of the diffusion ODE in both directions: steps, walks, exact inverses.

Every solver works in x at its levels; `invert` and `sample` lead from and to images.
"""

from ddim_edit.solve.implicit import Implicit, half, whole
from ddim_edit.solve.method import EIGHT_BIT, SOLVERS, Method, find_solver
from ddim_edit.solve.pairs import Edict, Leapfrog, bdia_weight, belm_weight
from ddim_edit.solve.solvers import Checked, Exact, Marching, OneWay, Solver, Spans
from ddim_edit.solve.steps import Ancestral, euler, heun, multistep, no_noise
from ddim_edit.solve.tracing import Recording, recording
from ddim_edit.solve.walks import Inversion, Sampled, invert, sample

__all__ = [
    "EIGHT_BIT",
    "SOLVERS",
    "Ancestral",
    "Checked",
    "Edict",
    "Exact",
    "Implicit",
    "Inversion",
    "Leapfrog",
    "Marching",
    "Method",
    "OneWay",
    "Recording",
    "Sampled",
    "Solver",
    "Spans",
    "bdia_weight",
    "belm_weight",
    "euler",
    "find_solver",
    "half",
    "heun",
    "invert",
    "multistep",
    "no_noise",
    "recording",
    "sample",
    "whole",
]
