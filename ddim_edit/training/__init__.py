"""Training pixel UNets on folders of pictures, through diffusers and accelerate; what comes out is a diffusers folder.

trainer = Trainer(Path("faces"), Path("model"), Settings(steps=1000))
trainer.run()
"""

from ddim_edit.training.batches import Batch, Batches, Lesson, Share, Yardstick
from ddim_edit.training.checkpoint import Checkpoint, Row
from ddim_edit.training.export import loss_table
from ddim_edit.training.learner import Ema, Learner
from ddim_edit.training.networks import NETWORKS, PREDICTIONS, SCHEDULES
from ddim_edit.training.origins import Beginning, FineTuned, Fresh, Origin
from ddim_edit.training.pictures import Pictures, Split
from ddim_edit.training.settings import DECAYS, PRECISIONS, Settings
from ddim_edit.training.trainer import Trainer

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
