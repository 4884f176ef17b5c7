// The controls above the map, as plain elements: front ends differ in which widgets they have.

function chooser(label, options, value, change) {
  const select = make("select", "", ...options.map(([key, text]) => {
    const option = make("option", "", text);
    option.value = key;
    return option;
  }));
  select.value = value;
  select.setAttribute("aria-label", label);
  select.addEventListener("change", () => change(select.value));
  return { element: make("label", "spt-field", make("span", "", label), select), select };
}

// A row of buttons of which one is on.
function choiceButtons(label, options, value, change) {
  const group = make("span", "spt-choice");
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", label);
  const show = (now) => [...group.children].forEach((b) => {
    b.setAttribute("aria-checked", b.dataset.value === now);
    b.tabIndex = b.dataset.value === now ? 0 : -1;
  });
  group.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key], all = [...group.children];
    if (!step) return;
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    next.click();
    event.preventDefault();
    event.stopPropagation();
  });
  for (const [key, text, hint] of options) {
    const button = pushButton(text, hint, () => {
      show(key);
      change(key);
    });
    button.dataset.value = key;
    button.setAttribute("role", "radio");
    group.append(button);
  }
  show(value);
  return make("span", "spt-field", make("span", "", label), group);
}

function pushButton(text, hint, press) {
  const button = make("button", "", text);
  button.type = "button";
  button.title = hint;
  button.addEventListener("click", press);
  return button;
}

function delayed(milliseconds, run) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), milliseconds);
  };
}

// Runs once typing has paused, or at once when the field is left, so that a click on the map comes after it. ("input",
// not Enter: JupyterLab keeps that for itself.)
function onTyping(input, milliseconds, run) {
  let timer = 0, done = null;
  const now = () => {
    clearTimeout(timer);
    if (input.value === done) return;
    done = input.value;
    run();
  };
  input.addEventListener("input", () => {
    done = null;
    clearTimeout(timer);
    timer = setTimeout(now, milliseconds);
  });
  input.addEventListener("change", () => done === null && now());
}

class Toolbar {
  constructor(ui) {
    this.ui = ui;
    const { data } = ui, names = data.layers.map((layer, i) => [String(i), layer.name]);
    const scores = chooser("scores", names, "0", (i) => ui.show(0, +i));
    const beside = chooser("beside", [["", "–"], ...names], "", (i) => {
      ui.show(1, i === "" ? null : +i);
      this.listPresets();
    });
    const by = choiceButtons("rank", [
      ["signed", "signed", "The highest scores first"],
      ["size", "by size", "The largest scores first, of either sign"],
    ], "signed", (value) => this.setBy(value));
    const tool = choiceButtons("drag", [
      ["box", "box", "Drag a box over the heads"],
      ["lasso", "lasso", "Drag a line around the heads"],
      ["zoom", "zoom", "Drag a box to look closer; press again for the whole map"],
    ], "box", (value) => {
      if (value === "zoom" && ui.tool === "zoom") ui.zoom(null);
      ui.tool = value;
    });
    const mode = choiceButtons("to", [
      ["replace", "replace", "A box or lasso becomes the selection (hold shift to add, alt to remove). A click always toggles."],
      ["add", "add", "A box or lasso is added (or hold shift). A click always toggles."],
      ["remove", "remove", "A box or lasso is taken out (or hold alt). A click always toggles."],
    ], "replace", (value) => (ui.mode = value));
    this.undo = pushButton("undo", "Ctrl+Z on the map", () => ui.selection.undo());
    this.redo = pushButton("redo", "Ctrl+Y on the map", () => ui.selection.redo());
    this.clear = pushButton("clear", "Choose no heads", () => ui.selection.set([]));
    this.presets = chooser("preset", [], "", (key) => this.choosePreset(key));
    const wide = names.length > 1 ? [scores.element, beside.element] : [];
    this.element = make("div", "spt-toolbar",
      make("div", "spt-row", ...wide, by, tool, mode),
      make("div", "spt-row", this.topField(), this.thresholdField(), this.presets.element, this.undo, this.redo, this.clear));
    this.update("page");
    this.listPresets();
  }

  get layer() {
    return this.ui.data.layers[this.ui.shown[0]];
  }

  get order() {
    return this.layer.order[this.ui.by];
  }

  setBy(by) {
    this.ui.by = by;
    this.update("page");
    this.listPresets();
    this.ui.describeAgain();
    this.ui.details.update();
  }

  topField() {
    const input = (this.top = make("input", "spt-number"));
    Object.assign(input, { type: "number", min: 0, max: this.ui.data.nLayers * this.ui.data.nHeads, step: 1, title: "The best k heads" });
    input.setAttribute("aria-label", "top k");
    onTyping(input, 250, () => {
      if (input.value !== "" && +input.value >= 0) this.ui.selection.set(this.order.slice(0, Math.floor(+input.value)), "top");
    });
    return make("label", "spt-field", make("span", "", "top"), input);
  }

  thresholdField() {
    const slider = (this.slider = make("input", "spt-slider")), field = (this.threshold = make("input", "spt-number"));
    Object.assign(slider, { type: "range", min: 0, max: 1000, step: 1, title: "All heads with a score above the threshold" });
    Object.assign(field, { type: "number", step: "any", title: slider.title });
    slider.setAttribute("aria-label", "threshold slider");
    field.setAttribute("aria-label", "threshold");
    slider.addEventListener("input", () => {
      const [low, high] = this.bounds();
      field.value = String(+(low + (slider.value / 1000) * (high - low)).toPrecision(4));
      this.applyThreshold("slider");
    });
    slider.addEventListener("change", () => (this.ui.selection.tag = null));
    onTyping(field, 250, () => this.applyThreshold(null));
    return make("span", "spt-field", make("span", "", "above"), slider, field);
  }

  strength(i) {
    return this.ui.by === "size" ? Math.abs(this.layer.values[i]) : this.layer.values[i];
  }

  bounds() {
    const all = this.order.map((i) => this.strength(i));
    return [Math.min(...all), Math.max(...all)];
  }

  applyThreshold(tag) {
    const limit = this.threshold.value === "" ? NaN : +this.threshold.value;
    if (Number.isNaN(limit)) return;
    // As Python compares: in the scores' own precision.
    const exact = this.layer.single ? Math.fround : Number;
    this.ui.selection.set(this.order.filter((i) => exact(this.strength(i)) > exact(limit)), "threshold", tag);
  }

  listPresets() {
    const { data, last } = this.ui, n = data.nLayers * data.nHeads, layer = this.layer;
    const found = [["", "choose …"], ["top", `top ${+(100 * data.budget).toPrecision(3)} % (${data.budgetHeads})`]];
    if (layer.noise) found.push(["noise", `above the interval's noise (${layer.noise[this.ui.by].length})`]);
    if (last !== null) {
      found.push(["layer", `all of layer ${Math.floor(last / data.nHeads)}`]);
      if (data.sizes?.group > 1) found.push(["group", `the KV group of ${headName(last, data.nHeads)}`]);
    }
    for (const i of this.others()) {
      const name = data.layers[i].name, { both, first, second } = agreement(data, this.ui.by, this.ui.shown[0], i);
      found.push([`both:${i}`, `top ${data.budgetHeads} of both ${layer.name} and ${name} (${both.length})`]);
      found.push([`first:${i}`, `top ${data.budgetHeads} of ${layer.name}, not of ${name} (${first.length})`]);
      found.push([`second:${i}`, `top ${data.budgetHeads} of ${name}, not of ${layer.name} (${second.length})`]);
    }
    (this.ui.model.get("_sets") ?? []).forEach(({ name, heads }, i) => found.push([`kept:${i}`, `${name} (${heads.length})`]));
    for (const name of Object.keys(data.presets)) found.push([`own:${name}`, `${name} (${data.presets[name].length})`]);
    found.push(["all", `all (${n})`]);
    this.presets.select.replaceChildren(...found.map(([key, text]) => {
      const option = make("option", "", text);
      option.value = key;
      return option;
    }));
    this.presets.select.value = "";
  }

  // Layers that the shown one is held against: the one beside it, else the first few.
  others() {
    const { data, shown } = this.ui, [own, beside] = shown;
    return beside !== null && beside !== own ? [beside] : data.layers.map((_, i) => i).filter((i) => i !== own).slice(0, 3);
  }

  choosePreset(key) {
    const { data, last, mode } = this.ui, [kind, place] = [key.split(":")[0], +key.slice(key.indexOf(":") + 1)];
    const { nHeads } = data;
    const cells =
      key === "top" ? this.order.slice(0, data.budgetHeads)
      : key === "noise" ? this.layer.noise[this.ui.by]
      : key === "layer" ? groupOf(last, nHeads, nHeads)
      : key === "group" ? groupOf(last, nHeads, data.sizes.group)
      : key === "all" ? this.order
      : ["both", "first", "second"].includes(kind) ? agreement(data, this.ui.by, this.ui.shown[0], place)[kind]
      : kind === "kept" ? this.ui.model.get("_sets")[place].heads
      : data.presets[key.slice(4)];
    this.presets.select.value = "";
    this.ui.selection.change(cells, mode);
  }

  // After the selection changed. What "top" and "above" say is about a selection that they made.
  update(from) {
    const { selection } = this.ui;
    if (from !== "top") this.top.value = "";
    if (from !== "threshold") {
      this.threshold.value = "";
      const [low, high] = this.bounds();
      const weakest = Math.min(...selection.cells.map((i) => this.strength(i)), high);
      this.slider.value = high > low ? (1000 * (weakest - low)) / (high - low) : 0;
    }
    this.undo.disabled = !selection.past.length;
    this.redo.disabled = !selection.future.length;
    this.clear.disabled = !selection.cells.length;
  }
}
