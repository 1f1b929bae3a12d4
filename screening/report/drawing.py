"""A scene as SVG, seen in mild perspective: shaded spheres, bonds and cell edges, the farthest first.

crystal.js in the page does the same when the reader turns a crystal: what it draws at first is what is drawn here.
"""

import json
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from screening.arrays import Float64
from screening.crystals.elements import SYMBOLS
from screening.report.element_looks import COLOUR, RADIUS, shade
from screening.report.markup import Markup, element, joined, short
from screening.report.scene import Scene, initial_turn

SIZE = 240
ROOM = 8
# Spheres have half the covalent radius, so that bonds show.
ATOM_SCALE = 0.5
BOND_WIDTH = 0.16
# The eye is so many times as far as the farthest thing reaches.
EYE = 5.0


def crystal_drawing(scene: Scene, label: str) -> Markup:
    """Draw a scene, with what the script needs to turn it."""
    return element(
        "svg",
        *painted(scene, initial_turn()),
        viewBox=f"0 0 {SIZE} {SIZE}",
        class_="crystal",
        role="img",
        tabindex=0,
        aria_label=label,
        data_scene=_scene_text(scene),
    )


def painted(scene: Scene, turn: Float64) -> list[Markup]:
    """The shapes of a scene, the farthest first."""
    # The numbers that the script has, so that both draw the same.
    positions, edges, reach = (
        np.round(scene.positions, 2) @ turn,
        np.round(scene.edges, 2) @ turn,
        round(scene.reach, 2),
    )
    view = _View(reach)
    things = [(float(p[2]), view.sphere(p, z)) for p, z in zip(positions, scene.numbers.tolist(), strict=True)]
    for i, j in scene.bonds.tolist():
        ends = (positions[i], positions[j])
        things += view.bond(ends, (int(scene.numbers[i]), int(scene.numbers[j])))
    things += [(float((a[2] + b[2]) / 2), view.line(a, b)) for a, b in edges]
    order = sorted(range(len(things)), key=lambda k: (things[k][0], k))
    return [things[k][1] for k in order]


class _View:
    """Where points land on the drawing."""

    def __init__(self, reach: float) -> None:
        self._eye = EYE * reach
        # A ball is seen a little larger than it is, because the eye is near.
        self._scale = (SIZE / 2 - ROOM) / reach * math.sqrt(1 - 1 / EYE**2)

    def zoom(self, z: float) -> float:
        return self._scale * self._eye / (self._eye - z)

    def point(self, p: Float64) -> str:
        zoom = self.zoom(float(p[2]))
        return f"{short(SIZE / 2 + zoom * float(p[0]))} {short(SIZE / 2 - zoom * float(p[1]))}"

    def sphere(self, p: Float64, number: int) -> Markup:
        x, y = self.point(p).split()
        radius = short(self.zoom(float(p[2])) * RADIUS[number] * ATOM_SCALE)
        return element("circle", cx=x, cy=y, r=radius, fill=f"url(#z{number})")

    def bond(self, ends: tuple[Float64, Float64], numbers: tuple[int, int]) -> list[tuple[float, Markup]]:
        """The two halves, each from the surface of its sphere to the middle."""
        a, b = ends
        length = float(np.linalg.norm(b - a))
        middle = (a + b) / 2
        halves = []
        for end, number in ((a, numbers[0]), (b, numbers[1])):
            surface = end + (middle - end) * min(2 * RADIUS[number] * ATOM_SCALE * 0.95 / max(length, 1e-9), 1.0)
            depth = float((surface[2] + middle[2]) / 2)
            width = short(self.zoom(depth) * BOND_WIDTH)
            path = f"M{self.point(surface)}L{self.point(middle)}"
            halves.append(
                (depth, element("path", d=path, stroke=shade(COLOUR[number], -0.12), stroke_width=width, class_="bond"))
            )
        return halves

    def line(self, a: Float64, b: Float64) -> Markup:
        return element("path", d=f"M{self.point(a)}L{self.point(b)}", class_="edge")


def _scene_text(scene: Scene) -> str:
    """A scene for the script: atoms as x, y, z, number; bonds as pairs; edges as two points; the reach."""
    atoms = [[*map(_rounded, p), z] for p, z in zip(scene.positions.tolist(), scene.numbers.tolist(), strict=True)]
    edges = [[_rounded(x) for x in row] for row in scene.edges.reshape(-1, 6).tolist()]
    content = {"atoms": atoms, "bonds": scene.bonds.tolist(), "edges": edges, "reach": round(scene.reach, 2)}
    return json.dumps(content, separators=(",", ":"))


def _rounded(x: float) -> float:
    return round(x, 2) + 0.0


def gradients(numbers: Iterable[int]) -> Markup:
    """The shading of the spheres of some elements, defined once for the page."""
    shadings = []
    for number in sorted(set(numbers)):
        colour = COLOUR[number]
        stops = [
            (0, shade(colour, 0.75)),
            (35, shade(colour, 0.15)),
            (78, shade(colour, -0.18)),
            (100, shade(colour, -0.5)),
        ]
        content = [element("stop", offset=f"{place}%", stop_color=c) for place, c in stops]
        shadings.append(element("radialGradient", content, id=f"z{number}", cx="36%", cy="32%", r="72%"))
    return element("svg", element("defs", shadings), width=0, height=0, class_="hidden", aria_hidden="true")


def looks(numbers: Iterable[int]) -> str:
    """Radius and bond colour of some elements, for the script."""
    found = {str(z): [round(RADIUS[z] * ATOM_SCALE, 3), shade(COLOUR[z], -0.12)] for z in sorted(set(numbers))}
    content = {"elements": found, "size": SIZE, "room": ROOM, "eye": EYE, "bond": BOND_WIDTH}
    content |= {"turn": [round(x, 9) for x in initial_turn().reshape(-1).tolist()]}
    return json.dumps(content, separators=(",", ":"))


def element_key(numbers: npt.NDArray[np.integer]) -> Markup:
    """The colours of the elements of a crystal, as a list."""
    entries = []
    for number in sorted(set(numbers.tolist())):
        dot = element(
            "svg", element("circle", cx=6, cy=6, r=6, fill=f"url(#z{number})"), viewBox="0 0 12 12", aria_hidden="true"
        )
        entries.append(element("li", dot, SYMBOLS[number]))
    return element("ul", joined(entries), class_="key")
