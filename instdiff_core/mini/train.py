"""Train the embedded model from scratch: first the autoencoder, then the U-Net with its text model.

    python -m instdiff_core.mini.train autoencoder --work DIR
    python -m instdiff_core.mini.train unet --work DIR

Each stage writes checkpoints to DIR, goes on from the newest one when started again, prints its
loss, and at its end writes its part of the model into this folder. Runs on a GPU where there is
one, else on the CPU. README.md in this folder holds the figures of the run that is shipped.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from .scenes import FOLDER, background_words, caption, compose, object_names, vocabulary

SEED = 20240107
WIDTH = 192
UNET: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (64, 128, 192),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
}
SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
EMPTY_CAPTIONS = 0.1
UNKNOWN_WORDS = 0.1
LATENT_NOISE = 0.1
UNKNOWN = 0


class Words(nn.Module):
    """A CLIP text model without transformer layers, over the few tokens that captions use.

    Without layers every word speaks for itself: with them, in a training this short, the end
    token and the pads take over the meaning and the words' own attention stays flat.
    """

    token_ids: Tensor

    def __init__(self, tokenizer: Any, texts: list[str]) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        ids = sorted({token for text in texts for token in tokenizer(text).input_ids})
        self.register_buffer("token_ids", torch.tensor(ids))
        self.row = {token: index + 1 for index, token in enumerate(ids)}
        self.tokens = nn.Embedding(len(ids) + 1, WIDTH, padding_idx=UNKNOWN)
        self.positions = nn.Embedding(77, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.positions.weight, std=0.2)

    def share_sink(self) -> None:
        """Start, end and pads become one token, and no place differs from another.

        Attention that no word wants then goes to copies of one token, so that the start token is dark
        where words act, as in Stable Diffusion. The rows take the mean position of where they mostly stood.
        """
        end, positions = self.row[self.tokenizer.eos_token_id], self.positions.weight
        with torch.no_grad():
            self.tokens.weight[1:] += positions[1:7].mean(0)
            self.tokens.weight[end] += positions[7:].mean(0) - positions[1:7].mean(0)
            positions.zero_()
        positions.requires_grad_(False)
        self.row[self.tokenizer.bos_token_id] = end

    def rows(self, text: str) -> list[int]:
        """The 77 embedding rows of a caption; `UNKNOWN` stands for a word "?"."""
        # the host's copy of the tokenizer has another length of its own
        places = self.positions.num_embeddings
        ids = self.tokenizer(text, padding="max_length", truncation=True, max_length=places).input_ids
        return [self.row.get(token, UNKNOWN) for token in ids]

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(self.tokens(rows) + self.positions.weight[: rows.shape[-1]])

    def stored(self) -> dict[str, Tensor]:
        """The rows in use, in half precision: the content of ``rows.safetensors``."""
        rows = {
            "token_ids": self.token_ids.to(torch.int32),
            "token_embedding": self.tokens.weight[[self.row[token] for token in self.token_ids.tolist()]].half(),
            "position_embedding": self.positions.weight.half(),
            "final_layer_norm.weight": self.norm.weight.half(),
            "final_layer_norm.bias": self.norm.bias.half(),
        }
        return {name: value.detach().cpu().contiguous() for name, value in rows.items()}

    @torch.no_grad()
    def load_stored(self, rows: dict[str, Tensor]) -> None:
        """Take over what `stored` gave. Tokens that it does not hold keep their rows."""
        for token, row in zip(rows["token_ids"].tolist(), rows["token_embedding"], strict=True):
            self.tokens.weight[self.row[token]] = row.float()
        self.positions.weight.copy_(rows["position_embedding"])
        self.norm.weight.copy_(rows["final_layer_norm.weight"])
        self.norm.bias.copy_(rows["final_layer_norm.bias"])


def every_word() -> list[str]:
    """All object names, phrases and caption forms, for their tokens."""
    known = vocabulary()
    forms = [form for group in known["captions"].values() for form in group]
    plain = [
        " ".join(part for part in form.replace("background word", "").split() if "{" not in part and "}" not in part)
        for form in forms
    ]
    return ["a an", *object_names(), *plain, *background_words(), *(entry["phrase"] for entry in known["backgrounds"])]


def scene(rng: np.random.Generator) -> tuple[np.ndarray, list[str], str]:
    """A training picture with its objects and its background: mostly one object, sometimes two or none."""
    count = int(rng.choice([0, 1, 2], p=[0.05, 0.7, 0.25]))
    objects = [str(name) for name in rng.choice(object_names(), count, replace=False)]
    background = str(rng.choice(background_words()))
    return compose(rng, objects, background)[0], objects, background


def pixels(pictures: list[np.ndarray]) -> Tensor:
    """``[N, 3, H, W]`` float32 in -1..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


class Run:
    """Optimiser, moving average, learning rate and checkpoints of one stage."""

    def __init__(
        self, name: str, work: Path, model: nn.Module, steps: int, rate: float, decay: float, *, constant: bool = False
    ) -> None:
        self.constant = constant
        self.path, self.model, self.steps, self.rate, self.decay = work / f"{name}.pt", model, steps, rate, decay
        self.average: Any = copy.deepcopy(model).requires_grad_(False)
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learnt, lr=rate, weight_decay=0.01)
        self.step, self.seconds, self.loss = 0, 0.0, 1.0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.step, self.seconds, self.loss = state["step"], state["seconds"], state["loss"]
            model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])

    def __iter__(self) -> Iterator[np.random.Generator]:
        """The steps that are left, each with its own random numbers: the same ones after a stop too."""
        start = time.monotonic() - self.seconds
        while self.step < self.steps:
            warm = min(1.0, (self.step + 1) / 100)
            done = self.step / self.steps
            course = min(1.0, 5 * (1 - done)) if self.constant else 0.5 * (1 + math.cos(math.pi * done))
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * warm * (0.02 + 0.98 * course)
            torch.manual_seed(SEED + self.step)
            yield np.random.default_rng((SEED, self.step))
            self.step += 1
            self.seconds = time.monotonic() - start
            if self.step % 50 == 0:
                print(f"step {self.step}/{self.steps}  loss {self.loss:.4f}  {self.seconds / 60:.1f} min", flush=True)
            if self.step % 50 == 0 or self.step == self.steps:
                self.save()

    def save(self) -> None:
        state = {"step": self.step, "seconds": self.seconds, "loss": self.loss, "model": self.model.state_dict()}
        state |= {"average": self.average.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").replace(self.path)

    def update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.loss = 0.98 * self.loss + 0.02 * loss.item()
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for averaged, current in zip(self.average.parameters(), self.model.parameters(), strict=True):
                averaged.lerp_(current, 1 - decay)


def start_as_average(model: AutoencoderTiny) -> None:
    """Weights that average 8x8 pixels into the latent and spread them again.

    Three channels carry the colours straight through and every block starts as the identity, so
    that a short training only has to learn the detail.
    """
    blocks = [
        block.conv[-1] for half in (model.encoder, model.decoder) for block in half.layers if hasattr(block, "conv")
    ]
    convolutions = {
        half: [layer for layer in half.layers if isinstance(layer, nn.Conv2d)]
        for half in (model.encoder, model.decoder)
    }
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        for last in blocks:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        for layers in convolutions.values():
            for layer in layers:
                layer.weight[:3] = 0
                for colour in range(3):
                    if layer.stride[0] == 2:
                        layer.weight[colour, colour, 1:, 1:] = 0.25
                    else:
                        layer.weight[colour, colour, 1, 1] = 1
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        into_latent, out_of_latent = convolutions[model.encoder][-1], convolutions[model.decoder][0]
        into_latent.weight[:3] *= 4
        into_latent.get_parameter("bias")[:3] = -2
        out_of_latent.weight[:3] /= 4
        out_of_latent.get_parameter("bias")[:3] = 0.5


def train_autoencoder(work: Path, steps: int, device: torch.device) -> None:
    """A TAESD (diffusers' AutoencoderTiny, an eighth of the resolution) on 64 px cuts of composed pictures.

    It has no normalisation layers, so what it learns on cuts holds for whole pictures.
    """
    model = AutoencoderTiny()
    start_as_average(model)
    model.to(device, memory_format=torch.channels_last)
    run = Run("autoencoder", work, model, steps, 1e-3, 0.995)
    for rng in run:
        cuts = []
        for _ in range(4):
            picture = scene(rng)[0]
            corners = rng.integers(0, len(picture) - 63, (4, 2))
            cuts += [picture[y : y + 64, x : x + 64] for y, x in corners]
        target = pixels(cuts).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            latents = model.encode(target).latents
            decoded = model.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample.float()
        latents = latents.float()
        unit = (latents.std((0, 2, 3)) - 1).square().mean() + latents.mean((0, 2, 3)).square().mean()
        edges = sum((decoded.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in (2, 3))
        run.update(functional.l1_loss(decoded, target) + edges + 0.1 * unit)
    run.average.half().save_pretrained(FOLDER / "vae")


def encoded_scenes(work: Path, count: int, device: torch.device) -> tuple[Tensor, list[tuple[list[str], str]]]:
    """Latents ``[count, 4, 32, 32]`` and what they show; kept in `work`, since encoding takes minutes."""
    path = work / f"latents-{count}.pt"
    if not path.exists():
        rng = np.random.default_rng(SEED + 1)
        model = AutoencoderTiny.from_pretrained(FOLDER / "vae", torch_dtype=torch.float32)
        model = model.to(device, memory_format=torch.channels_last)
        latents, shown = [], []
        for _ in range(count // 50):
            scenes = [scene(rng) for _ in range(50)]
            batch = pixels([picture for picture, _, _ in scenes]).to(device, memory_format=torch.channels_last)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                latents.append(model.encode(batch).latents.half().cpu())
            shown += [(objects, background) for _, objects, background in scenes]
        torch.save({"latents": torch.cat(latents), "shown": json.dumps(shown)}, path)
    stored = torch.load(path, weights_only=True)
    return stored["latents"], json.loads(stored["shown"])


def random_caption(rng: np.random.Generator, objects: list[str], background: str) -> str:
    """A caption, or none (for guidance), or one with a word in it that the model cannot know."""
    if rng.random() < EMPTY_CAPTIONS:
        return ""
    words = caption(rng, objects, background).split()
    if rng.random() < UNKNOWN_WORDS:
        words.insert(int(rng.integers(0, len(words) + 1)), "?")
    return " ".join(words)


def train_unet(work: Path, steps: int, device: torch.device) -> None:
    """Noise prediction with SD's schedule and min-SNR weights (Hang et al. 2023, gamma 5)."""
    latents, shown = encoded_scenes(work, 8_000, device)
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    unet = UNet2DConditionModel(**UNET)
    unet.set_attn_processor(AttnProcessor())
    model: Any = nn.ModuleDict({"unet": unet, "words": Words(tokenizer, every_word())}).to(device)
    run = Run("unet", work, model, steps, 1e-3, 0.998)
    scheduler = DDIMScheduler(**SCHEDULER)
    kept = scheduler.alphas_cumprod.to(device)
    weights = (5 * (1 - kept) / kept).clamp(max=1)
    for rng in run:
        chosen = rng.integers(0, len(latents), 32)
        rows = torch.tensor(
            [model["words"].rows(random_caption(rng, *shown[index])) for index in chosen], device=device
        )
        clean = latents[torch.from_numpy(chosen)].float().to(device)
        noise = torch.randn_like(clean)
        times = torch.from_numpy(rng.integers(0, 1000, len(chosen))).to(device)
        noisy = scheduler.add_noise(clean, noise, times)
        with torch.autocast(device.type, torch.bfloat16):
            predicted = model["unet"](noisy, times, model["words"](rows)).sample.float()
        run.update((weights[times] * (predicted - noise).square().mean((1, 2, 3))).mean())
    write_unet(run.average, FOLDER)


def write_unet(model: Any, out: Path) -> None:
    """U-Net, scheduler and text model, as `pipeline.load_mini` and the node Load Mini Model read them."""
    unet, words = model["unet"], model["words"]
    copy.deepcopy(unet).half().save_pretrained(out / "unet")
    DDIMScheduler(**SCHEDULER).save_pretrained(out / "scheduler")
    folder = out / "text_encoder"
    folder.mkdir(exist_ok=True)
    save_file(words.stored(), folder / "rows.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["autoencoder", "unet"])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and encoded pictures")
    parser.add_argument("--steps", type=int, help="default: 900 for the autoencoder, 2000 for the U-Net")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_flush_denormal(True)  # the gradients of the first steps are tiny, and denormals slow a CPU down tenfold
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.stage == "autoencoder":
        train_autoencoder(arguments.work, arguments.steps or 900, where)
    else:
        train_unet(arguments.work, arguments.steps or 2000, where)
