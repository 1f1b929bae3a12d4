"""A condition as words, numbers, texts and signs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from screening.errors import InputError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))|(?P<name>[^\W\d]\w*)"
    r"|'(?P<text>(?:[^']|'')*)'|\"(?P<quoted>(?:[^\"]|\"\")*)\"|(?P<sign><=|>=|<>|!=|==|[-=<>+*/%(),])|(?P<end>\Z))"
)
_SPELLINGS = {"!=": "<>", "==": "="}


@dataclass(frozen=True, slots=True)
class Token:
    """One of them: its kind (number, name, text, quoted, sign or end), what it says, and where it stands."""

    kind: str
    text: str
    place: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


def tokens_of(text: str, where: str) -> Sequence[Token]:
    """Split a condition; the last token is its end."""
    tokens: list[Token] = []
    place = 0
    while not tokens or tokens[-1].kind != "end":
        found = _TOKEN.match(text, place)
        if found is None or found.lastgroup is None:
            rest = text[place:].strip()
            what = "a quote is not closed" if rest[0] in "'\"" else f"cannot understand {rest[:20]!r}"
            raise InputError(f"{where}: {what}, at letter {len(text) - len(text[place:].lstrip()) + 1} of {text!r}")
        kind, said = found.lastgroup, found[found.lastgroup]
        said = said.replace("''", "'") if kind == "text" else said.replace('""', '"') if kind == "quoted" else said
        tokens.append(Token(kind, _SPELLINGS.get(said, said) if kind == "sign" else said, found.start(kind)))
        place = found.end()
    return tokens
