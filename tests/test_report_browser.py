"""The report in a browser: no complaint, no request, drawings that turn, tables that sort, colours one can read."""

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from browser import CHROMIUM, Page, browser
from made import made_batch
from shards import write_run

from screening.report.write import write_report
from screening.store.merge import merge

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

SHAPES = """[...document.querySelectorAll('svg.crystal')].map(
  s => [...s.children].map(c => c.outerHTML.replace(/ xmlns="[^"]*"/, '')))"""
MIDDLE = "(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector('%s').getBoundingClientRect())"
BOX = "(b => [b.x, b.y, b.width, b.height])(document.querySelector('%s').getBoundingClientRect())"
# The least contrast between a text and what lies behind it, of elements that a selector finds.
CONTRAST = """((cells) => {
  const linear = (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, k) => sum + weight * linear(c[k] / 255), 0);
  const parts = (text) => text.match(/[0-9.]+/g).map(Number);
  const behind = (cell) => {
    const colour = getComputedStyle(cell).backgroundColor;
    return colour === 'rgba(0, 0, 0, 0)' && cell.parentElement ? behind(cell.parentElement) : colour;
  };
  return Math.min(...cells.map((cell) => {
    const [a, b] = [getComputedStyle(cell).color, behind(cell)].map((text) => light(parts(text))).sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  }));
})([...document.querySelectorAll('%s')])"""
TEXTS = "h1, h2, h3, p, a, th, td, dt, dd, li, code, pre, summary, label, figcaption, .rank, .status"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("browser")
    run = write_run(folder / "run", made_batch(3000), range(500, 3000, 500), failed={7: "7: NaN", 2999: "no"})
    merge(run)
    write_report(run, folder / "r.html", where=("band_gap > 0",))
    with browser(folder / "profile") as found:
        found.open(folder / "r.html")
        yield found
        # Whatever the tests did, nothing went wrong and nothing was loaded.
        assert found.problems == []
        assert [url for url in found.requests if not url.startswith("file:")] == []
        assert len(found.requests) == 1


def numbers(markup: str) -> list[float]:
    """The coordinates in a shape."""
    return [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?(?=[\" LM]|$)", markup.split("fill=")[0].split("stroke=")[0])]


def test_the_script_draws_what_the_page_has(page: Page) -> None:
    before = page.value(SHAPES)
    assert len(before) == 12
    for k in range(12):
        page.value(f"document.querySelectorAll('svg.crystal')[{k}].focus()")
        page.press("Home")
    after = page.value(SHAPES)
    for ours, theirs in zip(before, after, strict=True):
        assert len(ours) == len(theirs)
        # Things equally far may come in another order.
        for a, b in zip(sorted(map(numbers, ours)), sorted(map(numbers, theirs)), strict=True):
            assert a == pytest.approx(b, abs=0.11)


def test_keys_and_the_mouse_turn_a_crystal(page: Page) -> None:
    page.value("document.querySelector('svg.crystal').focus()")
    seen = [page.value(SHAPES)[0]]
    for key in ("ArrowLeft", "ArrowUp"):
        page.press(key)
        seen.append(page.value(SHAPES)[0])
    show(page, "svg.crystal")
    x, y = page.value(MIDDLE % "svg.crystal")
    page.mouse("mousePressed", x, y)
    page.mouse("mouseMoved", x + 40, y + 10)
    page.mouse("mouseReleased", x + 40, y + 10)
    seen.append(page.value(SHAPES)[0])
    assert all(a != b for a, b in pairwise(seen))
    page.press("Home")


def test_tables_sort(page: Page) -> None:
    counts = "[...document.querySelectorAll('#failures tbody tr')].map(r => Number(r.cells[2].dataset.key))"
    head = "document.querySelectorAll('#failures th button')[2]"
    page.value(f"{head}.click()")
    assert page.value(counts) == sorted(page.value(counts))
    assert page.value(f"{head}.closest('th').getAttribute('aria-sort')") == "ascending"
    page.value(f"{head}.click()")
    assert page.value(counts) == sorted(page.value(counts), reverse=True)
    words = "[...document.querySelectorAll('#failures tbody tr')].map(r => r.cells[1].textContent)"
    page.value("document.querySelectorAll('#failures th button')[1].click()")
    assert page.value(words) == sorted(page.value(words))


def show(page: Page, selector: str) -> None:
    """Scroll to an element, and wait until that is done."""
    page.value(f"document.querySelector('{selector}').scrollIntoView({{behavior: 'instant', block: 'center'}})")
    page.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")


def told_at(page: Page, x: float, y: float) -> str:
    page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    told: str = page.value("(t => t.hidden ? '' : t.textContent)(document.querySelector('.tip'))")
    return told


def test_pointing_tells(page: Page) -> None:
    show(page, ".histogram")
    assert "crystal" in told_at(page, *page.value(MIDDLE % ".linear .hits rect"))
    show(page, "svg.density")
    left, top, width, height = page.value(BOX % "svg.density .cells path")
    places = [(left + width * (k % 20 + 0.5) / 20, top + height * (k // 20 + 0.5) / 20) for k in range(400)]
    told = {told_at(page, x, y) for x, y in places}
    assert any("formation_energy_per_atom" in text and "band_gap" in text for text in told)
    assert told_at(page, 2, 2) == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("mode", ["count", "share"])
def test_the_map_can_be_read(page: Page, scheme: str, mode: str) -> None:
    page.prefer(scheme)
    page.value(f"document.getElementById('map-{mode}').click()")
    page.value("document.querySelectorAll('.periodic li').forEach((li, k) => li.className = `c${k % 9} s${k % 9}`)")
    assert page.value(CONTRAST % ".periodic li") >= 4.5
    assert page.value(CONTRAST % TEXTS) >= 4.5
    shown = "getComputedStyle(document.querySelector('.periodic .in-%s')).display"
    assert (page.value(shown % mode) == "none") is False
    assert page.value(shown % ("share" if mode == "count" else "count")) == "none"
    page.prefer("light")


@pytest.mark.parametrize("width", [360, 400, 800, 1600])
def test_the_page_is_no_wider_than_the_window(page: Page, width: int) -> None:
    page.resize(width)
    assert page.value("document.documentElement.scrollWidth") <= width
    page.resize(1280)
