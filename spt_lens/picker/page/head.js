// One head beside the map. Its scores stand here at once; where it looks and what it writes, Python tells. All text is
// put in as text. What is looked at is not chosen: nothing here touches the selection.

const RESTS = 300; // milliseconds on a head, after which it is shown
const DEEPEST = 0.85; // how much of the shade's colour the most attention has; the text stays readable on it

function tableOf(head, rows) {
  const line = (cells, tag) => make("tr", "", ...cells.map((cell, n) => make(n && tag === "td" ? "td" : "th", "", ...[cell].flat())));
  return make("table", "spt-table", ...(head ? [line(head, "th")] : []), ...rows.map((row) => line(row, "td")));
}

// A change of logits.
function signedText(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

function between(low, high, text) {
  return low === null || low === undefined ? "" : `${text(low)} to ${text(high)}`;
}

// The text of a prompt, each piece as dark as the share of attention that it gets: the shade goes by the root of the
// share, so that little attention can be told from none.
function shadedPrompt(pieces, most) {
  return pieces.map(([text, share], n) => {
    const piece = make("span", n === pieces.length - 1 ? "spt-here" : "");
    text.split("\n").forEach((line, i) => piece.append(...(i ? [make("i", "spt-nl"), "\n", line] : [line])));
    piece.style.setProperty("--share", (DEEPEST * Math.sqrt(most ? share / most : 0)).toFixed(3));
    piece.dataset.n = n;
    return piece;
  });
}

class DetailsPanel {
  constructor(ui) {
    this.ui = ui;
    this.words = ui.data.words;
    this.head = this.wanted = this.told = this.script = null;
    this.pinned = this.waiting = false;
    this.run = "sycophantic";
    this.title = make("b", "spt-name", "A head");
    this.pin = pushButton("pin", "Keep this head here while you look around (p on the map; Escape lets go)", () => this.setPinned(!this.pinned));
    this.pin.hidden = true;
    this.says = make("div", "spt-says", "Rest on a head, or go there by keys, to see it here. That chooses nothing.");
    this.says.setAttribute("aria-live", "polite");
    this.scores = make("div", "spt-part");
    this.body = make("div", "spt-report");
    this.prompt = make("div", "spt-prompt");
    this.prompt.addEventListener("pointerover", (event) => this.point(event.target.closest("[data-n]")?.dataset.n));
    this.prompt.addEventListener("pointerleave", () => this.point());
    this.legend = make("div", "spt-legend");
    this.runs = choiceButtons("prompt", [
      ["sycophantic", this.words.runs[0], `The first pair's ${this.words.prompt}`],
      ["truthful", this.words.runs[1], "The first pair's other prompt"],
    ], this.run, (run) => this.setRun(run));
    this.looks = make("div", "spt-part", make("div", "spt-row", make("h4", "", "Where it looks from the end"), this.runs), this.prompt, this.legend);
    this.writes = make("div", "spt-part");
    this.rest = make("div", "spt-part");
    const summary = make("summary", "", "Attention from all positions");
    keepShortcutsAway(summary);
    this.frame = make("div", "spt-attention");
    this.pattern = make("details", "spt-pattern", summary, this.frame);
    this.pattern.addEventListener("toggle", () => this.pattern.open && this.ask());
    this.body.append(this.looks, this.writes, this.scores, this.rest, this.pattern);
    this.looks.hidden = this.pattern.hidden = true;
    this.element = make("section", "spt-panel spt-details", make("div", "spt-row", this.title, this.pin), this.says, this.body);
    this.element.setAttribute("aria-label", "a head");
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.pinned) this.setPinned(false);
      else if (event.key === "p" && !event.ctrlKey && !event.metaKey) this.setPinned(!this.pinned);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    window.addEventListener("message", (this.hear = (event) => {
      const frame = this.frame.firstElementChild;
      if (frame && event.source === frame.contentWindow && event.data?.spt_height) frame.style.height = `${event.data.spt_height}px`;
    }));
  }

  dispose() {
    clearTimeout(this.resting);
    window.removeEventListener("message", this.hear);
  }

  // A head that the pointer or the keys have come to; null: none. Only one that they rest on is shown.
  approach(i) {
    clearTimeout(this.resting);
    if (i !== null && !this.pinned && i !== this.head) this.resting = setTimeout(() => this.show(i), RESTS);
  }

  show(i) {
    clearTimeout(this.resting);
    if (this.pinned && i !== this.head) return;
    this.head = i;
    this.title.textContent = headName(i, this.ui.data.nHeads);
    this.pin.hidden = false;
    this.update();
    if (!this.ui.data.canShow) this.says.textContent = `${this.title.textContent}: ${this.ui.data.whyNoShow}`;
    else this.ask();
  }

  setPinned(pinned) {
    if (this.head === null) return;
    this.pinned = pinned;
    this.pin.textContent = pinned ? "pinned" : "pin";
    this.pin.setAttribute("aria-pressed", pinned);
    this.element.classList.toggle("spt-pinned", pinned);
  }

  // Asks Python for the head that is shown; of several wishes, only the last one is granted.
  ask() {
    if (!this.ui.data.canShow || this.ui.lost || this.head === null) return;
    this.wanted = this.head;
    this.waits(true);
    const pattern = this.pattern.open ? this.run : null;
    this.ui.send({ kind: "details", head: this.head, pattern, script: pattern !== null && this.script === null });
  }

  take(message) {
    if (message.script) this.script = message.script;
    if (message.head !== this.wanted || this.wanted !== this.head) {
      // Another view of this picker asked later: ask again.
      if (this.waiting) setTimeout(() => this.waiting && this.ask(), RESTS);
      return;
    }
    if (message.pattern) return this.drawPattern(message);
    this.waits(false);
    this.waiting = !message.error && message.pairs[0] < message.pairs[1];
    this.told = message.error ? null : message;
    this.says.textContent = message.error ?? `${this.title.textContent}: ${message.says}`;
    this.looks.hidden = this.pattern.hidden = !this.told;
    this.drawTold();
  }

  // What is shown is of another head until the answer comes.
  waits(waiting) {
    this.waiting = waiting;
    this.element.classList.toggle("spt-stale", waiting);
  }

  lost() {
    if (this.waiting) this.says.textContent = "Disconnected.";
    this.waits(false);
  }

  setRun(run) {
    this.run = run;
    this.drawPrompt();
    if (this.pattern.open) this.ask();
  }

  // The head in every map, by the ranks that are asked for.
  update() {
    if (this.head === null) return;
    const { data, places, by, shown } = this.ui, i = this.head;
    const rows = data.layers.map((layer, n) => {
      const name = make("span", n === shown[0] ? "spt-shown" : "", layer.name);
      const about = [layer.estimates.includes(i) && "estimate", layer.low && layer.low[i] <= 0 && layer.high[i] >= 0 && "holds 0"];
      const interval = layer.low ? between(layer.low[i], layer.high[i], scoreText) : "";
      const note = about.filter(Boolean).join(", ");
      return [[name], scoreText(layer.values[i]), [interval, ...(note ? [make("div", "spt-note", note)] : [])], `${places[by][n][i]} of ${layer.values.length}`];
    });
    const ranked = by === "size" ? "rank by size" : "rank";
    this.scores.replaceChildren(make("h4", "", data.layers.length > 1 ? "In every map" : "In this map"),
      tableOf(["", "score", "95 % interval", ranked], rows));
  }

  drawTold() {
    const told = this.told;
    this.drawPrompt();
    this.writes.replaceChildren();
    this.rest.replaceChildren();
    if (!told) return;
    const [done, all] = told.pairs, over = done < all ? `${done} of ${all} pairs so far` : `mean over ${all} pair${all === 1 ? "" : "s"}`;
    if (told.direct) {
      const cell = (run, answer) => {
        const row = told.direct.find((one) => one.run === run && one.answer === answer);
        return [signedText(row.logit), make("div", "spt-note", between(row.low, row.high, signedText))];
      };
      const name = (answer) => {
        const { token } = told.direct.find((one) => one.answer === answer);
        const called = this.words.answers[answer] ?? answer;
        return token ? [JSON.stringify(token), make("div", "spt-note", called)] : [`${called}${answer === "difference" ? "" : " answer"}`];
      };
      this.writes.append(make("h4", "", `What it adds to the answers, in logits (${over}, 95 % interval)`),
        tableOf(["", ...this.words.runs], ["truthful", "sycophantic", "difference"].map((answer) =>
          [name(answer), cell("sycophantic", answer), cell("truthful", answer)])));
    }
    if (told.tokens) {
      const list = (effect) => told.tokens.filter((one) => one.effect === effect).map((one) => [JSON.stringify(one.token), signedText(one.logit)]);
      const both = ["raises", "lowers"].map((effect) => make("div", "", make("div", "spt-note", effect), tableOf(null, list(effect))));
      this.rest.append(make("h4", "", "The tokens it moves most, in logits (" + this.words.runs[0] + ")"), make("div", "spt-two", ...both));
    }
    if (told.spans) {
      const figures = ["sycophantic", "truthful", "sycophantic_others"];
      this.rest.append(make("h4", "", `Attention from the end (${over})`),
        tableOf(["to the", ...this.words.runs, "other heads"], told.spans.map((row) =>
          [row.span, ...figures.map((name) => (row[name] === null ? "" : row[name].toFixed(3)))])));
    }
    for (const why of told.missing) this.rest.append(make("div", "spt-says", why));
  }

  drawPrompt() {
    const pieces = this.told?.prompts.find((prompt) => prompt.run === this.run)?.pieces ?? [];
    this.pieces = pieces;
    this.most = Math.max(0, ...pieces.map((piece) => piece[1]));
    this.prompt.replaceChildren(...shadedPrompt(pieces, this.most));
    const scale = [0, this.most / 4, this.most].map((share) => make("span", "", share.toFixed(2)));
    this.pointed = make("div", "spt-pointed");
    this.legend.replaceChildren(make("div", "spt-ramp", make("div", "spt-shade"), make("div", "spt-ticks", ...scale)), this.pointed);
    this.point();
  }

  // The piece under the pointer, in the legend's line: a tooltip would cover the text.
  point(n) {
    const top = this.pieces.findIndex((piece) => piece[1] === this.most), at = n ?? (top < 0 ? undefined : top);
    if (at === undefined) return;
    const [text, share, span] = this.pieces[at];
    this.pointed.textContent = `${n === undefined ? "most: " : ""}${JSON.stringify(text)}${span ? `, ${span}` : ""}: ${share.toFixed(3)}`;
  }

  // By circuitsvis, which draws for a white page: in the dark its colours are turned round.
  drawPattern({ pattern, run, script }) {
    if (run !== this.run || !this.pattern.open) return;
    this.waits(false);
    if (script) this.script = script;
    this.drawn = { pattern, run };
    const data = JSON.stringify(pattern).replaceAll("<", "\\u003c"), dark = this.ui.theme === "dark";
    const frame = make("iframe");
    frame.setAttribute("sandbox", "allow-scripts");
    frame.title = "attention of the head from all positions";
    frame.srcdoc = `<!DOCTYPE html><meta charset="utf-8">
      <meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:">
      <style>body { margin: 0; overflow-y: hidden; font: 13px system-ui, "DejaVu Sans", sans-serif; color: #1b1b1b }
        ${dark ? "#attention { filter: invert(0.88) hue-rotate(180deg); background: #fff }" : "body { background: #fff }"}</style>
      <div id="attention"></div><script>${this.script}<\/script>
      <script>
        CircuitsVis.render("attention", CircuitsVis.AttentionHeads, ${data});
        const drawn = document.getElementById("attention");
        new ResizeObserver(() => parent.postMessage({ spt_height: Math.ceil(drawn.getBoundingClientRect().height) + 16 }, "*")).observe(drawn);
      <\/script>`;
    this.frame.replaceChildren(frame);
  }

  themed() {
    if (this.drawn && this.pattern.open) this.drawPattern(this.drawn);
  }
}
