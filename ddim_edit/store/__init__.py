"""Latents of very many pictures in one folder: shards that are read lazily, and the files that tell what they are."""

from ddim_edit.store.latents import LatentStore
from ddim_edit.store.layout import TEMPORARY, Layout, is_store
from ddim_edit.store.plan import Plan
from ddim_edit.store.rows import StoreRows
from ddim_edit.store.settings import agree, read_settings, require_same
from ddim_edit.store.shard import Header, Shard
from ddim_edit.store.stacking import join, stack

__all__ = [
    "TEMPORARY",
    "Header",
    "LatentStore",
    "Layout",
    "Plan",
    "Shard",
    "StoreRows",
    "agree",
    "is_store",
    "join",
    "read_settings",
    "require_same",
    "stack",
]
