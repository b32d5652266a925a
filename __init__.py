"""InstDiffEdit for ComfyUI: edit a picture by text, with a mask that the model finds by itself."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
