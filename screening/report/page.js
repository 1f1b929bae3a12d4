"use strict";
// What the page does besides being read: tell numbers where one points, sort tables. It works without.

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);

// Titles of shapes become tips of ours, which show at once; the title of a link stays its name.
for (const title of document.querySelectorAll("svg title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}

function tell(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(x - box.width / 2, 4), document.documentElement.clientWidth - box.width - 4);
  const above = y - box.height - 12;
  tip.style.left = `${left}px`;
  tip.style.top = `${above < 4 ? y + 18 : above}px`;
}

function hush() {
  tip.hidden = true;
}

function point(event) {
  const told = event.target.closest("[data-tip]");
  if (told) return tell(told.dataset.tip, event.clientX, event.clientY);
  const plot = event.target.closest("[data-density]");
  const text = plot ? cellAt(plot, event) : "";
  return text ? tell(text, event.clientX, event.clientY) : hush();
}

document.addEventListener("pointermove", point);
document.addEventListener("pointerdown", point);
document.documentElement.addEventListener("pointerleave", hush);
document.addEventListener("scroll", hush, { passive: true });
document.addEventListener("focusin", (event) => {
  const told = event.target.closest("[data-tip]");
  if (!told?.matches(":focus-visible")) return;
  const box = told.getBoundingClientRect();
  tell(told.dataset.tip, box.left + box.width / 2, box.top);
});
document.addEventListener("focusout", hush);
document.addEventListener("keydown", (event) => event.key === "Escape" && hush());

// --- density ---------------------------------------------------------------------------------------------------

const densities = new WeakMap();

function densityOf(plot) {
  if (!densities.has(plot)) {
    const density = JSON.parse(plot.dataset.density);
    density.counts = new Map();
    for (let k = 0; k < density.cells.length; k += 2) density.counts.set(density.cells[k], density.cells[k + 1]);
    densities.set(plot, density);
  }
  return densities.get(plot);
}

function shown(number) {
  return String(number).replace("-", "\u2212");
}

function cellAt(plot, event) {
  const { area, edges, words, counts } = densityOf(plot);
  const [left, top, width, height, wholeWidth] = area;
  const box = plot.querySelector("svg").getBoundingClientRect();
  const scale = wholeWidth / box.width;
  const columns = edges[0].length - 1;
  const rows = edges[1].length - 1;
  const i = Math.floor((((event.clientX - box.left) * scale - left) / width) * columns);
  const j = Math.floor((1 - ((event.clientY - box.top) * scale - top) / height) * rows);
  const count = i >= 0 && i < columns && j >= 0 && j < rows ? counts.get(i * rows + j) : undefined;
  if (!count) return "";
  const ranges = [i, j].map((place, axis) =>
    words[axis].replace("%", `${shown(edges[axis][place])} to ${shown(edges[axis][place + 1])}`));
  return `${count.toLocaleString("en")} ${count === 1 ? "crystal" : "crystals"}: ${ranges.join("; ")}`;
}

// --- tables ----------------------------------------------------------------------------------------------------

function keyOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.key === undefined ? cell.textContent.trim() : Number(cell.dataset.key);
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = head.closest("table");
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, place) => [keyOf(row, head.cellIndex), place, row]);
    rows.sort((a, b) => sign * compare(a[0], b[0]) || a[1] - b[1]);
    body.append(...rows.map((entry) => entry[2]));
  });
}
