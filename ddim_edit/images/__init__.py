"""Read, crop, write and arrange images; the only user of Pillow and PyAV.

A network's image is float32 [B, 3, H, W] in [-1, 1]; a file's image is uint8 [3, H, W] in sRGB. `to_float` and
`to_uint8` convert between them and lose nothing on a round trip.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
