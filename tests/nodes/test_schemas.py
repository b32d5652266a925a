"""What the nodes tell the user about themselves, and the ids that saved workflows rest on."""

import pytest

RELEASED = {
    "InstDiffEncodeEditPrompt",
    "InstDiffCaptureAttention",
    "InstDiffRefineMask",
    "InstDiffMaskSettings",
    "InstDiffAttentionHeatmaps",
    "InstDiffMaskedSampler",
    "InstDiffMaskGuidance",
    "InstDiffInpaintFinish",
    "InstDiffFindInPhoto",
    "InstDiffCropToEdit",
    "InstDiffPutBack",
    "InstDiffEditGuard",
    "InstDiffDiffEditMask",
    "InstDiffCompareEdit",
    "InstDiffLoadMiniModel",
    "InstDiffMiniScene",
}


@pytest.fixture
def schemas(host):
    return [node.define_schema() for node in host.classes.values()]


def test_the_ids_are_the_released_ones(schemas):
    assert {schema.node_id for schema in schemas} == RELEASED


def test_every_node_says_what_it_does_and_is_found_under_one_category(schemas):
    for schema in schemas:
        assert schema.category == "InstDiffEdit", schema.node_id
        assert schema.description, schema.node_id
        assert schema.display_name, schema.node_id


def test_every_input_has_a_tooltip(schemas):
    bare = [(schema.node_id, each.id) for schema in schemas for each in schema.inputs if not each.tooltip]
    assert not bare


def test_the_host_accepts_every_schema(host):
    for node in host.classes.values():
        node.GET_SCHEMA()
        node.INPUT_TYPES()


def test_the_samplers_have_the_widgets_of_k_sampler_under_its_names(host):
    theirs = host.nodes.KSampler.INPUT_TYPES()["required"]
    widgets = [name for name, kind in theirs.items() if isinstance(kind[0], list) or kind[0] in ("INT", "FLOAT")]
    for node_id in ("InstDiffMaskedSampler", "InstDiffCaptureAttention", "InstDiffInpaintFinish"):
        ours = [each.id for each in host.classes[node_id].define_schema().inputs]
        assert [name for name in ours if name in widgets] == widgets


def test_the_pack_offers_its_web_folder_and_no_old_style_mappings(host):
    assert host.pack.WEB_DIRECTORY == "./web"
    assert not hasattr(host.pack, "NODE_CLASS_MAPPINGS")
