"""One training: optimiser, moving average, learning rate, checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SEED = 20240107
WARM = 100
CONSTANT = 0.6
"""The part of the time in which the learning rate stays; then it falls to nothing."""


@dataclass(frozen=True)
class Course:
    """How long to train, with how many pictures a step, and at which learning rate."""

    minutes: float
    batch: int
    rate: float
    decay: float = 0.999
    save_every: float = 60


class Run:
    """A model on its course. What was stopped goes on from its checkpoint, ``work/<name>.pt``."""

    def __init__(self, name: str, work: Path, model: nn.Module, course: Course) -> None:
        self.name, self.model, self.course = name, model, course
        self.path = work / f"{name}.pt"
        self.average: Any = copy.deepcopy(model).requires_grad_(False)
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        fused = learnt[0].is_cuda
        self.optimizer = torch.optim.AdamW(learnt, lr=course.rate, weight_decay=0.01, betas=(0.9, 0.99), fused=fused)
        self.step, self.seconds = 0, 0.0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.step, self.seconds = state["step"], state["seconds"]
            model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        torch.manual_seed(SEED + self.step)

    def train(self, loss_of_step: Callable[[], Tensor]) -> None:
        """Go the course to its end, a loss a step."""
        before = time.monotonic() - self.seconds
        saved = shown = time.monotonic()
        mean: Tensor | None = None
        while (done := self.seconds / 60 / self.course.minutes) < 1:
            rate = self.course.rate * min(1.0, (self.step + 1) / WARM, (1 - done) / (1 - CONSTANT))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of_step()
            self._update(loss)
            mean = loss.detach() if mean is None else mean.lerp(loss.detach(), 0.02)
            self.step += 1
            self.seconds = time.monotonic() - before
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                print(f"{self.name}: step {self.step}, {self.seconds:.0f} s, loss {mean.item():.4f}", flush=True)
            if time.monotonic() - saved > self.course.save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.course.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            averaged: list[Tensor] = list(self.average.parameters())
            current: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(averaged, current, 1 - decay)

    def save(self) -> None:
        state = {"step": self.step, "seconds": self.seconds, "model": self.model.state_dict()}
        state |= {"average": self.average.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").replace(self.path)
