"""Masks, pictures and latents as other packs give them: in any shape and type, and broken."""

import copy
import re

import pytest
import torch

SHAPES = {
    "2-D": lambda mask: mask[0],
    "channels first": lambda mask: mask[:, None],
    "channels last": lambda mask: mask[..., None],
    "one mask, channels last": lambda mask: mask[0, ..., None],
    "bool": lambda mask: mask.bool(),
    "bytes of 0 and 1": lambda mask: mask.to(torch.uint8),
    "integers": lambda mask: mask.int(),
    "half": lambda mask: mask.half(),
    "bfloat16": lambda mask: mask.bfloat16(),
    "double": lambda mask: mask.double(),
    "past the ends, as bicubic filters leave it": lambda mask: mask * 1.2 - 0.1,
}

BROKEN = {
    "0 to 255": (lambda mask: mask * 255, r"mask has values from 0 to 255, and a mask goes from 0 to 1.*divide by 255"),
    "bytes": (lambda mask: (mask * 255).to(torch.uint8), "mask has values from 0 to 255"),
    "negative": (lambda mask: mask * -3, "mask has values from -3 to "),
    "NaN": (lambda mask: mask.where(mask > 0, torch.nan), "mask holds NaN or infinite values"),
    "infinite": (lambda mask: mask / 0, "mask holds NaN or infinite values"),
    "a picture": (lambda mask: mask[..., None].expand(-1, -1, -1, 3), "Convert Image to Mask"),
    "1-D": (lambda mask: mask[0, 0], r"mask has the shape \[128\], and a mask is \[batch, height, width\]"),
    "nothing": (lambda mask: mask[:0], r"mask is empty, of shape \[0, 128, 128\]"),
    "a number": (lambda mask: 1.0, "mask must be connected to a node that gives MASK"),
    "an array": (lambda mask: mask.numpy(), "mask must be connected to a node that gives MASK"),
}

FP32 = "holds NaN or infinite values.*--fp32-vae or --bf16-vae"


@pytest.fixture
def mask():
    area = torch.zeros(1, 128, 128)
    area[:, 32:96, 64:112] = 1
    return area


@pytest.fixture
def nodes(host, latent, make_picture):
    """``nodes[name](mask)``: what a node makes of a mask, as tensors."""
    picture = make_picture(1, 128, 128)

    def sampler(mask):
        return host.edit(latent, mask=mask)[:2]

    def guidance(mask):
        model, passed, _ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent}, mask=mask)
        return (host.k_sampler(latent, model=model, latent_image=passed),)

    def finish(mask):
        inputs = host.sampling(None) | {"vae": host.vae, "image": picture, "mask": mask}
        del inputs["latent_image"]
        return host.run("InstDiffInpaintFinish", **inputs)

    def compare(mask):
        difference, overlap, *_ = host.run(
            "InstDiffCompareEdit", before=picture, after=1 - picture, mask=mask, other_mask=mask
        )
        assert overlap == 1
        return (difference,)

    return {"sampler": sampler, "guidance": guidance, "finish": finish, "compare": compare}


@pytest.mark.one_host
@pytest.mark.parametrize("name", ["sampler", "guidance", "finish", "compare"])
def test_a_mask_in_any_shape_and_type_is_the_mask(nodes, mask, name):
    wanted = nodes[name](mask)
    for kind, change in SHAPES.items():
        found = nodes[name](change(mask))
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True)), kind


@pytest.mark.one_host
@pytest.mark.parametrize("name", ["sampler", "guidance", "finish", "compare"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_mask_that_is_none_is_refused_with_its_name_and_what_to_do(nodes, mask, name, kind):
    change, message = BROKEN[kind]
    with pytest.raises(ValueError, match=f"^(?:other_)?{message}" if message.startswith("mask") else message):
        nodes[name](change(mask))


def test_the_other_mask_is_named_too(host, mask):
    with pytest.raises(ValueError, match=r"^other_mask has values from 0 to 255"):
        host.run("InstDiffCompareEdit", mask=mask, other_mask=mask * 255)


@pytest.mark.one_host
@pytest.mark.parametrize("shape", [(3, 128, 128), (3, 1, 128, 128), (3, 128, 128, 1)])
def test_a_batch_of_masks_stays_one(host, make_latent, shape):
    given = torch.zeros(3, 128, 128)
    for number, each in enumerate(given):
        each[:, 32 * number : 32 * number + 32] = 1
    assert torch.equal(host.edit(make_latent(3, 16, 16), mask=given.reshape(shape))[1], given)


@pytest.mark.parametrize("name", ["sampler", "guidance"])
@pytest.mark.parametrize("empty", [torch.zeros(1, 64, 64), torch.full((1, 128, 128), 0.4), torch.zeros(1, 1)])
def test_an_own_mask_with_which_nothing_would_be_edited_says_so(nodes, name, empty):
    with pytest.raises(ValueError, match=r"mask is empty.*Draw the area to edit, or disconnect the input"):
        nodes[name](empty)


@pytest.mark.parametrize("name", ["finish", "compare"])
def test_an_empty_mask_is_an_answer_to_the_others(nodes, name):
    if name == "finish":
        assert not nodes[name](torch.zeros(1, 64, 64))[1].any()
    else:
        (difference,) = nodes[name](torch.zeros(1, 64, 64))
        assert difference.any()


def test_the_mask_output_is_what_was_edited(host, latent):
    """Faint parts, a stroke between the latent pixels, and edges inside them: as the latent changed."""
    given = torch.full((1, 128, 128), 0.4)
    given[:, 32:64, 32:64] = 0.6
    given[:, 72:74], given[:, 100:117, 20:31] = 1, 1
    samples, mask, _ = host.edit(latent, mask=given)
    changed = (samples != latent).any(1)
    assert torch.equal(mask > 0, changed.repeat_interleave(8, 1).repeat_interleave(8, 2))
    assert mask.unique().tolist() == [0, 1]


@pytest.fixture
def broken(host, latent, make_picture):
    """``broken[input]()``: a node with a NaN in that input."""
    bad_latent, bad_picture = latent.clone(), make_picture(1, 128, 128)
    bad_latent[0, 0, 0, 0], bad_picture[0, 5, 5, 1] = torch.nan, torch.nan
    attention = host.capture(latent, steps=2)[1]
    finish = host.sampling(None) | {"vae": host.vae, "mask": torch.ones(1, 128, 128)}
    del finish["latent_image"]
    good = make_picture(1, 128, 128)
    return {
        "latent_image": lambda: host.edit(bad_latent),
        "latent_image ": lambda: host.capture(bad_latent),
        "latent": lambda: host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": bad_latent}),
        "samples": lambda: host.run("InstDiffInpaintFinish", **finish, image=good, samples={"samples": bad_latent}),
        "image": lambda: host.run("InstDiffInpaintFinish", **finish, image=bad_picture),
        "image ": lambda: host.run("InstDiffRefineMask", attention=attention, image=bad_picture),
        "image  ": lambda: host.run("InstDiffAttentionHeatmaps", attention=attention, image=bad_picture),
        "before": lambda: host.run("InstDiffCompareEdit", before=bad_picture, after=good),
        "after": lambda: host.run("InstDiffCompareEdit", before=good, after=good / 0),
        "latent_image  ": lambda: host.run(
            "InstDiffDiffEditMask", model=host.model, source=host.prompt("a cat"), target=host.prompt("a frog"),
            latent_image={"samples": bad_latent},
        ),
    }  # fmt: skip


@pytest.mark.one_host
@pytest.mark.parametrize(
    "name",
    [
        "latent_image", "latent_image ", "latent_image  ", "latent", "samples", "image", "image ", "image  ",
        "before", "after",
    ],
)  # fmt: skip
def test_nan_is_said_with_the_input_that_holds_it_and_the_hosts_remedy(broken, name):
    with pytest.raises(ValueError, match=re.escape(name.strip()) + " " + FP32):
        broken[name]()


def test_every_node_refuses_what_is_broken_in_each_of_its_pictures_masks_and_latents(host):
    broken = {
        "IMAGE": (torch.full((1, 8, 8, 3), torch.nan), FP32),
        "MASK": (torch.full((1, 8, 8), 255.0), "has values from 255 to 255, and a mask goes from 0 to 1"),
        "LATENT": ({"samples": torch.full((1, 4, 8, 8), torch.nan)}, FP32),
    }
    for node in host.classes.values():
        for name, kind in ((each.id, each.get_io_type()) for each in node.define_schema().inputs):
            if kind in broken:
                value, message = broken[kind]
                with pytest.raises(ValueError, match=f"^{name} {message}"):
                    node.execute(**{name: value})


@pytest.fixture
def broken_model(host):
    """The embedded model, as one that overflows in half precision."""
    model = host.model.clone()
    model.set_model_unet_function_wrapper(lambda apply, a: apply(a["input"], a["timestep"], **a["c"]) * torch.nan)
    return model


@pytest.fixture
def broken_vae(host):
    """The embedded VAE, as one that overflows in half precision."""
    vae = copy.copy(host.vae)
    vae.first_stage_model = copy.deepcopy(host.vae.first_stage_model)
    for weight in vae.first_stage_model.parameters():
        weight.data = weight.data * torch.nan
    return vae


@pytest.mark.parametrize("sampler", ["edit", "capture"])
def test_a_model_that_predicts_nan_is_not_told_of_as_an_empty_mask(host, latent, broken_model, sampler):
    with pytest.raises(ValueError, match=r"predictions hold NaN or infinite values.*--bf16-unet or --fp32-unet"):
        getattr(host, sampler)(latent, model=broken_model, cfg=1.0)


def test_a_difference_of_nan_is_not_given_as_an_empty_mask(host, latent, broken_model):
    prompts = {"source": host.other_prompt("a cat"), "target": host.other_prompt("a frog")}
    with pytest.raises(ValueError, match=r"what the model predicts holds NaN.*--fp32-unet"):
        host.run("InstDiffDiffEditMask", model=broken_model, latent_image={"samples": latent}, draws=1, **prompts)


def test_a_latent_of_nan_that_goes_to_the_sampler_alone_is_refused(host, latent):
    model, passed, _ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    with pytest.raises(ValueError, match="the latent that is sampled " + FP32):
        host.k_sampler(latent * torch.nan, model=model)
    assert host.k_sampler(latent, model=model, latent_image=passed).isfinite().all()


@pytest.mark.parametrize("part", ["vae", "model"])
def test_a_finish_that_would_be_black_says_what_failed(host, make_picture, broken_vae, broken_model, part):
    inputs = host.sampling(None, steps=1) | {"vae": host.vae, "image": make_picture(1, 64, 64)}
    inputs |= {"mask": torch.ones(1, 64, 64), part: {"vae": broken_vae, "model": broken_model}[part]}
    del inputs["latent_image"]
    with pytest.raises(ValueError, match="what was painted " + FP32):
        host.run("InstDiffInpaintFinish", **inputs)
