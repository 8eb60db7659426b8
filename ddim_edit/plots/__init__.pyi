from .drawing import PLOT_FORMATS, PlotFormat, plot_suffixes
from .evaluations import evaluation_curves
from .probes import BASELINES, probe_curves

__all__ = ["BASELINES", "PLOT_FORMATS", "PlotFormat", "evaluation_curves", "plot_suffixes", "probe_curves"]
