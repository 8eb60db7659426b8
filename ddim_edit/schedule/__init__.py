"""Noise schedules and the grids of times that solvers walk along, as plain data."""

from ddim_edit.schedule.grids import (
    GRIDS,
    Flow,
    Grid,
    GridMaker,
    Karras,
    Leading,
    linspace,
    logsnr,
    make_grid,
    quad,
    trailing,
    uniform,
)
from ddim_edit.schedule.noise import FAINTEST, Floats, Level, NoiseSchedule, Span

__all__ = [
    "FAINTEST",
    "GRIDS",
    "Floats",
    "Flow",
    "Grid",
    "GridMaker",
    "Karras",
    "Leading",
    "Level",
    "NoiseSchedule",
    "Span",
    "linspace",
    "logsnr",
    "make_grid",
    "quad",
    "trailing",
    "uniform",
]
