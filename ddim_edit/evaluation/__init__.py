"""How much of pictures a round trip keeps, against the evaluations that it costs."""

from ddim_edit.evaluation.measuring import STEPS, evaluate, measure, recipe_of
from ddim_edit.evaluation.report import Evaluation
from ddim_edit.evaluation.rows import FIGURES, EvaluationRow, Setting, read_rows, row_writer
from ddim_edit.evaluation.statistics import Interval, Summary, interval
from ddim_edit.evaluation.tables import markdown, means_table, reconstruction_table, write_tables
from ddim_edit.evaluation.ways import OPPONENTS, Way, make_ways

__all__ = [
    "FIGURES",
    "OPPONENTS",
    "STEPS",
    "Evaluation",
    "EvaluationRow",
    "Interval",
    "Setting",
    "Summary",
    "Way",
    "evaluate",
    "interval",
    "make_ways",
    "markdown",
    "means_table",
    "measure",
    "read_rows",
    "recipe_of",
    "reconstruction_table",
    "row_writer",
    "write_tables",
]
