"""Curves as picture files. The only user of matplotlib, which comes with the extra `eval`."""

from ddim_edit.plots.drawing import UNDATED
from ddim_edit.plots.evaluations import evaluation_curves
from ddim_edit.plots.probes import BASELINES, probe_curves

__all__ = ["BASELINES", "UNDATED", "evaluation_curves", "probe_curves"]
