// Heads by their flat number: layer * nHeads + head. Nothing here knows of the page.

function headName(i, nHeads) {
  return `L${Math.floor(i / nHeads)}.H${i % nHeads}`;
}

// Reads what HeadSet.parse reads: "L5.H3 L5H4 6.1, (2, 3)". Returns null if any of it is no head of this map.
function parseHeads(text, nLayers, nHeads) {
  const plain = text.replace(/\(\s*(\d+)\s*,\s*(\d+)\s*\)/g, " $1.$2 ");
  const found = [];
  for (const part of plain.split(/[\s,;]+/).filter(Boolean)) {
    const match = /^(?:L?(\d+)\.H?|L(\d+)H)(\d+)$/i.exec(part), layer = +(match?.[1] ?? match?.[2]), head = +match?.[3];
    if (!match || layer >= nLayers || head >= nHeads) return null;
    found.push(layer * nHeads + head);
  }
  return [...new Set(found)];
}

// The outline of cells as one SVG path in the map's own coordinates: x is the head, y the layer. Each line runs inside
// its cell, by these parts of it: on shared borders, an unchosen cell among chosen ones would look chosen.
function outlinePath(cells, nHeads, insetX, insetY) {
  const parts = [], dx = 0.5 - insetX, dy = 0.5 - insetY;
  const short = (value) => +value.toFixed(3);
  for (const i of cells) {
    const x = i % nHeads, y = Math.floor(i / nHeads);
    parts.push(`M${short(x - dx)} ${short(y - dy)}H${short(x + dx)}V${short(y + dy)}H${short(x - dx)}Z`);
  }
  return parts.join("");
}

// Cells whose centre lies in the polygon of [x, y] points (even-odd rule). A box is a polygon of four points.
function cellsInside(points, nLayers, nHeads) {
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const fromX = Math.max(0, Math.ceil(Math.min(...xs))), toX = Math.min(nHeads - 1, Math.floor(Math.max(...xs)));
  const fromY = Math.max(0, Math.ceil(Math.min(...ys))), toY = Math.min(nLayers - 1, Math.floor(Math.max(...ys)));
  const found = [];
  for (let y = fromY; y <= toY; y++) {
    for (let x = fromX; x <= toX; x++) {
      let inside = false;
      for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
        const [xi, yi] = points[i], [xj, yj] = points[j];
        if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
      }
      if (inside) found.push(y * nHeads + x);
    }
  }
  return found;
}

// How many weights tuning these heads moves; what a query group shares is counted once (HeadSet.parameters).
function countParameters(cells, nHeads, sizes) {
  const groups = new Set(cells.map((i) => Math.floor(i / nHeads) * nHeads + Math.floor((i % nHeads) / sizes.group)));
  return cells.length * sizes.own + groups.size * sizes.shared;
}

// All heads of the query group or the layer that a head is in.
function groupOf(i, nHeads, size) {
  const first = Math.floor(i / nHeads) * nHeads + Math.floor((i % nHeads) / size) * size;
  return Array.from({ length: size }, (_, n) => first + n);
}

// A box, as the polygon of its corners.
function span(from, to) {
  return [[from[0], from[1]], [to[0], from[1]], [to[0], to[1]], [from[0], to[1]]];
}

// A score for reading: three decimals, or two digits where those would say nothing.
function scoreText(value) {
  const size = Math.abs(value);
  return size >= 0.01 && size < 1000 ? value.toFixed(3) : String(+value.toPrecision(size < 0.01 ? 2 : 4));
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

// The chosen heads, in the order in which they were chosen, with a history. The page owns it: the outline never waits
// for Python, which hears of it afterwards (the last state wins, so nothing is lost when messages are merged).

class Selection {
  constructor(cells) {
    this.cells = [...cells];
    this.past = [];
    this.future = [];
    this.listeners = new Set();
    this.tag = null;
  }

  has(i) {
    return this.cells.includes(i);
  }

  // from: who changed it ("python" is not told again). tag: changes in a row with the same tag, such as those of one
  // drag of the slider, are one step of the history.
  set(cells, from = "page", tag = null) {
    if (cells.length === this.cells.length && cells.every((cell, n) => cell === this.cells[n])) return false;
    if (tag === null || tag !== this.tag) this.past.push(this.cells);
    if (this.past.length > 500) this.past.shift();
    this.tag = tag;
    this.future = [];
    this.put(cells, from);
    return true;
  }

  toggle(i) {
    this.set(this.has(i) ? this.cells.filter((cell) => cell !== i) : [...this.cells, i]);
  }

  // how: "add", "remove" or "replace".
  change(cells, how) {
    const own = new Set(this.cells), given = new Set(cells);
    if (how === "add") this.set([...this.cells, ...cells.filter((cell) => !own.has(cell))]);
    else if (how === "remove") this.set(this.cells.filter((cell) => !given.has(cell)));
    else this.set(cells);
  }

  undo() {
    this.step(this.past, this.future);
  }

  redo() {
    this.step(this.future, this.past);
  }

  step(from, to) {
    if (!from.length) return;
    to.push(this.cells);
    this.tag = null;
    this.put(from.pop(), "history");
  }

  put(cells, from) {
    this.cells = [...cells];
    for (const listener of [...this.listeners]) listener(from);
  }
}
