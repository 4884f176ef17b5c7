// One map of heads: plotly.js draws a plain heatmap and the outline of the chosen cells; a transparent layer above it
// hears the pointer and the keyboard. (Plotly's own selection gives no cells on heatmaps, and its click event is lost
// while it redraws.)

const TICKS = [1, 2, 4, 5, 8, 10, 16, 20, 32];
const MARGIN = { l: 46, r: 84, t: 6, b: 40 };
const MIDDLE = 0.5; // of a cell's width and height: all that a head fills whose interval holds 0

class HeadMap {
  // ui: see main.js. slot: 0 for the map, 1 for the one beside it.
  constructor(ui, Plotly, slot) {
    Object.assign(this, { ui, Plotly, slot, end: 0 }); // end: which of a layer's ends its colours have
    this.title = make("div", "spt-title");
    this.rests = make("div", "spt-rests");
    this.plot = make("div", "spt-plot");
    this.catch = make("div", "spt-catch");
    this.cursor = make("div", "spt-cursor");
    this.rubber = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.rubber.classList.add("spt-rubber");
    this.tip = make("div", "spt-tip");
    // Where colours clip, they may reach the largest score instead.
    this.reach = make("button", "spt-reach");
    this.reach.type = "button";
    this.reach.addEventListener("click", () => {
      this.end = 1 - this.end;
      this.draw();
    });
    keepShortcutsAway(this.reach);
    this.frame = make("div", "spt-frame", this.plot, this.catch, this.reach, this.tip);
    this.marks = make("div", "spt-marks");
    this.catch.append(this.cursor, this.rubber);
    this.plot.setAttribute("aria-hidden", "true"); // of the drawing, only the axes' numbers would be read
    this.element = make("div", "spt-map", this.title, this.rests, this.frame, this.marks);
    this.catch.tabIndex = 0;
    keepShortcutsAway(this.catch);
    this.catch.setAttribute("role", "application");
    this.catch.setAttribute("aria-label", "Map of heads: arrow keys move and show a head, space chooses it, enter or p keeps it shown");
    this.drag = null;
    for (const [name, handler] of Object.entries({
      pointerdown: this.down, pointermove: this.move, pointerup: this.up, pointercancel: this.cancel,
      lostpointercapture: this.cancel, pointerleave: this.leave, keydown: this.key, focus: this.focused, blur: this.leave,
    })) this.catch.addEventListener(name, handler.bind(this));
  }

  get layer() {
    return this.ui.data.layers[this.ui.shown[this.slot]];
  }

  // Draws everything again: other scores, another size or theme.
  draw(width) {
    if (width) this.width = width;
    const { nLayers, nHeads } = this.ui.data;
    const theme = THEMES[this.ui.theme], layer = this.layer, [[x0, x1], [y0, y1]] = this.ui.range;
    const rows = Math.abs(y1 - y0), columns = Math.abs(x1 - x0);
    const cellHeight = Math.max(7, Math.min(26, Math.round(560 / rows)));
    const plotWidth = Math.min(this.width, Math.round(columns * 38 + MARGIN.l + MARGIN.r));
    const tick = (space, least) => TICKS.find((step) => step * space >= least) ?? 64;
    const gap = plotWidth / columns > 14 && cellHeight > 12 ? 1 : 0;
    const axis = { showgrid: false, zeroline: false, fixedrange: true, ticks: "", color: theme.ink };
    const end = layer.ends[this.end] ?? layer.ends[0];
    const look = {
      type: "heatmap", hoverinfo: "skip", zmin: layer.oneSided ? 0 : -end.limit, zmax: end.limit,
      colorscale: layer.oneSided ? theme.one ?? this.ui.data.oneSided : theme.scale ?? this.ui.data.scale,
    };
    const bar = {
      thickness: 9, x: 1.01, xpad: 2, tickfont: { size: 10 }, outlinewidth: 0, tickvals: end.tickvals, ticktext: end.ticktext,
      title: { text: layer.quantity, side: "right", font: { size: 11 } },
    };
    const rowsOf = (value) => Array.from({ length: nLayers }, (_, y) => Array.from({ length: nHeads }, (_, x) => value(y * nHeads + x)));
    const holds = (i) => layer.low !== null && layer.low[i] <= 0 && layer.high[i] >= 0;
    // A head whose interval holds 0 fills only the middle of its cell.
    const space = [(plotWidth - MARGIN.l - MARGIN.r) / columns, cellHeight].map((size) => size * (1 - MIDDLE));
    const traces = [{ ...look, z: rowsOf((i) => (holds(i) ? 0 : layer.values[i])), xgap: gap, ygap: gap, colorbar: bar }];
    traces.push({ ...look, z: rowsOf((i) => (holds(i) ? layer.values[i] : null)), xgap: space[0], ygap: space[1], showscale: false });
    const above = layer.share ? layer.values.flatMap((value, i) => (value > 1 ? [i] : [])) : [];
    if (above.length) traces.push({
      type: "scatter", mode: "markers", hoverinfo: "skip", x: above.map((i) => i % nHeads), y: above.map((i) => Math.floor(i / nHeads)),
      marker: { symbol: "triangle-up", size: Math.min(9, cellHeight), color: "#ffffff", line: { color: "#000000", width: 1 } },
    });
    const layout = {
      width: plotWidth, height: rows * cellHeight + MARGIN.t + MARGIN.b, margin: MARGIN,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: theme.gap, font: { color: theme.ink, size: 11 },
      xaxis: { ...axis, range: [x0, x1], dtick: tick((plotWidth - MARGIN.l - MARGIN.r) / columns, 20), title: { text: "head", standoff: 4 } },
      yaxis: { ...axis, range: [y0, y1], dtick: tick(cellHeight, 13), title: { text: "layer", standoff: 4 } },
    };
    this.title.textContent = layer.about;
    this.tellWhatItRestsOn(layer);
    for (const line of [this.title, this.rests, this.marks]) line.style.maxWidth = `${plotWidth - 12}px`;
    const all = end !== layer.ends[0]; // then nothing is beyond the colours, which is said first
    this.reach.hidden = layer.ends.length < 2;
    this.reach.textContent = all ? "clip" : "show all";
    this.reach.title = !all ? `Colours end at ${scoreText(end.limit)}: let them reach the largest score` : "Let colours end at the 99th percentile";
    this.marks.replaceChildren(...layer.marks.slice(all ? 1 : 0).map((line) => make("div", "", line)));
    this.Plotly.react(this.plot, traces, layout, { staticPlot: true, responsive: false });
    const size = this.plot._fullLayout._size;
    Object.assign(this.catch.style, { left: `${size.l}px`, top: `${size.t}px`, width: `${size.w}px`, height: `${size.h}px` });
    this.outline(); // how far inside a cell its line runs depends on the cell's size
    this.placeCursor();
  }

  // What the scores rest on, and what is wrong with it: each in short, the whole of it on a click. Not made again while
  // it is of the same scores: what is open stays open.
  tellWhatItRestsOn(layer) {
    if (this.told === layer) return;
    this.told = layer;
    const warns = (layer.warns ?? []).map((text) => {
      const short = make("summary", "", `⚠ ${text.split(/[:(,]/)[0].trim()}`);
      keepShortcutsAway(short);
      return make("details", "spt-warn", short, make("div", "", text));
    });
    const plainly = layer.plainly ? [make("div", layer.plainly.startsWith("⚠") ? "spt-little" : "spt-plainly", layer.plainly)] : [];
    this.rests.replaceChildren(...plainly, ...(layer.rests ? [make("div", "", layer.rests)] : []), ...warns);
  }

  // A thin line in the background's colour around the outline keeps it visible on every colour of the scale.
  shapes() {
    const [[left, right], [bottom, top]] = this.ui.range, theme = THEMES[this.ui.theme];
    const inset = (cells, pixels) => Math.min(0.3, (1.8 * Math.abs(cells)) / pixels);
    const { clientWidth: w, clientHeight: h } = this.catch;
    const path = outlinePath(this.ui.selection.cells, this.ui.data.nHeads, inset(right - left, w || 400), inset(bottom - top, h || 200));
    if (!path) return [];
    return [[theme.halo, 5], [theme.ink, 2.5]].map(([color, width]) => ({ type: "path", path, line: { color, width } }));
  }

  outline() {
    this.Plotly.relayout(this.plot, { shapes: this.shapes() });
  }

  // Where the pointer is, in the map's coordinates: x is the head, y the layer; cells are centred on whole numbers. As
  // in plotly, the range of y begins at the bottom.
  at(event) {
    const box = this.catch.getBoundingClientRect(), [[left, right], [bottom, top]] = this.ui.range;
    return [
      left + ((event.clientX - box.left) / box.width) * (right - left),
      top + ((event.clientY - box.top) / box.height) * (bottom - top),
    ];
  }

  cell([x, y]) {
    const { nLayers, nHeads } = this.ui.data, column = Math.round(x), row = Math.round(y);
    return column >= 0 && column < nHeads && row >= 0 && row < nLayers ? row * nHeads + column : null;
  }

  // The reverse, as shares of the plot's width and height from its left upper corner.
  share([x, y]) {
    const [[left, right], [bottom, top]] = this.ui.range;
    return [(x - left) / (right - left), (y - top) / (bottom - top)];
  }

  down(event) {
    if (event.button !== 0 || this.drag) return; // a second finger is no second drag
    this.catch.setPointerCapture(event.pointerId);
    this.catch.focus({ preventScroll: true });
    // A key may be let go before the button.
    const how = event.shiftKey ? "add" : event.altKey ? "remove" : null;
    this.drag = { id: event.pointerId, how, start: [event.clientX, event.clientY], track: [this.at(event)], moved: false, left: false };
    event.preventDefault();
  }

  move(event) {
    const here = this.at(event);
    if (this.drag && event.pointerId === this.drag.id && !event.buttons) this.cancel(); // let go elsewhere
    if (!this.drag) return this.ui.setCursor(this.cell(here), this.slot);
    if (event.pointerId !== this.drag.id) return;
    this.drag.track.push(here);
    this.drag.left ||= this.cell(here) !== this.cell(this.drag.track[0]);
    // A lasso ends where it began: what counts is whether it ever went away from there.
    const [x, y] = this.drag.start;
    this.drag.moved ||= Math.hypot(event.clientX - x, event.clientY - y) > 4;
    if (this.drag.moved) this.drawRubber();
  }

  up(event) {
    const drag = this.drag;
    if (!drag || event.pointerId !== drag.id) return;
    this.cancel();
    drag.track.push(this.at(event));
    // A hand that shakes within a cell clicks it.
    if (!drag.moved || (!drag.left && this.ui.tool !== "zoom")) {
      const cell = this.cell(drag.track[0]);
      if (cell !== null) this.ui.click(cell);
      return;
    }
    const polygon = this.ui.tool === "lasso" ? drag.track : span(drag.track[0], drag.track.at(-1));
    if (this.ui.tool === "zoom") return this.ui.zoom(polygon[0], polygon[2]);
    const how = drag.how ?? (event.shiftKey ? "add" : event.altKey ? "remove" : this.ui.mode);
    // Not what a zoom hides; and a box around no head's middle is a slip, no wish for an empty selection.
    const cells = cellsInside(polygon, this.ui.data.nLayers, this.ui.data.nHeads).filter((i) => this.ui.inSight(i));
    if (cells.length) this.ui.selection.change(cells, how);
  }

  cancel() {
    this.drag = null;
    this.rubber.replaceChildren();
  }

  leave() {
    if (!this.drag) this.ui.setCursor(null, this.slot);
  }

  drawRubber() {
    const { track } = this.drag;
    const points = this.ui.tool === "lasso" ? track : span(track[0], track.at(-1));
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
    const { clientWidth: w, clientHeight: h } = this.catch;
    shape.setAttribute("points", points.map((p) => this.share(p)).map(([x, y]) => `${x * w},${y * h}`).join(" "));
    this.rubber.replaceChildren(shape);
  }

  focused() {
    // Only for the keyboard: a pointer brings its own cell.
    if (this.catch.matches(":focus-visible") && this.ui.cursor === null) this.ui.setCursor(this.ui.last ?? 0, this.slot);
  }

  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const control = event.ctrlKey || event.metaKey, letter = event.key.toLowerCase();
    if (step) this.ui.moveCursor(step, this.slot, event.shiftKey);
    else if (event.key === " " && this.ui.cursor !== null) this.ui.click(this.ui.cursor);
    else if (event.key === "Enter" && this.ui.cursor !== null) this.ui.pin(this.ui.cursor);
    else if (letter === "p" && !control && !event.altKey) this.ui.pinShown();
    else if (control && letter === "z") event.shiftKey ? this.ui.selection.redo() : this.ui.selection.undo();
    else if (control && letter === "y") this.ui.selection.redo();
    else if (event.key === "Escape") this.escape();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Ends the drag, else lets go of the pinned head, else leaves the map's cells.
  escape() {
    if (this.drag) this.cancel();
    else if (this.ui.details.pinned) this.ui.details.setPinned(false);
    else this.ui.setCursor(null, this.slot);
  }

  // The cell under the pointer or the keyboard's, and, on the map that it is on, what is known of the head.
  placeCursor() {
    const i = this.ui.cursor, { nHeads } = this.ui.data, shown = i !== null && this.ui.inSight(i);
    this.cursor.hidden = !shown;
    this.tip.hidden = !shown || this.ui.cursorSlot !== this.slot;
    if (!shown) return;
    const x = i % nHeads, y = Math.floor(i / nHeads);
    const [left, top] = this.share([x - 0.5, y - 0.5]), [right, bottom] = this.share([x + 0.5, y + 0.5]);
    const percents = { left, top, width: right - left, height: bottom - top };
    for (const [name, value] of Object.entries(percents)) this.cursor.style[name] = `${100 * value}%`;
    if (this.tip.hidden) return;
    this.tip.replaceChildren(...this.ui.describe(i, this.ui.shown[this.slot]).map((line, n) => make(n ? "div" : "b", "", line)));
    const box = this.catch, { offsetWidth: wide, offsetHeight: high } = this.tip;
    // Beside the cell, else above or below it; never over the panels, whose numbers are read meanwhile.
    const origin = this.frame.getBoundingClientRect(), bounds = this.ui.main.getBoundingClientRect();
    const [least, most] = [bounds.left - origin.left, bounds.right - origin.left - wide];
    const after = box.offsetLeft + right * box.offsetWidth + 8, before = box.offsetLeft + left * box.offsetWidth - 8 - wide;
    const beside = after <= most || before >= least;
    const above = box.offsetTop + top * box.offsetHeight - 6 - high, below = box.offsetTop + bottom * box.offsetHeight + 6;
    const low = bounds.bottom - origin.top - high, first = bounds.top - origin.top;
    const level = beside ? box.offsetTop + top * box.offsetHeight : below <= low || above < first ? below : above;
    this.tip.style.left = `${Math.max(after <= most || !beside ? Math.min(after, most) : before, least)}px`;
    this.tip.style.top = `${Math.max(first, beside ? Math.min(level, low) : level)}px`;
  }
}

// JupyterLab's shortcuts ("dd" deletes a cell) are not for an element that has the focus here. Its selectors match the
// focused element itself, so that the mark on an element around it is not enough.
function keepShortcutsAway(element) {
  element.setAttribute("data-lm-suppress-shortcuts", "true");
}

// An element with a class and children; text is text, whatever marks it has.
function make(tag, name = "", ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}
