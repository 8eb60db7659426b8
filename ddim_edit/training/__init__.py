"""Training pixel UNets on folders of pictures, through diffusers and accelerate; what comes out is a diffusers folder.

trainer = Trainer(Path("faces"), Path("model"), Settings(steps=1000))
trainer.run()
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
