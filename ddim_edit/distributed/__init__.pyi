from .job import Engine, Filled, Job
from .listing import Listing, listing
from .ranks import Rank, device_of, rank_of
from .running import Sizes, begin, fill, finished, local, sizes
from .worker import Worker

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
