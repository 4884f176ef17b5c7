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
