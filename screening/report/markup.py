"""HTML and SVG that are safe by construction: text is escaped where it is put in, unless it is markup already.

Ids, formulas and messages come from files that others wrote. So nothing here takes a text for markup by mistake: only
`element` makes `Markup`, and everything that is none is escaped, letters that do not print replaced.
"""

from collections.abc import Iterable
from html import escape
from typing import TypeAlias


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Content: TypeAlias = "str | int | Iterable[Content] | None"

# Elements without an end, and the shapes of SVG that hold nothing.
_EMPTY = frozenset({"meta", "link", "br", "input", "col", "path", "rect", "circle", "line", "stop", "use"})


def element(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """Make an element; attributes named `class_` and `data_tip` become `class` and `data-tip`, absent ones are None."""
    start = f"<{name}{''.join(map(_attribute, attributes.items()))}"
    if name in _EMPTY and not content:
        return Markup(f"{start}/>")
    return Markup(f"{start}>{joined(content)}</{name}>")


def joined(content: Content) -> Markup:
    """Put content end to end, escaped where it is text."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str | int):
        return Markup(escape(printable(str(content))))
    return Markup("".join(map(joined, content)))


def printable(text: str) -> str:
    """A text whose every letter prints and is UTF-8: others, such as those that turn its direction, are replaced."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def short(number: float, digits: int = 1) -> str:
    """A coordinate in few letters."""
    text = f"{number:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _attribute(item: tuple[str, str | float | bool | None]) -> str:
    name, value = item
    if value is None or value is False:
        return ""
    spelled = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {spelled}"
    text = short(value, 2) if isinstance(value, float) else str(value)
    return f' {spelled}="{escape(printable(text))}"'
