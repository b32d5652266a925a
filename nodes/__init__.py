"""The list of nodes."""

from comfy_api.latest import ComfyExtension, io

from . import host
from .capture import CaptureAttention
from .compare import CompareEdit
from .diffedit import DiffEditMask
from .encode import EncodeEditPrompt
from .finish import InpaintFinish
from .guard import EditGuard
from .guidance import InstantMaskGuidance
from .heatmap import AttentionHeatmaps
from .mini import LoadMiniModel, MiniScene
from .refine import MaskSettingsNode, RefineInstantMask
from .region import CropToEdit, PutBack
from .sampler import MaskedSampler
from .search import FindInPhoto


class InstDiffEdit(ComfyExtension):
    """What the host asks for its nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            EncodeEditPrompt,
            CaptureAttention,
            RefineInstantMask,
            MaskSettingsNode,
            AttentionHeatmaps,
            MaskedSampler,
            InstantMaskGuidance,
            InpaintFinish,
            FindInPhoto,
            CropToEdit,
            PutBack,
            EditGuard,
            DiffEditMask,
            CompareEdit,
            LoadMiniModel,
            MiniScene,
        ]


async def comfy_entrypoint() -> InstDiffEdit:
    host.add_routes()
    return InstDiffEdit()
