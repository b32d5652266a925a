"""Whether the rest of a picture, all but what the prompt explains, is to change: asked at almost pure noise.

There a prediction shows what the prompt says, and hardly the picture: a prompt that fits the rest brings it nearer to
the picture than no prompt does, one that wants another background takes it away. At the noise levels of an edit the
two cannot be told apart (docs/method.md, 5.1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .maps import TINY
from .refine import STAYS
from .session import MaskSession

ALMOST_PURE = 14.0
"""Noise to signal when it is asked: that of the first steps that Stable Diffusion was trained on."""

NOISE_SAMPLES = 4
"""With how many noise samples it is asked, and with as many more in doubt."""

DOUBT = 1.25
"""In doubt is a ratio within this factor of the limit, `refine.STAYS`."""

Predict = Callable[[int], tuple[Tensor, Tensor]]
"""The predictions with and without prompt, clean latents ``[B, C, h, w]``, of the picture with the noise of a number
(`noise.make_opposed_noise`)."""


def ask_about_rest(session: MaskSession, image_latent: Tensor, predict: Predict) -> None:
    """Where the mask of a sampled session is the rest of a picture, learn whether that is to change, and mask again.

    `image_latent` ``[B or 1, C, h, w]`` is the latent of the picture, one for all noise samples of it, in the size in
    which it is looked at (`look.find_look_size`). Costs two predictions for each noise sample where there is such a
    mask, and nothing elsewhere. Waits for the device.
    """
    if session.mask is None or not session.leaves_rest:
        return
    share = functional.adaptive_avg_pool2d(session.mask.float(), (image_latent.shape[-2], image_latent.shape[-1]))
    rest = share >= 0.5
    errors = torch.zeros(2, *rest.shape, device=image_latent.device)
    for number in range(2 * NOISE_SAMPLES):
        ratio = _median_ratio(errors, rest)
        if number == NOISE_SAMPLES and not ((ratio > STAYS / DOUBT) & (ratio < STAYS * DOUBT)).any():
            break
        errors += (torch.stack(predict(number)) - image_latent).float().square().mean(2)
    session.answer_rest(_median_ratio(errors, rest))


def _median_ratio(errors: Tensor, rest: Tensor) -> Tensor:
    """The median of the ratio of `errors` with and without prompt ``[2, B, h, w]`` over the cells of a rest, ``[B]``.

    What holds in most of the rest: in a sum, few cells with large errors decide. 0 where there is no rest.
    """
    ratios = errors[0] / errors[1].clamp(min=TINY)
    return ratios.masked_fill(~rest, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0.0)
