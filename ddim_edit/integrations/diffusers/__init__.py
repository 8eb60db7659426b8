"""Schedulers that invert and decode inside pipelines of diffusers, and `invert`, which runs a pipeline with them."""

from ddim_edit.integrations.diffusers.inversion import PipelineInversion, invert
from ddim_edit.integrations.diffusers.schedulers import DDIMEditInverseScheduler, DDIMEditScheduler

__all__ = ["DDIMEditInverseScheduler", "DDIMEditScheduler", "PipelineInversion", "invert"]
