"""Estimators of directions, one module each: see `ddim_edit.directions.registry`."""
