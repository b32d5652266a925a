"""The models of the mask benchmark: the shipped one, and a folder each in `models/`.

What is in a folder says what it is:

- diffusers folders: a U-Net, edited by the package's own pipeline (`unets.py`). unet/ is there; text_encoder/,
  tokenizer/, scheduler/ and vae/ are the shipped model's where they are not. Noise or v prediction, as the
  scheduler's configuration says. Weights may be in float8 (`float8.py`).
- a config.json with the parameters of ComfyUI's Flux class, its weights and text rows: a flow model, edited in ComfyUI
  through the pack's nodes (`hosted.py`).

To add a model is to add its folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from instdiff_core.options import INPAINTING_FINISH, FinishOptions, SamplingOptions

from .engines import Engine

FOLDER = Path(__file__).parent / "models"
SHIPPED = "shipped"
KEPT_OUT = "bright_start"
"""The model by which no constant is chosen (`tune.py`): it shows how the method does on one that it has not seen.

The shipped U-Net and text encoder of before (commit ead5b71), in float8 and on today's autoencoder. Its start token is
bright on objects, the opposite of Stable Diffusion's.
"""

SAMPLING = SamplingOptions(steps=10, strength=0.5)
FINISHING = FinishOptions()
"""How U-Nets edit here; the shipped one finishes with its inpainting model."""

FLOW_SAMPLING = SamplingOptions(steps=8, cfg=3.0, strength=0.3)
FLOW_FINISHING = FinishOptions(steps=16, cfg=3.0, strength=0.7)
"""How flow models do: at strength 0.3 they begin with as much noise as U-Nets at 0.5 (1.4 times the picture), at 0.7
with about as much as these at 0.9 (8 times)."""


@dataclass(frozen=True)
class BenchModel:
    """A model that is not loaded yet: its name, where it is (None: embedded), and how it edits.

    `block`: of a flow model read this block alone.
    """

    name: str
    path: Path | None
    sampling: SamplingOptions
    finishing: FinishOptions
    block: int | None = None

    def load(self) -> Engine:
        """Load it, on the GPU where there is one."""
        # the one needs diffusers, the other ComfyUI: none is imported for the other's sake
        if self.path is not None and is_flow(self.path):
            from .hosted import HostedEngine

            return HostedEngine(self.path, self.sampling, self.finishing, self.block)
        from .unets import UNetEngine

        return UNetEngine(self.path, self.sampling, self.finishing)


def is_flow(path: Path) -> bool:
    """Whether a folder holds a flow model."""
    return (path / "config.json").is_file()


def model_at(path: Path | None, name: str | None = None) -> BenchModel:
    """The model in a folder or file, or the embedded one, with the options of its kind."""
    if path is None:
        return BenchModel(name or SHIPPED, path, SAMPLING, INPAINTING_FINISH)
    options = (FLOW_SAMPLING, FLOW_FINISHING) if is_flow(path) else (SAMPLING, FINISHING)
    return BenchModel(name or path.name, path, *options)


def model_names() -> list[str]:
    """The shipped model, and the folders of `models/`."""
    return [SHIPPED, *sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir())]


def model_named(name: str) -> BenchModel:
    """One of `model_names`."""
    return model_at(None if name == SHIPPED else FOLDER / name, name)
