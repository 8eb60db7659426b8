"""How probable a model makes a picture: densities by the change of variables along its ODE, in bits per dimension."""

from ddim_edit.likelihood.bits import Integration, Likelihood, log_likelihood, mean_and_error
from ddim_edit.likelihood.density import Density, Ladder, log_density
from ddim_edit.likelihood.traces import Differences, Hutchinson, Slope, Trace, Tracer, every_unit

__all__ = [
    "Density",
    "Differences",
    "Hutchinson",
    "Integration",
    "Ladder",
    "Likelihood",
    "Slope",
    "Trace",
    "Tracer",
    "every_unit",
    "log_density",
    "log_likelihood",
    "mean_and_error",
]
