// Selections under names: kept, listed with their sizes, compared and combined. Python is told of all that are kept; the
// last state wins.

// How two selections are combined, each in the order of the first: as Python's &, | and - do.
const COMBINE = {
  and: (one, other) => ((there) => one.filter((i) => there.has(i)))(new Set(other)),
  or: (one, other) => [...new Set([...one, ...other])],
  not: (one, other) => ((there) => one.filter((i) => !there.has(i)))(new Set(other)),
};

// What the best heads of two score layers agree on.
function agreement(data, by, one, other) {
  const [first, second] = [one, other].map((i) => data.layers[i].order[by].slice(0, data.budgetHeads));
  return { both: COMBINE.and(first, second), first: COMBINE.not(first, second), second: COMBINE.not(second, first) };
}

class SetsPanel {
  constructor(ui) {
    this.ui = ui;
    this.name = make("input", "spt-set-name");
    Object.assign(this.name, { type: "text", maxLength: 80, placeholder: "a name", spellcheck: false });
    this.name.setAttribute("aria-label", "a name for the selection");
    this.keep = pushButton("keep", "Keep the chosen heads under this name", () => this.keepIt());
    this.name.addEventListener("input", () => this.update());
    this.list = make("div", "spt-sets");
    this.one = chooser("compare", [], "", () => this.update());
    this.other = chooser("with", [], "", () => this.update());
    this.result = make("span", "spt-says");
    this.result.setAttribute("aria-live", "polite");
    this.buttons = ["and", "or", "not"].map((how) => pushButton(how, {
      and: "Choose the heads in both", or: "Choose the heads in either", not: "Choose the heads of the first that are not in the second",
    }[how], () => this.combine(how)));
    this.comparing = make("div", "spt-row", this.one.element, ...this.buttons, this.other.element, this.result);
    this.element = make("details", "spt-named", this.title = make("summary", "", "Named selections"),
      make("div", "spt-row", make("span", "spt-field", make("span", "", "keep the chosen heads as"), this.name), this.keep), this.list, this.comparing);
    keepShortcutsAway(this.title);
    this.element.addEventListener("toggle", () => this.update());
    this.listed = () => this.listAll();
    ui.model.on("change:_sets", this.listed);
    ui.cleanups.push(() => ui.model.off("change:_sets", this.listed));
    this.listAll();
  }

  get kept() {
    return this.ui.model.get("_sets") ?? [];
  }

  // All that can be compared, [what a list calls it, its text, the heads].
  get known() {
    const { data, selection, by } = this.ui;
    const found = [["chosen", "the chosen heads", selection.cells]];
    for (const { name, heads } of this.kept) found.push([`kept:${name}`, name, heads]);
    for (const [name, heads] of Object.entries(data.presets)) found.push([`own:${name}`, name, heads]);
    data.layers.forEach((layer, i) => found.push([`top:${i}`, `top ${data.budgetHeads} of ${layer.name}`, layer.order[by].slice(0, data.budgetHeads)]));
    return found;
  }

  heads(key) {
    return (this.known.find(([own]) => own === key) ?? this.known[0])[2];
  }

  put(sets) {
    this.ui.model.set("_sets", sets);
    if (!this.ui.lost) this.ui.model.save_changes();
    this.listAll();
  }

  get wanted() {
    return this.name.value.split(/\s+/).filter(Boolean).join(" ").slice(0, 80);
  }

  keepIt() {
    const name = this.wanted, { selection } = this.ui;
    if (!name || this.taken(name) || !selection.cells.length) return;
    this.put([...this.kept.filter((each) => each.name !== name), { name, heads: [...selection.cells] }]);
    this.name.value = "";
    this.update();
  }

  taken(name) {
    return Object.hasOwn(this.ui.data.presets, name);
  }

  listAll() {
    const { ui } = this, rows = this.kept.map(({ name, heads }) => {
      const choose = pushButton(`${name} (${heads.length})`, "Choose these heads", () => ui.selection.change(heads, ui.mode));
      const forget = pushButton("×", `Forget ${name}`, () => this.put(this.kept.filter((each) => each.name !== name)));
      forget.setAttribute("aria-label", `forget ${name}`);
      for (const button of [choose, forget]) keepShortcutsAway(button);
      return make("span", "spt-set", choose, forget);
    });
    this.list.replaceChildren(...rows);
    this.title.textContent = `Named selections${this.kept.length ? ` (${this.kept.length})` : ""}`;
    ui.toolbar?.listPresets();
    this.update();
  }

  // Of the two that are named, or of the layers side by side.
  update() {
    if (!this.element.open) return; // a click is not to wait for what nobody sees
    const { data, selection } = this.ui, known = this.known, name = this.wanted;
    const lists = [this.one, this.other].map(({ select }) => select), now = lists.map((list) => list.value);
    for (const list of lists) {
      list.replaceChildren(...known.map(([key, text, heads]) => {
        const option = make("option", "", `${text} (${heads.length})`);
        option.value = key;
        return option;
      }));
    }
    const first = known.length > 1 ? known[1][0] : "chosen";
    lists.forEach((list, n) => (list.value = known.some(([key]) => key === now[n]) ? now[n] : n ? first : "chosen"));
    this.keep.disabled = !name || this.taken(name) || !selection.cells.length;
    this.keep.textContent = this.kept.some((each) => each.name === name) ? "keep anew" : "keep";
    const [one, other] = lists.map((list) => this.heads(list.value)), both = COMBINE.and(one, other).length;
    const chance = (one.length * other.length) / (data.nLayers * data.nHeads);
    this.result.textContent = this.taken(name) ? `"${name}" is a preset: take another name.`
      : `${both} shared, ${one.length - both} and ${other.length - both} in one only; by chance ${+chance.toPrecision(2)} would be.`;
  }

  combine(how) {
    this.ui.selection.set(COMBINE[how](this.heads(this.one.select.value), this.heads(this.other.select.value)));
  }
}
