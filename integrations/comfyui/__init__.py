"""ddim-edit's nodes for ComfyUI. Copy or link this folder into ComfyUI/custom_nodes."""

import importlib.util
import logging
import sys

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}

if importlib.util.find_spec("ddim_edit") is None:
    logging.error(
        "ddim-edit is not installed for the Python that runs ComfyUI, so its nodes are missing. Run: "
        f"{sys.executable} -m pip install ddim-edit"
    )
else:
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
