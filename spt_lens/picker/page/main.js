// Puts the parts together. `model` is anywidget's (get, set, save_changes, send, on, off); a page without a kernel
// passes a few lines that look like one.

class Picker {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.data = model.get("_map");
    this.selection = new Selection(model.get("_chosen").heads);
    this.shown = [0, null];
    this.by = "signed";
    this.mode = "replace";
    this.tool = "box";
    this.cursor = null;
    this.cursorSlot = 0;
    this.last = null;
    this.theme = "light";
    this.range = this.whole();
    this.maps = [];
    this.cleanups = [];
    this.places = {};
    for (const by of ["signed", "size"]) {
      this.places[by] = this.data.layers.map((layer) => {
        const place = new Array(layer.values.length);
        layer.order[by].forEach((i, rank) => (place[i] = rank + 1));
        return place;
      });
    }
    this.build();
  }

  whole() {
    return [[-0.5, this.data.nHeads - 0.5], [this.data.nLayers - 0.5, -0.5]];
  }

  build() {
    this.toolbar = new Toolbar(this);
    this.status = new Status(this);
    this.check = new CheckPanel(this);
    this.details = new DetailsPanel(this);
    this.mapsBox = make("div", "spt-maps", make("div", "spt-says", "Waiting for plotly.js …"));
    this.side = make("div", "spt-side", this.check.element, this.details.element);
    this.main = make("div", "spt-main", this.mapsBox, this.status.element);
    this.root.append(this.toolbar.element, make("div", "spt-body", this.main, this.side));
    // A page without a kernel shows of these what it brings along.
    this.check.element.hidden = this.data.page && !this.model.get("_check").rows.length;
    // What the keyboard's cursor is on, for those who hear the page.
    this.spoken = make("div", "spt-spoken");
    this.spoken.setAttribute("aria-live", "polite");
    this.root.append(this.spoken);
    this.root.classList.toggle("spt-own", this.data.theme !== "auto");
    this.root.querySelectorAll("button, select, input").forEach(keepShortcutsAway);
    this.listen();
  }

  listen() {
    const { model } = this;
    const on = (name, handler) => {
      model.on(name, handler);
      this.cleanups.push(() => model.off(name, handler));
    };
    this.selection.listeners.add((from) => {
      // The outline first: it is what the user waits for.
      this.maps.forEach((map) => map.outline());
      if (from !== "python") this.tell();
      this.toolbar.update(from);
      this.status.update();
      this.check.update();
      this.describeAgain();
    });
    on("change:_chosen", () => this.selection.set(model.get("_chosen").heads, "python"));
    on("change:_seen", () => this.connection());
    on("change:_check", () => this.check.update());
    on("change:_auto", () => this.check.update());
    on("msg:custom", (message) => {
      if (message?.kind === "details") this.details.take(message);
    });
    on("comm_live_update", () => this.connection("lost"));
    this.cleanups.push(followTheme(this.root, this.data.theme, (theme) => {
      this.theme = theme;
      this.root.dataset.theme = theme;
      this.maps.forEach((map) => map.draw());
      this.details.themed();
    }));
    this.connection();
  }

  // To a kernel that is gone, a front end throws an error for every message.
  send(message) {
    if (this.lost) return;
    try {
      this.model.send(message);
    } catch {
      this.connection("lost");
    }
  }

  // Python is told the whole selection. It answers with the number of the last one that it has seen.
  tell() {
    const { model } = this, number = (model.get("_chosen").number ?? 0) + 1;
    model.set("_chosen", { heads: [...this.selection.cells], number });
    if (this.lost) return;
    model.save_changes();
    clearTimeout(this.waiting);
    // A shut down kernel is not announced, as a restarted one is: only sending tells.
    if (!this.data.page) {
      this.waiting = setTimeout(() => {
        if (model.get("_seen") < number) this.send({ kind: "ping" });
        this.connection();
      }, 2500);
    }
  }

  connection(state) {
    if (state === "lost") this.lost = true;
    const behind = this.model.get("_seen") < (this.model.get("_chosen").number ?? 0);
    if (!behind) clearTimeout(this.waiting);
    this.status.connection(this.data.page ? "page" : this.lost ? "lost" : behind ? "waiting" : "");
    this.root.classList.toggle("spt-disconnected", Boolean(this.lost));
    if (state === "lost") {
      this.check.update();
      this.details.lost();
    }
  }

  async start(Plotly) {
    this.Plotly = Plotly;
    this.layOut();
    const observer = new ResizeObserver(delayed(80, () => {
      if (Math.abs(this.root.clientWidth - this.laidOut) > 4) this.layOut();
    }));
    observer.observe(this.root);
    this.cleanups.push(() => observer.disconnect());
  }

  // As many maps as are shown, each as wide as there is room for.
  layOut() {
    this.laidOut = this.root.clientWidth;
    const slots = this.shown[1] === null ? [0] : [0, 1];
    if (this.maps.length !== slots.length) {
      this.maps.forEach((map) => this.Plotly.purge(map.plot));
      this.maps = slots.map((slot) => new HeadMap(this, this.Plotly, slot));
      this.mapsBox.replaceChildren(...this.maps.map((map) => map.element));
    }
    const columns = Math.abs(this.range[0][1] - this.range[0][0]), wanted = columns * 38 + MARGIN.l + MARGIN.r;
    const room = Math.max(220, this.laidOut || 720), inRow = room < 560 ? 1 : slots.length;
    // The panels stand beside a single map where both have room, else below.
    const side = room > 820 && slots.length === 1 && this.side.offsetHeight ? Math.min(400, room * 0.42) : 0;
    const each = Math.floor(Math.min(wanted, (room - side - (side ? 16 : 0)) / inRow - 12));
    this.main.style.width = side ? `${Math.max(each, 400)}px` : "100%";
    this.side.style.flexBasis = side ? `${side - 20}px` : "100%";
    this.maps.forEach((map) => map.draw(each));
  }

  show(slot, layer) {
    this.shown[slot] = layer;
    this.layOut();
    if (slot === 0) {
      this.toolbar.update("page");
      this.toolbar.listPresets();
      this.details.update();
    }
  }

  zoom(one, other) {
    this.range = this.whole();
    if (one) {
      const [[x0, x1], [y1, y0]] = this.range;
      const near = (low, high, a, b) => {
        const from = Math.max(low, Math.floor(Math.min(a, b) + 0.5) - 0.5), to = Math.min(high, Math.ceil(Math.max(a, b) - 0.5) + 0.5);
        return [from, Math.max(to, from + 1)];
      };
      const [left, right] = near(x0, x1, one[0], other[0]), [top, bottom] = near(y0, y1, one[1], other[1]);
      this.range = [[left, right], [bottom, top]];
    }
    this.layOut();
  }

  // Choosing, which is a look too. The head is the one that presets speak of.
  click(cell) {
    this.selection.toggle(cell);
    this.last = cell;
    this.toolbar.listPresets();
    this.details.show(cell);
  }

  // Shows a head at once, and keeps it; a second time lets it go.
  pin(cell) {
    const { details } = this, again = details.pinned && details.head === cell;
    details.setPinned(false);
    details.show(cell);
    details.setPinned(!again);
    this.last = cell;
    this.toolbar.listPresets();
  }

  // The head that is shown, else the one under the cursor.
  pinShown() {
    const cell = this.details.head ?? this.cursor;
    if (cell !== null) this.pin(cell);
  }

  // Looking is not choosing: what the pointer or the keys come to is shown, no more.
  setCursor(cell, slot) {
    if (cell === this.cursor && slot === this.cursorSlot) return;
    Object.assign(this, { cursor: cell, cursorSlot: slot });
    this.describeAgain();
    this.details.approach(cell);
  }

  describeAgain() {
    this.maps.forEach((map) => map.placeCursor());
  }

  moveCursor([dx, dy], slot, choose) {
    const { nHeads } = this.data, from = this.cursor ?? this.last ?? 0, [[left, right], [bottom, top]] = this.range;
    // Within what a zoom shows.
    const x = Math.min(right - 0.5, Math.max(left + 0.5, (from % nHeads) + dx));
    const y = Math.min(bottom - 0.5, Math.max(top + 0.5, Math.floor(from / nHeads) + dy));
    const to = y * nHeads + x;
    if (choose) this.selection.change([from, to].filter((i) => this.inSight(i)), "add");
    this.setCursor(to, slot);
    this.spoken.textContent = this.describe(to, this.shown[slot]).slice(0, 2).join(", ");
  }

  // Whether a zoom shows a head.
  inSight(i) {
    const x = i % this.data.nHeads, y = Math.floor(i / this.data.nHeads), [[left, right], [bottom, top]] = this.range;
    return x > left && x < right && y > top && y < bottom;
  }

  // What is known of a head, line by line.
  describe(i, shown) {
    const { layers, nHeads, budgetHeads } = this.data, layer = layers[shown], { by } = this;
    const lines = [`${headName(i, nHeads)}${this.selection.has(i) ? " · chosen" : ""}`];
    lines.push(`${layer.name}: ${scoreText(layer.values[i])}`);
    if (layer.low) {
      const zero = layer.low[i] <= 0 && layer.high[i] >= 0 ? " (holds 0)" : "";
      lines.push(`95 % interval ${scoreText(layer.low[i])} to ${scoreText(layer.high[i])}${zero}`);
    }
    if (layer.share && layer.values[i] > 1) lines.push("above 1: more than the gap");
    lines.push(`rank ${this.places[by][shown][i]} of ${layer.values.length}${by === "size" ? " by size" : ""}`);
    if (layer.top) lines.push(`in the top ${budgetHeads} of ${Math.round(100 * layer.top[by][i])} % of resamples`);
    if (layer.estimates.includes(i)) lines.push("an attribution estimate, not measured");
    const others = layers.map((_, n) => n).filter((n) => n !== shown);
    for (const n of others.slice(0, 4)) lines.push(`${layers[n].name}: ${scoreText(layers[n].values[i])} (rank ${this.places[by][n][i]})`);
    if (others.length > 4) lines.push(`and ${others.length - 4} more`);
    return lines;
  }

  dispose() {
    this.cleanups.forEach((clean) => clean());
    this.details.dispose();
    clearTimeout(this.waiting);
    this.maps.forEach((map) => this.Plotly.purge(map.plot));
  }
}

function render({ model, el }) {
  const root = make("div", "spt-picker");
  el.append(root);
  const picker = new Picker(model, root);
  const ask = model.plotly ?? (() => askByMessage(model));
  const slow = setTimeout(() => (picker.mapsBox.textContent =
    "No map yet: the kernel has not sent plotly.js. It runs a cell, or it is gone: then this is a picker as saved, not a live one. Run its cell again."), 6000);
  plotlyOnce(picker.data.plotly, ask).finally(() => clearTimeout(slow)).then((Plotly) => {
    if (!picker.disposed) return picker.start(Plotly);
  }).catch((error) => {
    picker.mapsBox.replaceChildren(make("div", "spt-says spt-lost", `The map can't be drawn here: ${error.message ?? error}`));
    throw error;
  });
  return () => {
    picker.disposed = true;
    picker.dispose();
  };
}

export default { render };
