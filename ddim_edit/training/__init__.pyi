from .checkpoint import Checkpoint, LossRow
from .data import Batch, BatchSampler, BatchShare, ImageFolder, Split
from .export import loss_table
from .loss import DiffusionLoss, ValidationBatch
from .networks import NETWORKS, PREDICTIONS, SCHEDULES, FineTuning, FreshNetwork, InitialState, StartingNetwork
from .settings import DECAYS, PRECISIONS, Settings
from .train_state import Ema, TrainState
from .trainer import Trainer

__all__ = [
    "DECAYS",
    "NETWORKS",
    "PRECISIONS",
    "PREDICTIONS",
    "SCHEDULES",
    "Batch",
    "BatchSampler",
    "BatchShare",
    "Checkpoint",
    "DiffusionLoss",
    "Ema",
    "FineTuning",
    "FreshNetwork",
    "ImageFolder",
    "InitialState",
    "LossRow",
    "Settings",
    "Split",
    "StartingNetwork",
    "TrainState",
    "Trainer",
    "ValidationBatch",
    "loss_table",
]
