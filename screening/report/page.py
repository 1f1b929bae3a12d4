"""The page as one HTML document: style and script inside, nothing from anywhere else."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from screening.report.markup import Content, Markup, element, joined

_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline';"


@dataclass(frozen=True)
class Section:
    """A part of the page: the name of its anchor, its heading, what is in it."""

    anchor: str
    heading: str
    content: Content


def document(
    title: str, head: Content, sections: Sequence[Section], *, foot: Content, looks: str, shadings: Content
) -> str:
    """Join the parts of a page; `looks` tells the script about elements, `shadings` are definitions for drawings."""
    style, script = _source("page.css"), _source("page.js") + _source("crystal.js")
    links = [element("li", element("a", s.heading, href=f"#{s.anchor}")) for s in sections]
    parts = [
        element(
            "section",
            element("h2", s.heading, id=f"{s.anchor}-heading"),
            s.content,
            id=s.anchor,
            aria_labelledby=f"{s.anchor}-heading",
        )
        for s in sections
    ]
    body = [
        element("a", "To the content", href="#main", class_="skip"),
        shadings,
        element("div", head, class_="head"),
        element("nav", element("ul", links), aria_label="Sections"),
        element("main", parts, id="main"),
        element("footer", foot),
        element("script", Markup(looks.replace("<", "\\u003c")), type="application/json", id="looks"),
        element("script", Markup(script)),
    ]
    return str(
        joined(
            [
                "",
                Markup("<!doctype html>\n"),
                element("html", _head(title, style, script), element("body", body), lang="en"),
                "\n",
            ]
        )
    )


def _head(title: str, style: str, script: str) -> Markup:
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    # Nothing is loaded, and no other script runs, whatever a file may have smuggled in.
    policy = f"{_POLICY} script-src 'sha256-{digest}'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
