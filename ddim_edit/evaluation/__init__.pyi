from .evaluator import evaluate, evaluate_iter, evaluation_recipe
from .grid_cache import grid_file, load_grid, save_grid
from .grid_search import MOST_IMAGES, GridSearch, GridTrial, search_workload, tune_grid
from .likelihood.bits import mean_and_error
from .probing import random_projection
from .report import Evaluation
from .round_trips import RoundTrip, make_round_trips
from .rows import EvaluationRow, EvaluationSetting, read_rows, row_writer
from .self_interpolation import (
    FRACTIONS,
    SelfInterpolation,
    SelfInterpolationRow,
    SelfInterpolationSummary,
    self_interpolate,
    self_interpolate_iter,
)
from .settings import BASELINES, DEFAULT_GRIDS, DEFAULT_SOLVERS, DEFAULT_STEPS
from .statistics import Interval, Summary, interval
from .tables import markdown, means_table, reconstruction_table, write_tables

__all__ = [
    "BASELINES",
    "DEFAULT_GRIDS",
    "DEFAULT_SOLVERS",
    "DEFAULT_STEPS",
    "FRACTIONS",
    "MOST_IMAGES",
    "Evaluation",
    "EvaluationRow",
    "EvaluationSetting",
    "GridSearch",
    "GridTrial",
    "Interval",
    "RoundTrip",
    "SelfInterpolation",
    "SelfInterpolationRow",
    "SelfInterpolationSummary",
    "Summary",
    "evaluate",
    "evaluate_iter",
    "evaluation_recipe",
    "grid_file",
    "interval",
    "load_grid",
    "make_round_trips",
    "markdown",
    "mean_and_error",
    "means_table",
    "random_projection",
    "read_rows",
    "reconstruction_table",
    "row_writer",
    "save_grid",
    "search_workload",
    "self_interpolate",
    "self_interpolate_iter",
    "tune_grid",
    "write_tables",
]
