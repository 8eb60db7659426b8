"""Picture files and tensors: reading, writing, sheets of pictures and animations. The only user of Pillow.

A network's picture is float32 [B, 3, H, W] in [-1, 1]; a file's picture is uint8 [3, H, W] in sRGB.
`to_float` and `to_uint8` lead from one to the other and lose nothing on the way there and back.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
