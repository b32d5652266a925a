"""The pictures of the templates, which the template browser shows, and of two edits in one run, for the README.

    INSTDIFF_THUMBNAILS=1 python -m pytest tests/live/test_thumbnails.py [-k NAME]

takes them anew, in the templates' own settings. Without it, the nodes that they show are looked for.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from instdiff_core.mini.scenes import compose, with_article
from tests.bench.scenes import two_edits
from tests.live.frontend import ROOT, template

TILE, GAP, TITLE = 256, 6, 28
QUALITY = 88
NOTE = "made with the small model of this pack"

SHOWN: dict[str, dict[str, str | tuple[str, int]]] = {
    "edit_with_text": {"before": "Before", 'mask found for "a frog"': "InstDiffRefineMask", "after": "After"},
    "retune_mask": {"before": "Before", "as sampled": "As sampled", "a higher threshold": "A higher threshold"},
    "own_sampler": {"before": "Before", "mask, by KSampler": "InstDiffRefineMask", "after": "After"},
    "change_background": {
        "before": "Before", 'mask found for "a dog on the water"': "InstDiffRefineMask", "after": "After"
    },
    "edit_batch": {f"after ({number + 1})": ("After", number) for number in range(3)},
    "hires_fix": {"before": "Before", 'mask found for "a frog"': "InstDiffRefineMask", "after, enlarged": "After"},
    "heatmaps": {
        "before": "Before", 'heat of "cat"': ("One picture for each word", 1),
        'heat of "grass"': ("One picture for each word", 4),
    },
    "mask_for_conditioning": {
        "before": "Before", 'mask of the word "apple"': "InstDiffRefineMask", "after, by KSampler": "After"
    },
    "compare_with_diffedit": {
        "the picture": "Before", "DiffEdit and the truth": "DiffEdit and the truth",
        "instant mask and the truth": "Instant mask and the truth",
    },
    "correct_by_hand": {"before": "Before", "mask, with two strokes added": "Correct it here", "after": "After"},
    "remove_object": {"before": "Before", 'mask found by the word "cat"': "InstDiffRefineMask", "after": "After"},
    "recolour": {"before": "Before", 'mask found for "a red apple"': "InstDiffRefineMask", "after": "After"},
    "several_edits": {"before": "Before", "masks of both edits": "InstDiffRefineMask", "after": "After"},
    "add_something": {"before": "Before", '"an apple", in a square': "After"},
}  # fmt: skip
"""Of templates that run as they are, the nodes whose pictures are shown, by their titles; a number: of several."""

SCENES = {
    "edit_your_photo": ("dog", "snow", "apple", 3),
    "sdxl": ("cat", "grass", "panda", 0),
    "inpainting_finish": ("panda", "bricks", "cat", 2),
    "flux_dev": ("apple", "night", "mushroom", 3),
    "sd3_5": ("tree", "sand", "mushroom", 1),
    "qwen_image": ("ball", "bricks", "hat", 4),
    "z_image_turbo": ("mushroom", "night", "panda", 6),
}
"""Of templates that need files: object, background, what it becomes, and a seed, for the embedded model."""


TWO_EDITS, SCENE = ROOT / "web" / "docs" / "two_edits.jpg", 9001
"""The picture of two edits, and the number of the benchmark's scene that it shows."""


def draw(panels, path, note=""):
    """Pictures side by side below their titles, on white, with a note below them."""
    width = len(panels) * (TILE + GAP) - GAP
    sheet = Image.new("RGB", (width, TITLE + TILE + (24 if note else 0)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, (title, pixels) in enumerate(panels.items()):
        left = number * (TILE + GAP)
        pen.text((left + TILE / 2, TITLE / 2), title, "black", font, anchor="mm")
        sheet.paste(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.LANCZOS), (left, TITLE))
    pen.text((width / 2, TITLE + TILE + 12), note, "dimgrey", font, anchor="mm")
    sheet.save(path, quality=QUALITY)


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_can_be_taken_of_what_a_template_shows(server, workflow, name):
    graph = workflow(name)
    shown = {title: node if isinstance(node, tuple) else (node, 0) for title, node in SHOWN[name].items()}
    assert {node for node, _ in shown.values()} <= set(graph)
    if os.environ.get("INSTDIFF_THUMBNAILS"):
        run = server.run(graph)
        panels = {title: run.picture(*node) for title, node in shown.items()}
        draw(panels, template(name).with_suffix(".jpg"))


@pytest.mark.parametrize("name", SCENES)
def test_an_edit_of_the_embedded_model_can_stand_for_one_that_needs_files(name):
    before, background, after, seed = SCENES[name]
    picture, _ = compose(np.random.default_rng([0, seed]), [before], background)
    assert template(name).exists()
    if os.environ.get("INSTDIFF_THUMBNAILS"):
        from instdiff_core.pipeline import edit, load_mini

        result = edit(load_mini(), picture, with_article(after), seed=0)
        mask = result.mask.binary[0].numpy().astype(np.uint8)[..., None].repeat(3, -1) * 255
        panels = {"before": picture, f'mask found for "{with_article(after)}"': mask, "after": result.picture}
        draw(panels, template(name).with_suffix(".jpg"), NOTE)


def test_two_edits_in_one_run_have_their_picture():
    if os.environ.get("INSTDIFF_THUMBNAILS"):
        from instdiff_core.options import FinishOptions
        from instdiff_core.pipeline import edit, finish, load_mini

        (scene,) = two_edits(1, SCENE)
        model = load_mini()
        result = edit(model, scene.picture, scene.prompts, seed=SCENE, finishing=FinishOptions(strength=0))
        masks = [mask.binary[0].numpy() for mask in result.masks]
        things = [with_article(" ".join(part.words)) for part in scene.edits]
        finishing = replace(model.finishing, strength=0.8)
        after = finish(model, scene.picture, masks, result.latent, things, options=finishing, seed=SCENE)
        shown = [mask.astype(np.uint8)[..., None].repeat(3, -1) * 255 for mask in masks]
        named = {f'mask of "{text}"': mask for text, mask in zip(scene.prompts, shown, strict=True)}
        draw({"before": scene.picture, **named, "after": after}, TWO_EDITS, NOTE)
    with Image.open(TWO_EDITS) as picture:
        assert picture.width == 4 * (TILE + GAP) - GAP
