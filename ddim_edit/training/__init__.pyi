from .batches import Batch, Batches, Lesson, Share, Yardstick
from .checkpoint import Checkpoint, Row
from .export import loss_table
from .learner import Ema, Learner
from .networks import NETWORKS, PREDICTIONS, SCHEDULES
from .origins import Beginning, FineTuned, Fresh, Origin
from .pictures import Pictures, Split
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
    "Beginning",
    "Checkpoint",
    "Ema",
    "FineTuned",
    "Fresh",
    "Learner",
    "Lesson",
    "Origin",
    "Pictures",
    "Row",
    "Settings",
    "Share",
    "Split",
    "Trainer",
    "Yardstick",
    "loss_table",
]
