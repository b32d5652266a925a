"""Whatever goes wrong while sampling, the next run is as if it had not been, and nothing is kept of it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

Way = Callable[..., list[Tensor]]
"""``way(model, **widgets)``: samples by one of our nodes, and gives its tensors."""

KEPT = ("InstantMaskWrapper", "InstantMaskRun", "Recorder", "AttentionRecord", "Evidence", "Predictions")
"""Our objects that hold tensors of a run."""


def masked_sampler(host: Any, latent: Tensor, model: Any, **changes: Any) -> list[Tensor]:
    samples, mask, attention = host.edit(latent, model=model, **changes)
    return [samples, mask, attention.maps, attention.propagated]


def capture_attention(host: Any, latent: Tensor, model: Any, **changes: Any) -> list[Tensor]:
    samples, attention = host.capture(latent, model=model, **changes)
    return [samples, attention.maps, attention.propagated]


def guidance(host: Any, latent: Tensor, model: Any, **changes: Any) -> list[Tensor]:
    guided, passed, attention = host.run("InstDiffMaskGuidance", model=model, latent={"samples": latent})
    samples = host.k_sampler(passed["samples"], model=guided, **changes)
    return [samples, attention.record.maps, attention.record.propagated]


def diffedit_mask(host: Any, latent: Tensor, model: Any, **changes: Any) -> list[Tensor]:
    prompts = {"source": host.other_prompt("a cat"), "target": host.prompt("a frog")}
    return list(host.run("InstDiffDiffEditMask", model=model, latent_image={"samples": latent}, **prompts, draws=4))


SAMPLERS = [
    masked_sampler,
    pytest.param(capture_attention, id="capture_attention", marks=pytest.mark.one_host),
    guidance,
]


@pytest.fixture(params=[*SAMPLERS, diffedit_mask], ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest, host: Any, latent: Tensor) -> Way:
    return lambda model, **changes: request.param(host, latent, model, **changes)


@pytest.fixture(params=SAMPLERS, ids=lambda way: way.__name__)
def sampler(request: pytest.FixtureRequest, host: Any, latent: Tensor) -> Way:
    return lambda model, **changes: request.param(host, latent, model, **changes)


@pytest.fixture(scope="module", autouse=True)
def _only_new_objects(host: Any) -> Iterator[None]:
    """What was there before these tests is not searched through again in each of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def unharmed(host: Any, latent: Tensor) -> Callable[..., Any]:
    """``with unharmed(way, model):``: after what happens in it everything is, and works, as before."""

    @contextmanager
    def check(way: Way, model: Any) -> Iterator[None]:
        plain, ours = host.k_sampler(latent, model=model), way(model)
        state, alive = everything(model), live_objects()
        yield
        assert everything(model) == state, "hooks are left in the model"
        assert live_objects() == alive, "something of the run is kept"
        assert torch.equal(host.k_sampler(latent, model=model), plain)
        for now, then in zip(way(model), ours, strict=True):
            assert torch.equal(now, then)

    return check


def everything(model: Any) -> Any:
    """What other nodes or the host may find in a model: containers copied, functions by identity."""

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: copied(entry) for key, entry in value.items()}
        return [copied(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    patcher = [model.model_options, model.patches, model.object_patches, model.wrappers, model.callbacks]
    hooks = [(dict(each._forward_hooks), dict(each._forward_pre_hooks)) for each in model.model.modules()]
    return copied([*patcher, model.attachments, hooks])


def live_objects() -> dict[str, int]:
    """How many of our objects there are that hold tensors of a run."""
    gc.collect()
    found = [type(each).__name__ for each in gc.get_objects() if type(each).__name__ in KEPT]
    return {name: found.count(name) for name in KEPT}


def error_of(way: Way, model: Any, kind: type[BaseException]) -> str:
    """The message of the error that ends a run; its traceback, which holds the run, is let go."""
    with pytest.raises(kind) as caught:
        way(model)
    message = f"{caught.type.__name__}: {caught.value}"
    del caught
    return message


@contextmanager
def failing_unet(model: Any, call: int, error: Callable[[], BaseException]) -> Iterator[list[int]]:
    """The U-Net raises in its `call`-th forward pass from now on; later ones succeed."""
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(len(calls) + 1)
        if calls[-1] == call:
            raise error()

    hook = model.model.diffusion_model.time_embed.register_forward_pre_hook(fail)
    try:
        yield calls
    finally:
        hook.remove()


def interruption() -> BaseException:
    import comfy.model_management

    return comfy.model_management.InterruptProcessingException()


ERRORS: dict[str, Callable[[], BaseException]] = {
    "error": lambda: RuntimeError("the model's own error"),
    "out of memory": lambda: torch.OutOfMemoryError("the device is full"),
    "interrupted": interruption,
}


def test_an_error_in_the_model_comes_through_and_leaves_nothing_behind(host: Any, way: Way, unharmed: Any) -> None:
    model = host.model.clone()
    with unharmed(way, model):
        for fault, call in (("error", 1), ("error", 4), ("out of memory", 2), ("interrupted", 3)):
            error = ERRORS[fault]
            with failing_unet(model, call, error) as calls:
                kind = type(error())
                assert error_of(way, model, kind) == f"{kind.__name__}: {error()}"
            assert len(calls) == call


def test_an_error_in_another_packs_attention_comes_through_and_leaves_nothing_behind(
    host: Any, way: Way, unharmed: Any
) -> None:
    """In a layer that we read."""
    from comfy.ldm.modules.attention import optimized_attention

    failing: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        if failing:
            failing.append(1)
            if len(failing) > 3:
                raise KeyError("another pack's error")
        return optimized_attention(q, k, v, extra["n_heads"])

    model = host.model.clone()
    model.set_model_attn2_replace(attend, "input", 3)
    with unharmed(way, model):
        failing.append(0)
        assert "another pack's error" in error_of(way, model, KeyError)
        failing.clear()


@pytest.mark.one_host
def test_an_error_in_another_packs_function_after_guidance_leaves_nothing_behind(
    host: Any, sampler: Way, unharmed: Any
) -> None:
    failing: list[int] = []

    def after(args: dict[str, Any]) -> Tensor:
        if failing:
            raise IndexError("another pack's error")
        return args["denoised"]

    model = host.model.clone()
    model.set_model_sampler_post_cfg_function(after)
    with unharmed(sampler, model):
        failing.append(1)
        assert "another pack's error" in error_of(sampler, model, IndexError)
        failing.clear()


@pytest.mark.one_host
def test_an_error_of_ours_in_the_middle_of_a_step_leaves_nothing_behind(host: Any, sampler: Way, unharmed: Any) -> None:
    """Another pack shortens the context in the second step: our words no longer fit its token positions."""
    failing: list[int] = []

    def shorten(n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        if failing:
            failing.append(1)
        short = slice(0, 50 if len(failing) > 20 else None)
        return n, context[:, short], value[:, short]

    model = host.model.clone()
    model.set_model_attn2_patch(shorten)
    with unharmed(sampler, model):
        failing.append(0)
        assert "50 token positions, but its words were counted for 77" in error_of(sampler, model, ValueError)
        failing.clear()


def test_an_interrupt_between_two_steps_leaves_nothing_behind(
    host: Any, way: Way, unharmed: Any, progress: Any
) -> None:
    """The host's own progress hook is what stops a run there: after the first step, and after the last."""
    model = host.model.clone()
    with unharmed(way, model):
        for step in (1, 4):  # of the others it may not tell

            def report(value: int, total: int, *_: Any, step: int = step, **__: Any) -> None:
                if value == step:
                    raise interruption()

            progress(report)
            error_of(way, model, type(interruption()))
            progress(None)


@pytest.mark.one_host
def test_an_error_in_a_second_call_of_a_step_leaves_nothing_behind(host: Any, sampler: Way, unharmed: Any) -> None:
    def of_this_kind(model: Any) -> list[Tensor]:
        return sampler(model, sampler_name="heun")

    model = host.model.clone()
    with unharmed(of_this_kind, model), failing_unet(model, 3, ERRORS["error"]):
        assert "the model's own error" in error_of(of_this_kind, model, RuntimeError)


@pytest.fixture
def little_memory(host: Any) -> Iterator[None]:
    """The host takes the model for one so large that it runs its prompts one after the other."""
    factor = host.model.model.memory_usage_factor
    host.model.model.memory_usage_factor = 1e12
    yield
    host.model.model.memory_usage_factor = factor


def test_a_host_that_splits_its_batches_for_memory_gets_the_same_edit(
    host: Any, make_latent: Any, little_memory: None
) -> None:
    """With one mask of all ones ours is KSampler there too; the instant mask is that of whole batches."""
    latent, rows = make_latent(2, 16, 16), []

    def see(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        rows.append(len(extra["cond_or_uncond"]))
        return optimized_attention(q, k, v, extra["n_heads"])

    model = host.model.clone()
    model.set_model_attn2_replace(see, "input", 5)
    samples = host.edit(latent, model=model, mask=torch.ones(1, 128, 128))[0]
    assert set(rows) == {1}
    assert torch.equal(samples, host.k_sampler(latent, model=model))
    split = host.edit(latent)[1]
    host.model.model.memory_usage_factor = 1e-6
    whole = host.edit(latent)[1]
    assert (split == whole).float().mean() > 0.999


@pytest.mark.one_host
def test_after_running_out_of_memory_the_same_run_succeeds_with_split_batches(
    host: Any, way: Way, unharmed: Any, request: pytest.FixtureRequest
) -> None:
    model = host.model.clone()
    whole = way(model)
    with unharmed(way, model):
        with failing_unet(model, 2, ERRORS["out of memory"]):
            error_of(way, model, torch.OutOfMemoryError)
        factor, model.model.memory_usage_factor = model.model.memory_usage_factor, 1e12
        try:
            split = way(model)
        finally:
            model.model.memory_usage_factor = factor
        for now, then in zip(split, whole, strict=True):
            # where the soft mask is as good as the threshold, rounding decides
            assert torch.isclose(now, then, rtol=1e-2, atol=1e-2).float().mean() > 0.99
        del split, now, then


@pytest.mark.one_host
def test_runs_keep_nothing_but_what_they_return(host: Any, way: Way) -> None:
    way(host.model)
    alive = live_objects()
    for _ in range(3):
        way(host.model)
    assert live_objects() == alive


def test_a_run_keeps_only_its_record(host: Any, latent: Tensor) -> None:
    alive = live_objects()
    attention = host.edit(latent)[2]
    now = live_objects()
    assert {name: now[name] - alive[name] for name in KEPT if now[name] != alive[name]} == {"AttentionRecord": 1}
    record = weakref.ref(attention)
    del attention
    gc.collect()
    assert record() is None


def test_a_guide_keeps_its_record_and_goes_with_its_model(host: Any, latent: Tensor) -> None:
    alive = live_objects()
    model, _, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    host.k_sampler(latent, model=model)
    now = live_objects()
    changed = {name: now[name] - alive[name] for name in KEPT if now[name] != alive[name]}
    assert changed == {"AttentionRecord": 1, "InstantMaskWrapper": 1}
    references = [weakref.ref(attention), weakref.ref(attention.record), weakref.ref(model)]
    del model, attention
    gc.collect()
    assert [each() for each in references] == [None] * 3
    assert live_objects() == alive
