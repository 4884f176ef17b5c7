// Below the map: how many heads and weights, the selection as text, and whether Python has heard of it.

class Status {
  constructor(ui) {
    this.ui = ui;
    this.count = make("div", "spt-count");
    this.count.setAttribute("aria-live", "polite");
    this.link = make("div", "spt-link");
    this.link.setAttribute("role", "status");
    this.text = make("input", "spt-heads");
    this.text.type = "text";
    this.text.spellcheck = false;
    this.text.placeholder = "no heads: click some, or type L5.H3 6.1";
    this.text.setAttribute("aria-label", "the chosen heads as text");
    onTyping(this.text, 400, () => this.read());
    this.copy = pushButton("copy", "Copy the heads as text that HeadSet.parse reads", () => this.copyText());
    // Of a page of its own: in a notebook, Python has the heads.
    this.save = pushButton("save", "Save the heads as a file that HeadSet.load and spt-lens tune --heads read", () => this.saveFile());
    this.save.hidden = !ui.data.selection;
    this.sets = new SetsPanel(ui);
    this.element = make("div", "spt-status", this.count, make("div", "spt-row", this.text, this.copy, this.save), this.link, this.sets.element);
    this.update();
  }

  update() {
    const { data, selection } = this.ui, cells = selection.cells, n = data.nLayers * data.nHeads;
    const over = cells.length > data.budgetHeads;
    const weights = data.sizes && ` · ${percent(countParameters(cells, data.nHeads, data.sizes) / data.sizes.total)} of parameters`;
    const budget = `${over ? "over" : "within"} the budget of ${+(100 * data.budget).toPrecision(3)} %`;
    this.count.textContent = `${cells.length} of ${n} heads (${percent(cells.length / n)})${weights ?? ""} · ${budget} (${data.budgetHeads})`;
    this.count.classList.toggle("spt-over", over);
    this.mark(false);
    this.sets.update();
    this.save.disabled = !cells.length;
    const text = cells.map((i) => headName(i, data.nHeads)).join(" ");
    // What is being typed stays as it is typed.
    if (document.activeElement !== this.text || !this.typed) this.text.value = text;
    this.typed = false;
  }

  read() {
    const { data, selection } = this.ui, found = parseHeads(this.text.value, data.nLayers, data.nHeads);
    this.mark(found === null);
    if (!found) return;
    this.typed = true;
    if (!selection.set(found)) this.typed = false;
  }

  mark(wrong) {
    this.text.classList.toggle("spt-wrong", wrong);
    this.text.setAttribute("aria-invalid", wrong);
  }

  async copyText() {
    try {
      await navigator.clipboard.writeText(this.text.value);
    } catch {
      // Pages from a file, and some front ends, have no clipboard of their own.
      this.text.select();
      document.execCommand("copy");
    }
    this.copy.textContent = "copied";
    setTimeout(() => (this.copy.textContent = "copy"), 1200);
  }

  // What Python's own save writes, but for a checksum: with it goes of which scores this page is.
  saveFile() {
    const { data, selection } = this.ui, link = make("a");
    const heads = selection.cells.map((i) => headName(i, data.nHeads));
    const about = { ...data.selection, date: new Date().toISOString().replace(/\.\d+Z$/, "+00:00") };
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify({ heads, about })}\n`], { type: "application/json" }));
    link.download = "heads.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // state: "" (all is well), "waiting", "lost" or "page" (there is no kernel at all).
  connection(state) {
    const says = {
      waiting: "Python has not answered yet: a cell is running, or the kernel is gone. Nothing is lost while this page is open.",
      lost: "Disconnected: the kernel was restarted or stopped, and Python no longer hears this picker. Run its cell again; until then copy the heads from the field above.",
      page: "No kernel behind this page: clicks choose heads here only. Save them as a file, or copy the text above into HeadSet.parse(\"...\").",
    };
    this.link.textContent = says[state] ?? "";
    this.link.className = `spt-link spt-${state || "well"}`;
  }
}

// The live check: what the chosen heads recover together, beside random heads; and, where that is asked for, how the
// model replies without them.

class CheckPanel {
  constructor(ui) {
    this.ui = ui;
    this.run = pushButton("check", "Measure what the chosen heads recover together", () => ui.send({ kind: "check" }));
    this.ask = pushButton("replies", "Also let the model reply without these heads: takes much longer", () => ui.send({ kind: "replies" }));
    this.ask.hidden = !ui.data.canReply;
    this.stop = pushButton("stop", "Stop the check", () => ui.send({ kind: "stop" }));
    this.auto = make("input");
    this.auto.type = "checkbox";
    this.auto.checked = ui.model.get("_auto");
    this.auto.addEventListener("change", () => {
      ui.model.set("_auto", this.auto.checked);
      ui.model.save_changes();
    });
    this.bar = make("div", "spt-bar", make("div"));
    this.says = make("div", "spt-says");
    this.says.setAttribute("aria-live", "polite");
    this.table = make("table", "spt-table");
    this.replies = make("div", "spt-replies");
    this.more = false;
    const auto = make("label", "spt-field", this.auto, make("span", "", "after every change"));
    this.element = make("section", "spt-panel spt-check",
      make("div", "spt-row", make("b", "", "Live check"), this.run, this.ask, this.stop, auto), this.bar, this.says, this.table, this.replies);
    this.update();
  }

  update() {
    const { model, selection, data } = this.ui, check = model.get("_check");
    const lost = Boolean(this.ui.lost), busy = !lost && (check.state === "queued" || check.state === "running");
    const own = check.heads.length === selection.cells.length && check.heads.every((i) => selection.has(i));
    this.run.disabled = !data.canCheck || lost || busy || !selection.cells.length;
    this.ask.disabled = this.run.disabled;
    this.stop.disabled = !busy;
    this.auto.disabled = !data.canCheck || lost;
    this.auto.checked = model.get("_auto");
    this.bar.hidden = !busy;
    this.bar.firstChild.style.width = `${100 * check.done}%`;
    const stale = check.rows.length && !own ? "Of an earlier selection. " : "";
    const says = lost && ["queued", "running"].includes(check.state) ? "Interrupted: disconnected." : check.says;
    this.says.textContent = data.canCheck ? stale + says : check.rows.length ? `${stale}${says} ${data.whyNoCheck}` : data.whyNoCheck;
    this.table.hidden = !check.rows.length;
    this.element.classList.toggle("spt-stale", Boolean(stale));
    const head = ["", "as it is", "chosen", "random"];
    this.table.replaceChildren(make("tr", "", ...head.map((text) => make("th", "", text))),
      ...check.rows.map((row) => make("tr", "", make("th", "", row[0]), ...row.slice(1).map((text) => make("td", "", text)))));
    this.showReplies(check.replies ?? []);
  }

  // A sample to read, those that changed first. Not made again while it is the same: it may be being read.
  showReplies(all) {
    if (this.told === all) return;
    if (!all.length) this.more = false;
    this.told = all;
    const said = (text, mark, name) => make("div", `spt-said${mark ? " spt-gives-in" : ""}`,
      make("span", "", `${name}${mark ? ", gives in" : ""}: `), text || "(nothing)");
    const each = (reply) => make("div", "spt-reply", make("div", "spt-asked", reply.asked),
      said(reply.before, reply.mark_before, "as it is"), said(reply.without, reply.mark_without, "without these heads"));
    const parts = all.slice(0, this.more ? all.length : 3).map(each);
    if (all.length > 3) {
      const more = pushButton(this.more ? "show fewer" : `show ${all.length - 3} more`, "More of the replies", () => {
        this.more = !this.more;
        this.told = null;
        this.showReplies(all);
      });
      keepShortcutsAway(more);
      parts.push(more);
    }
    this.replies.replaceChildren(...parts);
  }
}
