"""The documentation as `make docs` has built it: pages can be reached, and links lead on."""

from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
FRONT = SITE / "index.html"
GENERATED = ("_modules", "genindex.html", "py-modindex.html", "search.html")  # not written by us
PUBLIC_MODULES = ("nadam_xla.jax", "nadam_xla.keras", "nadam_xla.tensorflow")


class Page(HTMLParser):
    """What a page links to, loads and shows.

    Attributes:
        links: where its anchors lead.
        loads: what a browser fetches to show it.
        ids: what a link to a part of it may name.
        unnamed: its pictures that have no words for those who do not see them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.unnamed: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("img", "script", "iframe") and "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(given["href"])
        if tag == "img" and not given.get("alt"):
            self.unnamed.append(given["src"])


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    assert FRONT.exists(), f"{FRONT} is missing: `make docs` builds it"
    found = (path for path in SITE.rglob("*.html") if "_static" not in path.parts)
    return {path: Page(path) for path in found}


def is_ours(path: Path) -> bool:
    return path.relative_to(SITE).parts[0] not in GENERATED


def internal(path: Path, links: list[str]) -> Iterator[tuple[str, Path, str]]:
    """Of the links of a page to this site: as they stand, the file and the part of it."""
    for link in links:
        split = urlsplit(link)
        if not split.scheme and not split.netloc:
            target = (path.parent / unquote(split.path)).resolve() if split.path else path
            yield link, target, unquote(split.fragment)


def test_every_page_is_two_clicks_from_the_front_page(pages: dict[Path, Page]) -> None:
    reached = {FRONT}
    for _ in range(2):
        reached |= {
            target
            for path in list(reached)
            if path in pages
            for _, target, _ in internal(path, pages[path].links)
        }
    assert not [path for path in pages if is_ours(path) and path not in reached]


def test_every_link_within_the_site_leads_to_something(pages: dict[Path, Page]) -> None:
    broken = [
        f"{path.relative_to(SITE)}: {link}"
        for path, page in pages.items()
        for link, target, fragment in internal(path, page.links)
        if not target.exists()
        or (fragment and target in pages and fragment not in pages[target].ids)
    ]
    assert not broken


def test_it_reads_without_a_network(pages: dict[Path, Page]) -> None:
    missing = [
        f"{path.relative_to(SITE)}: {source}"
        for path, page in pages.items()
        for source in page.loads
        if urlsplit(source).netloc or not (path.parent / unquote(urlsplit(source).path)).exists()
    ]
    assert not missing


def test_every_picture_has_words(pages: dict[Path, Page]) -> None:
    unnamed = {path: page.unnamed for path, page in pages.items() if is_ours(path)}
    assert not {path: pictures for path, pictures in unnamed.items() if pictures}


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_the_reference_has_every_public_name(module: str, pages: dict[Path, Page]) -> None:
    described = set().union(*(page.ids for path, page in pages.items() if is_ours(path)))
    names = {f"{module}.{name}" for name in import_module(module).__all__}
    modules = {f"module-{name}" for name in names}
    missing = {n for n in names if n not in described and f"module-{n}" not in described & modules}
    assert not missing
