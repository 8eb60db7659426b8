from .filling import FillSizes, choose_sizes, fill_shards, finished_shards, local_engine, prepare_store
from .job import Engine, FillJob, FinishedShard, ImageListing, list_images
from .ranks import Rank, device_for_rank, find_rank
from .reopening import reopen_shards
from .worker import Worker

__all__ = [
    "Engine",
    "FillJob",
    "FillSizes",
    "FinishedShard",
    "ImageListing",
    "Rank",
    "Worker",
    "choose_sizes",
    "device_for_rank",
    "fill_shards",
    "find_rank",
    "finished_shards",
    "list_images",
    "local_engine",
    "prepare_store",
    "reopen_shards",
]
