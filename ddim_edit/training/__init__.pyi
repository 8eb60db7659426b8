from .batches import Batch, Batches, DiffusionLoss, Share, ValidationBatch
from .checkpoint import Checkpoint, Row
from .export import loss_table
from .learner import Ema, TrainState
from .networks import NETWORKS, PREDICTIONS, SCHEDULES
from .origins import FineTuning, FreshNetwork, InitialState, Origin
from .pictures import ImageFolder, Split
from .settings import DECAYS, PRECISIONS, Settings
from .trainer import Trainer

__all__ = [
    "DECAYS",
    "NETWORKS",
    "PRECISIONS",
    "PREDICTIONS",
    "SCHEDULES",
    "Batch",
    "Batches",
    "Checkpoint",
    "DiffusionLoss",
    "Ema",
    "FineTuning",
    "FreshNetwork",
    "ImageFolder",
    "InitialState",
    "Origin",
    "Row",
    "Settings",
    "Share",
    "Split",
    "TrainState",
    "Trainer",
    "ValidationBatch",
    "loss_table",
]
