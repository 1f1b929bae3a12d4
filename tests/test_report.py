"""The page of a report: whole, safe, the same for the same store, and its numbers those of the store."""

import json
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from made import made_crystals
from pages import Node, page_of
from shards import STAMP, TARGETS, write_run

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.elements import NUMBER_OF, SYMBOLS
from screening.crystals.formats.cif import parse_cif_text
from screening.errors import FileFormatError, InputError
from screening.query.doubts import doubts_of
from screening.query.query import Query
from screening.report.write import write_report
from screening.store.merge import merge
from screening.store.read import Results
from screening.store.record import INPUT, RESULTS, RUN_FILE, SHARDS, record_of, write_record
from screening.store.schema import Status
from screening.store.shard import shard_name

NASTY = "<script>alert(1)</script>"
CRYSTALS = Crystals.of(
    [
        *made_crystals(118, seed=11),
        Crystal(f"{NASTY}\"' onload=x", np.array([26, 8], np.uint8), np.diag([0, 2.1, 0])[:2], 4.2 * np.eye(3)),
        Crystal("]]>\u202eevil\x00&amp;", np.array([12, 8], np.uint8), np.diag([0, 2.1, 0])[:2], 4.2 * np.eye(3)),
    ]
)
REJECTIONS = [
    Rejection("made-000003", "b.cif", Reason.DUPLICATE_ID, "made-000003: is there already"),
    Rejection(NASTY, "c.cif", Reason.TINY_VOLUME, f"{NASTY}: too {NASTY} small"),
    Rejection("", "d.cif", Reason.UNREADABLE, "x" * 5000),
    *[Rejection(f"more-{k}", "e.cif", Reason.EMPTY, "no atoms") for k in range(5)],
]
FAILED = {7: f"7: {NASTY}", 59: "59: é"}
CARD = {
    "title": f"the {NASTY} model",
    "elements": [z for z in range(1, 95) if z != NUMBER_OF["Fe"]],
    "metrics": {"test": {"band_gap": {"count": 1000, "mae": 0.25, "r2": None}, "is_metal": {"auc": 0.95}}},
    "limits": "not for molecules",
}
EVENTS = [
    {"event": "start", "time": "2026-11-21T10:00:00+00:00", "host": "node1", "command": f"screening screen {NASTY}"},
    {"event": "end", "time": "2026-11-21T11:00:00+00:00", "finished": True, "rows": 120, "seconds": 3600.0},
]


def run_of(folder: Path, cuts: tuple[int, ...] = (10, 35, 60, 90)) -> Path:
    run = write_run(folder, CRYSTALS, cuts, rejections=REJECTIONS, failed=FAILED)
    content = json.loads((run / RUN_FILE).read_text())
    content["model"] = {"name": "default", "architecture": "sieve", "card": CARD}
    (run / RUN_FILE).write_text(json.dumps(content))
    lines = [json.dumps(event) for event in EVENTS]
    (run / "provenance.jsonl").write_text("\n".join([*lines, '{"event": "sta']))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run_of(tmp_path_factory.mktemp("report") / "a run & <more>")
    merge(folder)
    return folder


def page(run: Path, output: Path, **options: object) -> tuple[str, Node]:
    told = write_report(run, output, **options)  # type: ignore[arg-type]
    text = output.read_text(encoding="utf-8")
    assert told.size == len(text.encode()) < 5_000_000
    return text, page_of(text)


@pytest.fixture(scope="module")
def written(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Node]:
    return page(run, tmp_path_factory.mktemp("page") / "report.html")


# --- the page as a page ----------------------------------------------------------------------------------------


def assert_sound(document: Node) -> None:
    ids = Counter(node.attributes["id"] for node in document.all() if "id" in node.attributes)
    assert [id for id, count in ids.items() if count > 1] == []
    for node in document.all("a"):
        href = node.attributes["href"]
        assert href.startswith("data:") or href[1:] in ids, href
    for node in document.all("label"):
        assert node.attributes["for"] in ids
    for node in document.all():
        for name in ("aria-labelledby", "fill"):
            for id in re.findall(r"url\(#([^)]*)\)", node.attributes.get(name, "")):
                assert id in ids
    levels = [int(node.name[1]) for node in document.all() if re.fullmatch(r"h[1-6]", node.name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    for svg in document.all("svg"):
        assert svg.attributes.get("aria-hidden") == "true" or svg.attributes.get("aria-label"), svg.attributes
    assert document.one("html").attributes["lang"] == "en"
    assert "NaN" not in document.one("body").text


def test_the_page_is_sound(written: tuple[str, Node]) -> None:
    text, document = written
    assert text.startswith("<!doctype html>\n<html")
    assert_sound(document)
    headings = [node.text for node in document.all("h2")]
    assert headings[:3] == ["What was screened", "Top candidates", "Predictions"]
    assert len(list(document.one("nav").all("a"))) == len(headings)


def test_nothing_is_loaded_from_anywhere(written: tuple[str, Node]) -> None:
    text, document = written
    outside = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+[^\s\"'<]*", text)
    assert [found for found in outside if "www.w3.org/2000/svg" not in found] == []
    assert not re.search(r"@import|url\((?!#)", text)
    names = {name for node in document.all() for name in node.attributes}
    assert not names & {"src", "srcset", "action", "formaction", "background", "poster"}
    assert {node.name for node in document.all()} & {"link", "iframe", "object", "embed", "base", "img"} == set()
    policy = next(n for n in document.all("meta") if "http-equiv" in n.attributes).attributes["content"]
    assert policy.startswith("default-src 'none'; base-uri 'none'")


def test_texts_of_files_are_escaped(written: tuple[str, Node]) -> None:
    text, document = written
    scripts = [node for node in document.all("script")]
    assert [node.attributes.get("type") for node in scripts] == ["application/json", None]
    assert not any(name.startswith("on") for node in document.all() for name in node.attributes)
    assert NASTY not in text
    assert f"the {NASTY} model" in document.one("header").text
    shown = [node.text for node in document.by_id("failures").all("code")]
    assert NASTY in shown
    assert "\u202e" not in text
    assert "\x00" not in text
    assert document.one("h1").text == "a run & <more>"


def test_ids_that_are_markup_are_shown_as_they_are(run: Path, tmp_path: Path) -> None:
    condition = "elements = 'Fe-O' OR elements = 'Mg-O'"
    text, document = page(run, tmp_path / "r.html", where=condition)
    shown = [node.one("code").text for node in document.all("p", "id")]
    assert sorted(shown) == ["<script>alert(1)</script>\"' onload=x", "]]>\ufffdevil\ufffd&amp;"]
    assert NASTY not in text
    assert_sound(document)


def test_the_same_store_gives_the_same_bytes(run: Path, tmp_path: Path, written: tuple[str, Node]) -> None:
    again, _ = page(run, tmp_path / "again.html")
    assert again == written[0]
    copied = shutil.copytree(run, tmp_path / run.name)
    assert page(copied, tmp_path / "copied.html")[0] == written[0]


# --- its numbers -----------------------------------------------------------------------------------------------


def test_totals_are_those_of_the_store(run: Path, written: tuple[str, Node]) -> None:
    with Results(run) as results:
        counts = results.counts()
    rows = {row[0]: row[1] for row in written[1].by_id("funnel").one("div", "funnel").rows()}
    assert int(rows["read"]) == sum(counts.values()) == 128
    assert int(rows["accepted"]) == counts[Status.OK] + counts[Status.FAILED] == 120
    assert int(rows["predicted"]) == counts[Status.OK] == 118
    iron = Query(run).where("elements HAS ANY 'Fe'").count()
    assert int(rows["of known elements"]) == 118 - iron
    assert int(rows["asked for"]) == 12
    tiles = {node.one("dt").text: node.one("dd").text for node in written[1].one("dl", "tiles").all("div")}
    assert tiles["crystals read"] == "128"
    assert tiles["predicted (92.2 %)"] == "118"


def test_the_map_counts_elements(run: Path, written: tuple[str, Node]) -> None:
    cells = {
        node.one("abbr").text: node.attributes["aria-label"] for node in written[1].one("ol", "periodic").all("li")
    }
    assert list(cells) == list(SYMBOLS[1:])
    for symbol in ("O", "Fe", "H", "Og"):
        count = Query(run).where(f"elements HAS ANY '{symbol}'").count()
        assert re.search(rf": {count} crystals?(,|$)", cells[symbol]), (symbol, count, cells[symbol])
    rows = written[1].one("div", "map").one("table", "sortable").rows()
    assert sum(int(row[2]) for row in rows[1:]) == sum(
        int(found[1]) for text in cells.values() if (found := re.search(r": (\d+) crystal", text))
    )


def test_histograms_count_every_predicted_crystal(written: tuple[str, Node]) -> None:
    figures = list(written[1].all("figure", "histogram"))
    assert len(figures) == len(TARGETS)
    for figure in figures:
        rows = figure.one("details").rows()
        assert sum(int(row[2]) for row in rows[1:]) == 118
        assert sum(int(row[3]) for row in rows[1:]) == 12
        assert [node.classes for node in figure.all("svg")] == [["chart", "linear"], ["chart", "log"]]


def test_candidates_are_the_answer_of_the_query(run: Path, tmp_path: Path) -> None:
    asked = {"where": ("band_gap > 0.5", "nelements > 2"), "by": "abs(bulk_modulus - 1)", "descending": True, "top": 7}
    _, document = page(run, tmp_path / "r.html", **asked)
    query = Query(run).where("band_gap > 0.5").where("nelements > 2")
    best = query.top(7, by="abs(bulk_modulus - 1)", descending=True).frame()
    cards = [node for node in document.one("ol", "cards").content if isinstance(node, Node)]
    assert [card.one("p", "id").text for card in cards] == best["id"].to_list()
    assert [card.one("h3").text for card in cards] == [
        f"{k + 1} {formula}" for k, formula in enumerate(best["formula"])
    ]
    for card, values in zip(cards, best.iter_rows(named=True), strict=True):
        shown = dict(zip([n.text for n in card.all("dt")], [n.text for n in card.all("dd")], strict=True))
        assert shown["Band gap"].endswith(" eV")
        assert float(shown["Band gap"].removesuffix(" eV")) == pytest.approx(values["band_gap"], abs=6e-4)
    rows = {row[0]: row[1] for row in document.by_id("funnel").one("div", "funnel").rows()}
    assert int(rows["asked for"]) == query.count()
    ranked = document.by_id("candidates").one("table", "sortable").rows()
    assert [row[2] for row in ranked[1:]] == best["id"].to_list()


def test_cards_draw_and_hand_out_their_crystals(run: Path, tmp_path: Path) -> None:
    asked = {"where": ("elements HAS ALL 'Fe'",), "top": 5}
    _, document = page(run, tmp_path / "r.html", **asked)
    for card in document.one("ol", "cards").content:
        assert isinstance(card, Node)
        assert "Fe not seen in training" in card.one("p", "warning").text
        assert len(list(card.all("svg", "crystal"))) == 1
        for link in card.all("a", "download"):
            text = unquote(link.attributes["href"].partition(",")[2])
            read = parse_cif_text(text, id="", source="")
            assert isinstance(read, Crystal)
            assert card.one("code").text in text
            assert "band_gap" in read.labels
            assert link.attributes["download"].endswith(".cif")


@pytest.mark.parametrize(("top", "count", "words"), [(1, 2, "the best 1 %"), (12, 12, "the best 12")])
def test_the_usual_wish_is_the_best_hundredth(run: Path, tmp_path: Path, top: int, count: int, words: str) -> None:
    _, document = page(run, tmp_path / "r.html", top=top)
    told = document.by_id("repeat").text
    condition = re.search(r"--where '(formation_energy_per_atom <= [^']+)'", told)
    assert condition
    assert Query(run).where(condition[1]).count() == count
    assert f"{words} by formation_energy_per_atom" in document.by_id("candidates").text


def test_what_cannot_be_ranked_is_not_shown(run: Path, tmp_path: Path) -> None:
    asked = {"where": "band_gap > 0", "by": "sqrt(0 - nsites)"}
    _, document = page(run, tmp_path / "r.html", **asked)
    assert re.fullmatch(r".*None of the \d+ crystals asked for has such a number.*", document.by_id("candidates").text)
    _, document = page(run, tmp_path / "r.html", by="sqrt(0 - nsites)")
    assert "No predicted crystal is like that." in document.by_id("candidates").text


def test_reasons_come_with_examples(written: tuple[str, Node]) -> None:
    rows = written[1].by_id("failures").one("table").rows()[1:]
    assert [row[:3] for row in rows] == [
        ["rejected", "empty", "5"],
        ["failed", "non_finite_prediction", "2"],
        ["rejected", "tiny_volume", "1"],
        ["rejected", "unreadable", "1"],
        ["duplicate", "duplicate_id", "1"],
    ]
    assert rows[0][4] == "more-0 no atomsmore-1 no atomsmore-2 no atoms"
    assert rows[2][4] == f"{NASTY} too {NASTY} small"
    assert rows[3][4].startswith("(no id) xxx")
    assert len(rows[3][4]) < 500


def test_provenance_is_told(written: tuple[str, Node]) -> None:
    _, document = written
    model = document.by_id("model").text
    assert STAMP.model_hash in model
    assert "not for molecules" in model
    assert "0.250" in model
    provenance = document.by_id("provenance").text
    assert STAMP.input_fingerprint in provenance
    assert "1 line could not be read" in provenance
    assert "finished yes" in provenance
    assert f"screening screen {NASTY}" in document.by_id("repeat").text


def test_what_the_model_may_know_nothing_about_is_told(run: Path, written: tuple[str, Node]) -> None:
    with Results(run) as results:
        doubts = list(doubts_of(results))
    assert len(doubts) >= 2
    assert [node.text for node in written[1].by_id("funnel").all("p", "note")] == doubts


# --- stores of all sorts ---------------------------------------------------------------------------------------


def test_a_run_that_is_not_merged_tells_the_same(run: Path, written: tuple[str, Node], tmp_path: Path) -> None:
    shards = run_of(tmp_path / run.name)
    _, document = page(shards, tmp_path / "r.html")
    assert_sound(document)
    for part in ("funnel", "candidates", "targets", "elements", "failures"):
        assert document.by_id(part).text == written[1].by_id(part).text


def test_a_run_that_is_not_done_says_what_is_missing(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    (run / SHARDS / shard_name(35, 60)).unlink()
    _, document = page(run, tmp_path / "r.html")
    assert_sound(document)
    notice = document.one("header").one("p", "warning").text
    assert notice.startswith("This run is not done: 25 of 128 rows are missing yet.")
    rows = {row[0]: row[1] for row in document.by_id("funnel").one("div", "funnel").rows()}
    assert int(rows["read"]) == 103


def test_a_run_without_any_shard(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    shutil.rmtree(run / SHARDS)
    _, document = page(run, tmp_path / "r.html")
    assert_sound(document)
    assert "No predicted crystal is like that." in document.by_id("candidates").text
    assert "no shard" in document.by_id("running").text


def test_a_store_without_crystals(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / SHARDS).mkdir(parents=True)
    from screening.crystals.packed_writer import PackedWriter

    with PackedWriter(run / INPUT):
        pass
    write_record(record_of(run, STAMP, run / INPUT, 0))
    _, document = page(run, tmp_path / "r.html")
    assert_sound(document)
    assert "Every crystal that was read has predictions." in document.by_id("failures").text


def test_results_alone_are_reported_without_drawings(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / RESULTS, tmp_path / "moved.h5")
    told = write_report(tmp_path / "moved.h5", tmp_path / "r.html", title="alone")
    assert not told.drawn
    document = page_of((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert_sound(document)
    assert not list(document.all("svg", "crystal"))
    assert "no crystals are drawn" in document.by_id("candidates").text
    assert "No provenance.jsonl" in document.by_id("provenance").text
    told = write_report(tmp_path / "moved.h5", tmp_path / "r.html", packed=run / INPUT)
    assert told.drawn


def test_a_single_target_has_no_density(tmp_path: Path) -> None:
    from shards import predicted

    from screening.store.schema import Stamp
    from screening.store.shard import write_shard

    run = write_run(tmp_path / "run", CRYSTALS)
    stamp = Stamp(STAMP.model_hash, STAMP.input_fingerprint, TARGETS[2:3])
    write_record(record_of(run, stamp, run / INPUT, len(CRYSTALS)))
    rows = predicted(CRYSTALS, 0, len(CRYSTALS), targets=TARGETS[2:3])
    write_shard(run / SHARDS, rows, stamp, timing={})
    _, document = page(run, tmp_path / "r.html")
    assert_sound(document)
    assert not list(document.all("svg", "density"))
    assert "by is_metal" in document.by_id("candidates").text


# --- what is refused -------------------------------------------------------------------------------------------


def test_wrong_wishes_are_told(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.html"
    for asked, message in (
        ({"where": "band_gab > 1"}, "--where: there is no column 'band_gab'.*did you mean band_gap"),
        ({"by": "band_gab"}, "by: there is no column 'band_gab'"),
        ({"where": ("band_gap >",)}, "--where: "),
    ):
        with pytest.raises(InputError, match=message):
            write_report(run, output, **asked)
    assert not output.exists()


def test_no_run_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run\.json"):
        write_report(tmp_path, tmp_path / "r.html")
    with pytest.raises(InputError, match="there is no folder"):
        write_report(run_of(tmp_path / "run"), tmp_path / "none" / "r.html")


def test_a_damaged_shard_is_told(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    path = run / SHARDS / shard_name(35, 60)
    path.write_bytes(path.read_bytes()[:-100])
    output = tmp_path / "r.html"
    output.write_text("older")
    with pytest.raises(FileFormatError, match=f"{path.name}.*remove it"):
        write_report(run, output)
    assert output.read_text() == "older"


def test_another_input_is_told(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", Crystals.of(made_crystals(120, seed=99, prefix="other")))
    with pytest.raises(FileFormatError, match="the input was replaced"):
        write_report(run, tmp_path / "r.html", packed=other / INPUT)
