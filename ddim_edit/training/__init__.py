"""Train pixel UNets on folders of images, through diffusers and accelerate; the result is a diffusers folder.

>>> from pathlib import Path
>>> from ddim_edit.training import Settings, Trainer
>>> trainer = Trainer(Path("faces"), Path("model"), Settings(steps=1000))  # doctest: +SKIP
>>> trainer.run()  # doctest: +SKIP
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
