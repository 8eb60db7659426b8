"""Filling stores of latents with very many pictures: what to do, who does it, and how a killed run goes on.

For example::

    job = Job(...)
    for filled in fill(job, begin(job, names, 512), local):
        ...
"""

from ddim_edit.filling.job import Engine, Filled, Job
from ddim_edit.filling.listing import Listing, listing
from ddim_edit.filling.ranks import Rank, device_of, rank_of
from ddim_edit.filling.running import Sizes, begin, fill, finished, local, sizes
from ddim_edit.filling.worker import Worker

__all__ = [
    "Engine",
    "Filled",
    "Job",
    "Listing",
    "Rank",
    "Sizes",
    "Worker",
    "begin",
    "device_of",
    "fill",
    "finished",
    "listing",
    "local",
    "rank_of",
    "sizes",
]
