"""ComfyUI's own mask editor goes on with a mask that was found, and gives it back, as the help page says."""

import pytest

from tests.live.frontend import opened
from tests.live.widget.editor import edit, workflow

OPEN = "void app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor')"
GROWN = """([least]) => {
    const [, , mask] = document.querySelectorAll('.mask-editor-dialog canvas')
    if (!mask?.width) return false
    const { data } = mask.getContext('2d').getImageData(0, 0, mask.width, mask.height)
    const area = data.reduce((sum, value, at) => sum + (at % 4 === 3 && value > 127), 0)
    return area > least && area
}"""
"""How much is masked in the host's editor, once it is more than at least."""


@pytest.fixture(scope="module")
def page(browser, page_server):
    with opened(browser, page_server, "vue") as page:
        yield page


def test_a_mask_comes_back_from_the_hosts_editor_with_what_was_painted_there(frontend):
    frontend.load(workflow())
    edit(
        frontend,
        "const add = type => { const node = LiteGraph.createNode(type); app.graph.add(node); return node };"
        "const join = add('JoinImageWithAlpha'), shown = add('PreviewImage'), back = add('MaskPreview');"
        "node('InstDiffMiniScene').connect(0, join, 'image'); node('InstDiffRefineMask').connect(0, join, 'alpha');"
        "shown.title = 'Shown'; join.connect(0, shown, 'images');"
        "back.title = 'Back'; node('InstDiffRefineMask').connect(0, back, 'mask')",
    )
    result, back = frontend.node("Shown"), frontend.node("Back")
    found = frontend.run().picture(str(back.number))[..., 0] > 127
    result.pictures()
    result.select()
    page = frontend.page
    page.evaluate(OPEN)
    dialog = page.locator(".mask-editor-dialog")
    area = page.wait_for_function(GROWN, arg=[0]).json_value()
    assert area == found.sum()
    box = dialog.locator("canvas").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.1, steps=10)
    page.mouse.up()
    page.wait_for_function(GROWN, arg=[area])
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="hidden")
    photo = frontend.add("LoadImage")
    photo.set("image", "example.png")  # a photo is there as a rule, and a new server has none
    result.evaluate("comfyAPI.app.ComfyApp.copyToClipspace(node)")
    photo.evaluate("comfyAPI.app.ComfyApp.pasteFromClipspace(node)")
    photo.evaluate("node.connect(1, app.graph.getNodeById(argument), 'mask')", back.number)
    painted = frontend.run().picture(str(back.number))[..., 0] > 127
    assert painted[found].all()
    assert (painted & ~found).any()
