"""The pack in ComfyUI's own page, in a browser, in both of its renderers."""

import json
import re

import pytest

from tests.live.frontend import ROOT, TEMPLATES, template
from tests.live.test_released import WORKFLOWS

DOCS = ROOT / "web" / "docs"
NAMED = {
    locale: json.loads((ROOT / "locales" / locale / "nodeDefs.json").read_text(encoding="utf-8"))
    for locale in ("en", "zh")
}
NAMES = [each.partition("_")[2] for each in TEMPLATES]
"""The templates of this pack."""

RELEASED = [file.read_bytes() for file in (ROOT / "tests" / "released").glob("*/workflows/*.json")]

LEAST_LETTERS = 11
"""Pixels that the letters of a note must have at the zoom at which a template opens in a full HD window."""
LETTERS = """(all, [bottom, written]) => {
  const letters = (text) => text.replace(/[^a-z]/gi, "")
  return all.filter(each => letters(written).includes(letters(each.textContent).slice(0, 20))).map(each => {
    const shown = each.getBoundingClientRect()
    return shown.bottom > bottom ? 0 : parseFloat(getComputedStyle(each).fontSize) * shown.width / each.offsetWidth
  })
}"""
"""The size of a note's letters, 0 where they are cut off; the page has headings of its own."""

MOST_COVERED = 40
"""Pixels of a node that another one may cover: the empty end of one in the templates that are as released."""
COVERED = """most => app.graph.nodes.flatMap((node, number) => app.graph.nodes.slice(0, number).filter(other => {
  const [a, b] = [node, other].map(each => each.getBounding())
  const common = axis => Math.min(a[axis] + a[axis + 2], b[axis] + b[axis + 2]) - Math.max(a[axis], b[axis])
  return common(0) > 1 && common(1) > most
}).map(other => `${node.title} and ${other.title}`))"""
"""Pairs of nodes of which one covers the other."""


def open_template_browser(frontend):
    """Show this pack's templates there; the cards."""
    frontend.page.locator(".templates-tab-button").click()
    frontend.page.get_by_role("dialog").get_by_text("InstDiffEdit", exact=True).click()
    frontend.page.get_by_test_id(f"template-workflow-{TEMPLATES[-1]}").wait_for()
    return frontend.page.locator("[data-testid^='template-workflow-']")


def missing_nodes(frontend):
    return frontend.page.evaluate(
        "app.graph.nodes.map(node => node.type).filter(type => !LiteGraph.registered_node_types[type])"
    )


@pytest.mark.parametrize("page", ["vue"], indirect=True)  # no part of either renderer
def test_the_template_browser_offers_every_template_with_its_picture_and_opens_it(frontend):
    cards = open_template_browser(frontend)
    names = [card.get_attribute("data-testid").removeprefix("template-workflow-") for card in cards.all()]
    assert sorted(names) == TEMPLATES  # the host gives them in the order of the folder
    for card in cards.all():
        card.scroll_into_view_if_needed()  # what is far down has no picture yet
        picture = card.locator("img").first
        picture.scroll_into_view_if_needed()
        frontend.page.wait_for_function("image => image.naturalWidth > 0", arg=picture.element_handle())
    frontend.page.get_by_test_id(f"template-workflow-{TEMPLATES[0]}").click()
    frontend.page.wait_for_function(
        "name => app.extensionManager.workflow.activeWorkflow.filename === name", arg=TEMPLATES[0]
    )
    assert frontend.node("InstDiffMaskedSampler")


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_with_all_its_nodes_side_by_side_and_a_note_that_can_be_read(frontend, name):
    with frontend.window(1920, 1080):
        frontend.load(name)
        assert len(frontend.workflow["nodes"]) > 3
        assert not missing_nodes(frontend)
        note = frontend.node("MarkdownNote")
        texts = frontend.page.get_by_role("heading").filter(has_text=re.compile(r"\w{3}.* "))
        texts.first.wait_for()
        bottom = note.evaluate(
            "(node.pos[1] + node.size[1] + app.canvas.ds.offset[1]) * app.canvas.ds.scale"
            " + app.canvas.canvas.getBoundingClientRect().y"
        )
        (written,) = note.evaluate("node.widgets.map(each => each.value)")
        sizes = texts.evaluate_all(LETTERS, [bottom, written])
        released = template(name).read_bytes() in RELEASED
        assert not frontend.page.evaluate(COVERED, MOST_COVERED if released else 1)
    assert len(sizes) == len(written.split("\n\n"))
    assert min(sizes) >= LEAST_LETTERS


@pytest.mark.parametrize("page", ["vue"], indirect=True)  # no part of either renderer
@pytest.mark.parametrize(
    ("search", "name"),
    [
        ("replace object", "Masked Sampler"),
        ("remove object", "Inpaint Finish"),
        ("edit by text", "Encode Edit Prompt"),
        ("inpaint by text", "Masked Sampler"),
        ("auto mask", "Refine Instant Mask"),
    ],
)
def test_a_search_for_what_it_does_finds_the_node(frontend, search, name):
    frontend.command("Workspace.SearchBox.Toggle")
    box = frontend.page.get_by_role("combobox", name="Add a node")
    box.fill(search)
    frontend.page.get_by_role("option", name=name).first.wait_for()
    frontend.page.keyboard.press("Escape")
    box.wait_for(state="hidden")


def test_the_first_template_runs_from_the_run_button(frontend):
    frontend.load("edit_with_text")
    frontend.sample_in(2)
    frontend.run()
    (result,) = frontend.node("SaveImage").pictures()
    assert result["width"] == result["height"] == 256


def linked(workflow):
    """The links of a workflow, by the names of the inputs, whose numbers the host may change."""
    names = {each["link"]: each["name"] for node in workflow["nodes"] for each in node.get("inputs", [])}
    return sorted((origin, slot, target, names[link]) for link, origin, slot, target, _, _ in workflow["links"])


@pytest.mark.parametrize("file", WORKFLOWS)
def test_a_released_workflow_opens_in_the_browser_as_it_was_saved(frontend, file):
    released = json.loads((file.parent.parent / "nodes.json").read_text(encoding="utf-8"))
    saved = json.loads(file.read_text(encoding="utf-8"))
    frontend.load(saved)
    opened = frontend.workflow
    assert [node["type"] for node in opened["nodes"]] == [node["type"] for node in saved["nodes"]]
    assert linked(opened) == linked(saved)
    for node in saved["nodes"]:
        if node["type"] in released and node.get("widgets_values"):
            # it may have been saved before its version had the last of the widgets
            values = dict(zip(released[node["type"]]["widgets"], node["widgets_values"], strict=False))
            assert values.items() <= frontend.node(str(node["id"])).widgets().items()


def test_a_preview_is_on_the_sampler_while_it_samples(frontend, failed):
    frontend.load("edit_with_text")
    frontend.sample_in(1000)  # more than a page needs to show one
    sampler = frontend.node("InstDiffMaskedSampler")
    prompt = frontend.press_run()
    (preview,) = sampler.pictures()
    assert preview["src"].startswith("blob:")
    frontend.server.post("/interrupt", {})
    with pytest.raises(failed, match="execution_interrupted"):
        frontend.wait_for(prompt)


def read(node, locale):
    """A help page's file in a language: its headings and the text of its plain paragraphs."""
    translated = DOCS / node / f"{locale}.md"
    text = (translated if translated.exists() else DOCS / f"{node}.md").read_text(encoding="utf-8")
    return re.findall(r"^(?:#+ )?([^\W\d_][^*`|_\[<\n]*)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", ["classic"], indirect=True)  # no part of either renderer
@pytest.mark.parametrize("locale", NAMED)
def test_every_node_has_its_name_and_its_help_page_with_its_pictures(frontend, locale):
    """The last test of its page, which is loaded anew for another language, and would be for the way back."""
    frontend.language(locale)
    for kind in (name for name in frontend.server.nodes if name.startswith("InstDiff")):
        node = frontend.add(kind)
        assert node.evaluate("node.title") == NAMED[locale][kind]["display_name"]
        page = node.help()
        lines = read(kind, locale)
        assert lines
        page.get_by_text(lines[0], exact=True).first.wait_for()
        shown = page.inner_text()
        assert all(line.strip() in shown for line in lines), kind
        assert not page.locator("img").evaluate_all(
            "async all => { await Promise.allSettled(all.map(each => each.decode()));"
            " return all.filter(each => !each.naturalWidth).map(each => each.src) }"
        )
