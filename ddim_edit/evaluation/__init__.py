"""How much of pictures a round trip keeps, against the evaluations that it costs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
