"""Reading HTML pages in tests: a tree of elements, strict about what must be closed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

EMPTY = {"meta", "link", "br", "input", "col", "img", "hr"}


@dataclass
class Node:
    """An element: its name, attributes, and what is in it."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    content: "list[Node | str]" = field(default_factory=list)

    def all(self, name: str = "", class_: str = "") -> "Iterator[Node]":
        """Every element of that name and class inside, in the order of the page."""
        for child in self.content:
            if isinstance(child, Node):
                if (not name or child.name == name) and (not class_ or class_ in child.classes):
                    yield child
                yield from child.all(name, class_)

    def one(self, name: str = "", class_: str = "") -> "Node":
        """The only such element."""
        found = list(self.all(name, class_))
        assert len(found) == 1, f"{len(found)} elements {name}.{class_}"
        return found[0]

    def by_id(self, id: str) -> "Node":
        """The element with an id."""
        return next(node for node in self.all() if node.attributes.get("id") == id)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        """All text inside, as it is read."""
        return "".join(child if isinstance(child, str) else child.text for child in self.content)

    def rows(self) -> list[list[str]]:
        """The cells of a table, row by row."""
        return [[c.text for c in row.content if isinstance(c, Node)] for row in self.all("tr")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("document")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].content.append(node)
        if tag not in EMPTY:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


def page_of(text: str) -> Node:
    """Read a page, and fail where elements are not closed in order."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert [node.name for node in reader.open] == ["document"], "elements are left open"
    return reader.open[0]
