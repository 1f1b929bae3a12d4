"""Where the numbers come from: the model and how good it is, the input, who worked when, and how to do it again."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from screening.report.asked import Asked, Wish
from screening.report.facts import Facts
from screening.report.markup import Content, Markup, element
from screening.report.table import plain_table
from screening.report.wording import DASH, measured, plural, unit_words, whole

# So many lines of provenance are shown; a run that was stopped more often shows its first and last ones.
MOST_EVENTS = 12
_METRICS = ("count", "mae", "rmse", "r2", "spearman", "auc", "accuracy", "mae_log10")


def model_part(facts: Facts) -> list[Content]:
    """What the model is, what it must not be used for, and its errors on crystals it has not seen."""
    card, stamp = facts.card, facts.record.stamp
    known = facts.record.known_elements
    rows: list[tuple[str, Content]] = [
        ("Model", facts.model_title),
        ("Architecture", facts.model.get("architecture")),
        ("Description", card.get("description")),
        ("Limits", card.get("limits")),
        ("Licence of the weights", card.get("licence")),
        ("Elements in training", None if known is None else str(len(known))),
        ("SHA-256", element("code", stamp.model_hash)),
    ]
    targets = [
        [target.name, unit_words(target.unit) or DASH, target.kind, target.scale]
        for target in facts.record.stamp.targets
    ]
    return [
        _definitions(rows),
        element("h3", "Targets"),
        plain_table(["target", "unit", "kind", "scale"], targets, numbers_from=9),
        *_metrics(facts),
    ]


def _metrics(facts: Facts) -> Iterator[Content]:
    found = facts.card.get("metrics")
    units = {target.name: unit_words(target.unit) for target in facts.record.stamp.targets}
    for dataset, metrics in found.items() if isinstance(found, dict) else ():
        if not isinstance(metrics, dict) or not all(isinstance(one, dict) for one in metrics.values()):
            continue
        names = [name for name in _METRICS if any(name in one for one in metrics.values())]
        rows = [
            [target, units.get(target, ""), *(_metric(one, name) for name in names)] for target, one in metrics.items()
        ]
        if rows:
            yield element("h3", f"Errors on the set “{dataset}”")
            yield plain_table(["target", "unit", *names], rows, numbers_from=2)


def _metric(metrics: Mapping[str, Any], name: str) -> str:
    value = metrics.get(name)
    if not isinstance(value, int | float):
        return DASH
    return whole(int(value)) if name == "count" else measured(float(value), 3)


def run_part(facts: Facts) -> list[Content]:
    """The input and what was recorded of each start and end."""
    content = facts.record.content
    software: dict[str, Any] = {}
    for event in facts.starts:
        software |= {key: event[key] for key in ("code_version", "commit", "python", "system") if event.get(key)}
        packages = event.get("packages", event.get("versions"))
        software |= packages if isinstance(packages, dict) else {}
    rows: list[tuple[str, Content]] = [
        ("Packed input", element("code", facts.record.input)),
        ("Crystals in it", whole(facts.record.rows)),
        ("Fingerprint of the input", element("code", facts.record.stamp.input_fingerprint)),
        ("Device", _text(content.get("device"))),
        ("Begun", _text(content.get("created"))),
        ("Software", ", ".join(f"{name} {value}" for name, value in software.items())),
    ]
    return [
        _definitions(rows),
        _events(facts),
        element(
            "details",
            element("summary", element("code", "run.json")),
            element("pre", json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False), tabindex=0),
        ),
    ]


def _events(facts: Facts) -> Content:
    if not facts.events:
        return element("p", "No provenance.jsonl lies beside these results.", class_="none")
    shown, left_out = list(facts.events), 0
    if len(shown) > MOST_EVENTS:
        left_out = len(shown) - MOST_EVENTS
        shown = shown[: MOST_EVENTS // 2] + shown[-MOST_EVENTS // 2 :]
    rows = [[_text(e.get("time", e.get("started", ""))), _text(e.get("event", "start")), _details(e)] for e in shown]
    notes = [f"{plural(left_out, 'line')} between these left out here."] if left_out else []
    if facts.damaged:
        notes.append(f"{plural(facts.damaged, 'line')} could not be read: a program was stopped while it wrote.")
    table = plain_table(["time", "event", "what was recorded"], rows, numbers_from=9)
    return [table, element("p", " ".join(notes), class_="note") if notes else None]


def _details(event: Mapping[str, Any]) -> Content:
    told = ("host", "command", "code_version", "commit", "slurm_job", "workers", "rows", "seconds", "finished")
    words = [f"{name} {_text(event[name])}" for name in told if event.get(name) not in (None, "", {})]
    text = json.dumps(event, indent=2, sort_keys=True, ensure_ascii=False)
    return element("details", element("summary", "; ".join(words) or "…"), element("pre", text, tabindex=0))


def repeat_part(facts: Facts, asked: Asked, wish: Wish, name: str) -> list[Content]:
    """Commands that make the same results, the same page and the list behind it."""
    commands = [_text(event["command"]) for event in facts.starts if event.get("command")]
    screen = commands[0] if commands else f"screening screen INPUT --out {shlex.quote(name)} --model MODEL"
    wishes = [f"--where {shlex.quote(one)}" for one in wish.where]
    ranks = [f"--by {shlex.quote(asked.by)}", *(["--descending"] if asked.descending else [])]
    conditions = [f"--where {shlex.quote(one)}" for one in asked.where]
    explicit = wishes + (ranks if wish.by or wish.descending else [])
    report = ["screening report", shlex.quote(name), *explicit, f"--top {wish.top}", "-o report.html"]
    query = ["screening query", shlex.quote(name), *conditions, *ranks, "-o shortlist.csv"]
    steps = [
        ("The screen", screen),
        ("This page", " ".join(report)),
        ("All that was asked for, best first, as a table", " ".join(query)),
    ]
    return [[element("h3", title), element("pre", command, tabindex=0)] for title, command in steps]


def _definitions(rows: Sequence[tuple[str, Content]]) -> Markup:
    shown = [[element("dt", name), element("dd", value)] for name, value in rows if value not in (None, "")]
    return element("dl", shown, class_="facts")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return shlex.join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return measured(value, 4)
    return "" if value is None else json.dumps(value, ensure_ascii=False)
