"""The nodes' names and texts in every language, and their help pages."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ROOT / "web" / "docs"

AS_IN_ENGLISH = {"cfg", "clip", "vae", "Latent", "IoU"}
"""Names that the frontend itself leaves as they are in Chinese, and a measure's."""

CHINESE_TYPES = {"LATENT": "Latent", "IMAGE": "图像", "MODEL": "模型", "CONDITIONING": "条件"}
"""What the frontend writes on outputs that are named like their type."""

CHINESE = re.compile(r"[\u4e00-\u9fff]")
SENTENCE = re.compile(r"[A-Za-z']+(?: [A-Za-z']+){3,}")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)|src=\"([^\"]+)\"")
BOLD = re.compile(r"\*\*([^*`]*[^*`\d.][^*`]*)\*\*")


@pytest.fixture
def schemas(host):
    return {node_id: node.define_schema() for node_id, node in host.classes.items()}


def english(schema):
    """The texts of a node that the frontend looks up by key. An output named like its type is the frontend's own."""
    inputs = {each.id: {"name": each.display_name or each.id, "tooltip": each.tooltip} for each in schema.inputs}
    outputs = {
        str(number): {name: text for name, text in (("name", each.display_name), ("tooltip", each.tooltip)) if text}
        for number, each in enumerate(schema.outputs)
    }
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": inputs,
        "outputs": {number: texts for number, texts in outputs.items() if texts},
    }


def translated(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def flat(texts, key=""):
    """``{"node.inputs.text.tooltip": "..."}``"""
    if isinstance(texts, str):
        return {key: texts}
    return {name: text for part in texts for name, text in flat(texts[part], f"{key}.{part}".lstrip(".")).items()}


def page(node_id, language):
    """A help page, where the frontend looks for it: English is also what every other language gets."""
    place = PAGES / f"{node_id}.md" if language == "en" else PAGES / node_id / f"{language}.md"
    assert place.is_file(), f"{node_id} has no help page in {language}"
    return place.read_text(encoding="utf-8")


def test_english_says_what_the_nodes_say(schemas, tmp_path):
    right = tmp_path / "nodeDefs.json"
    texts = {node_id: english(schema) for node_id, schema in schemas.items()}
    right.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    committed = ROOT / "locales" / "en" / "nodeDefs.json"
    assert translated("en") == texts, f"bring it up to date: cp {right} {committed}"


def test_chinese_has_the_texts_that_english_has():
    ours, theirs = (list(flat(translated(language))) for language in ("zh", "en"))
    assert ours == theirs


def test_nothing_is_left_in_english():
    texts = flat(translated("zh"))
    left = {key: text for key, text in texts.items() if not CHINESE.search(text) and text not in AS_IN_ENGLISH}
    assert not left
    assert not {key: text for key, text in texts.items() if SENTENCE.search(text)}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_frontend_shows_every_letter(language):
    signs_of_its_messages = set("{}@|")
    assert not {key: text for key, text in flat(translated(language)).items() if signs_of_its_messages & set(text)}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_node_has_a_help_page_under_its_name(schemas, language):
    names = translated(language)
    for node_id in schemas:
        assert page(node_id, language).splitlines()[0] == f"# {names[node_id]['display_name']}"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pictures_of_the_help_pages_are_there(schemas, language):
    for node_id in schemas:
        for markdown, html in PICTURE.findall(page(node_id, language)):
            assert (PAGES / (markdown or html)).is_file(), f"{node_id}: {markdown or html}"


def test_every_node_with_a_help_page_has_its_stored_picture():
    assert {each.stem for each in (PAGES / "images").glob("*.png")} == {each.stem for each in PAGES.glob("*.md")}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_a_help_page_names_in_bold_is_written_on_a_node(schemas, language):
    written = {text for key, text in flat(translated(language)).items() if key.endswith("name")}
    types = {output.io_type for schema in schemas.values() for output in schema.outputs}
    written |= {CHINESE_TYPES.get(each, each) for each in types} if language == "zh" else types
    for node_id in schemas:
        text = "\n".join(line for line in page(node_id, language).splitlines() if not re.search(r"\| \*\*\d", line))
        assert set(BOLD.findall(text)) <= written, node_id


def test_the_help_pages_say_the_same_in_chinese(schemas):
    """As far as one can tell: paragraphs, lists, tables, pictures, code and figures are those of the English page."""
    for node_id in schemas:
        english_page, chinese_page = page(node_id, "en"), page(node_id, "zh")
        assert shape(chinese_page) == shape(english_page), node_id
        for part in (r"`[^`]*`", r"\d+(?:\.\d+)?"):
            assert sorted(re.findall(part, chinese_page)) == sorted(re.findall(part, english_page)), node_id
        prose = re.sub(r"`[^`]*`|\"[^\"]*\"", "", chinese_page)
        assert not SENTENCE.findall(prose), node_id


def shape(text):
    """What each line is: ``["#", "", "p", "-", "|4", ...]``, the rows of tables with their columns."""
    first = re.compile(r"(#+|-|!)(?= |\[)")
    lines = (line.strip() for line in text.splitlines())
    return [
        f"|{line.count('|')}" if line.startswith("|") else found[1] if (found := first.match(line)) else line and "p"
        for line in lines
    ]
