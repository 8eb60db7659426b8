from .drawing import PLOT_FORMATS, PlotFormat, plot_suffixes
from .evaluations import evaluation_curves
from .probes import BASELINES, probe_curves
from .self_interpolations import self_interpolation_curves

__all__ = [
    "BASELINES",
    "PLOT_FORMATS",
    "PlotFormat",
    "evaluation_curves",
    "plot_suffixes",
    "probe_curves",
    "self_interpolation_curves",
]
