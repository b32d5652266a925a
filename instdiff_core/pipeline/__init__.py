"""The edit for diffusers models, for scripts and for the demo. Nothing in here reaches for the network."""

from ..arrays import Picture
from .editing import Edit, edit, edit_batch
from .finishing import finish
from .model import EditModel, load_mini, load_model
from .photo import edit_photo
from .prompts import EditPrompt

__all__ = [
    "Edit",
    "EditModel",
    "EditPrompt",
    "Picture",
    "edit",
    "edit_batch",
    "edit_photo",
    "finish",
    "load_mini",
    "load_model",
]
