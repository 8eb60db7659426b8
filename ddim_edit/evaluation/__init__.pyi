from .measuring import STEPS, evaluate, measure, recipe_of
from .report import Evaluation
from .rows import FIGURES, EvaluationRow, Setting, read_rows, row_writer
from .statistics import Interval, Summary, interval
from .tables import markdown, means_table, reconstruction_table, write_tables
from .ways import OPPONENTS, Way, make_ways

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
