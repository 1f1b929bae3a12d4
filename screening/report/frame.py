"""The frame of a chart: a plot area with axes, ticks, grid lines and titles, as SVG."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from screening.report.axes import Axis, tick_text
from screening.report.markup import Content, Markup, element, joined, short


@dataclass(frozen=True)
class Frame:
    """A drawing of `width` by `height`, and the plot area that margins leave of it."""

    width: int
    height: int
    left: int = 46
    right: int = 10
    top: int = 10
    bottom: int = 38

    @property
    def inner_width(self) -> int:
        """How wide the plot area is."""
        return self.width - self.left - self.right

    @property
    def inner_height(self) -> int:
        """How high the plot area is."""
        return self.height - self.top - self.bottom

    def x(self, share: float) -> float:
        """Where a share of the width lies."""
        return self.left + share * self.inner_width

    def y(self, share: float) -> float:
        """Where a share of the height lies, from below."""
        return self.top + (1 - share) * self.inner_height

    def drawing(self, *content: Content, label: str, class_: str = "chart", role: str = "img") -> Markup:
        """The whole SVG; `label` says in words what it shows. With links inside, its role is `group`."""
        box = f"0 0 {self.width} {self.height}"
        return element("svg", *content, viewBox=box, role=role, aria_label=label, class_=class_)

    def across(self, axis: Axis, title: str) -> Markup:
        """The axis below the plot area."""
        ticks = [(axis.place(value), tick_text(value)) for value in axis.ticks()]
        return self.ticks_across(ticks, title)

    def ticks_across(self, ticks: Sequence[tuple[float, str]], title: str) -> Markup:
        """Ticks below the plot area, by their place and text."""
        y = self.y(0)
        shown = [(x, text) for x, text in ticks if -1e-9 <= x <= 1 + 1e-9]
        marks = "".join(f"M{short(self.x(x))} {short(y)}v4" for x, _ in shown)
        texts = [svg_text(self.x(x), y + 16, text, anchor="middle") for x, text in shown]
        line = element("path", d=f"M{self.left} {short(y)}h{self.inner_width}{marks}", class_="axis")
        middle = self.left + self.inner_width / 2
        return joined([line, texts, svg_text(middle, self.height - 4, title, anchor="middle", class_="title")])

    def up(self, ticks: Sequence[tuple[float, str]], title: str) -> Markup:
        """The axis left of the plot area, with lines across it."""
        lines = "".join(f"M{self.left} {short(self.y(y))}h{self.inner_width}" for y, _ in ticks)
        texts = [svg_text(self.left - 6, self.y(y) + 4, text, anchor="end") for y, text in ticks]
        middle = self.top + self.inner_height / 2
        turned = f"translate(11 {short(middle)}) rotate(-90)"
        name = element("text", title, transform=turned, text_anchor="middle", class_="title")
        return joined([element("path", d=lines, class_="grid") if ticks else None, texts, name])


def svg_text(x: float, y: float, text: str, *, anchor: str | None = None, class_: str | None = None) -> Markup:
    """A text at a point."""
    return element("text", text, x=short(x), y=short(y), text_anchor=anchor, class_=class_)


def runs(filled: Sequence[float], height: Callable[[float], float]) -> Iterator[tuple[int, float]]:
    """The steps of a curve over bins: the bin that each begins at, and its height."""
    last: float | None = None
    for k, value in enumerate(filled):
        if value != last:
            yield k, height(value)
        last = value


def steps(values: Sequence[float], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """The path of a filled curve over equal bins, from and to the floor; `x` takes places, `y` takes values."""
    path = [f"M{short(x(0))} {short(y(0))}"]
    for k, top in runs(values, y):
        path.append(f"H{short(x(k / len(values)))}V{short(top)}")
    return "".join(path) + f"H{short(x(1))}V{short(y(0))}Z"
