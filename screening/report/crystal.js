// Turns crystals: what screening/report/drawing.py draws, drawn again in another direction. Keep the two alike.

const looks = JSON.parse(document.getElementById("looks").textContent);

function product(a, b) {
  const c = [];
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 3; j++) c.push(a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j]);
  }
  return c;
}

function turned(p, turn) {
  return [0, 1, 2].map((j) => p[0] * turn[j] + p[1] * turn[3 + j] + p[2] * turn[6 + j]);
}

function about(axis, angle) {
  const c = Math.cos(angle);
  const s = Math.sin(angle);
  return axis === "y" ? [c, 0, -s, 0, 1, 0, s, 0, c] : [1, 0, 0, 0, c, s, 0, -s, c];
}

function short(number) {
  const text = number.toFixed(1).replace(/\.0$/, "");
  return text === "-0" ? "0" : text;
}

function viewOf(reach) {
  const eye = looks.eye * reach;
  const scale = ((looks.size / 2 - looks.room) / reach) * Math.sqrt(1 - 1 / looks.eye ** 2);
  const zoom = (z) => (scale * eye) / (eye - z);
  const point = (p) => `${short(looks.size / 2 + zoom(p[2]) * p[0])} ${short(looks.size / 2 - zoom(p[2]) * p[1])}`;
  return { zoom, point };
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function mixed(a, b, share) {
  return a.map((x, k) => x + (b[k] - x) * share);
}

function halfBond(view, end, middle, length, number) {
  const [radius, colour] = looks.elements[number];
  const surface = mixed(end, middle, Math.min((2 * radius * 0.95) / Math.max(length, 1e-9), 1));
  const depth = (surface[2] + middle[2]) / 2;
  const path = `M${view.point(surface)}L${view.point(middle)}`;
  return [depth, shape("path", { d: path, stroke: colour, "stroke-width": short(view.zoom(depth) * looks.bond), class: "bond" })];
}

function paint(svg, scene, turn) {
  const view = viewOf(scene.reach);
  const positions = scene.atoms.map((atom) => turned(atom, turn));
  const things = positions.map((p, k) => {
    const number = scene.atoms[k][3];
    const [cx, cy] = view.point(p).split(" ");
    return [p[2], shape("circle", { cx, cy, r: short(view.zoom(p[2]) * looks.elements[number][0]), fill: `url(#z${number})` })];
  });
  for (const [i, j] of scene.bonds) {
    const [a, b] = [positions[i], positions[j]];
    const length = Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
    const middle = mixed(a, b, 0.5);
    things.push(halfBond(view, a, middle, length, scene.atoms[i][3]), halfBond(view, b, middle, length, scene.atoms[j][3]));
  }
  for (const edge of scene.edges) {
    const [a, b] = [turned(edge.slice(0, 3), turn), turned(edge.slice(3), turn)];
    things.push([(a[2] + b[2]) / 2, shape("path", { d: `M${view.point(a)}L${view.point(b)}`, class: "edge" })]);
  }
  const order = things.map((thing, place) => [thing[0], place, thing[1]]);
  order.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  svg.replaceChildren(...order.map((entry) => entry[2]));
}

const KEYS = { ArrowLeft: ["y", -1], ArrowRight: ["y", 1], ArrowUp: ["x", -1], ArrowDown: ["x", 1] };

for (const svg of document.querySelectorAll("svg.crystal[data-scene]")) {
  let scene = null;
  let turn = looks.turn;
  let held = null;

  const rotate = (axis, angle) => {
    scene = scene || JSON.parse(svg.dataset.scene);
    turn = product(turn, about(axis, angle));
    paint(svg, scene, turn);
  };
  svg.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY];
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!held) return;
    rotate("y", (event.clientX - held[0]) * 0.01);
    rotate("x", (event.clientY - held[1]) * 0.01);
    held = [event.clientX, event.clientY];
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => (held = null));
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Home") {
      turn = looks.turn;
      rotate("y", 0);
    } else if (KEYS[event.key]) {
      rotate(KEYS[event.key][0], KEYS[event.key][1] * 0.1);
    } else return;
    event.preventDefault();
  });
}
