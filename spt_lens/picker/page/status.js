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
    this.element = make("div", "spt-status", this.count, make("div", "spt-row", this.text, this.copy), this.link);
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

  // state: "" (all is well), "waiting", "lost" or "page" (there is no kernel at all).
  connection(state) {
    const says = {
      waiting: "Python has not answered yet: a cell is running, or the kernel is gone. Nothing is lost while this page is open.",
      lost: "Disconnected: the kernel was restarted or stopped, and Python no longer hears this picker. Run its cell again; until then copy the heads from the field above.",
      page: "No kernel behind this page: clicks choose heads here only. Copy the text above into HeadSet.parse(\"...\").",
    };
    this.link.textContent = says[state] ?? "";
    this.link.className = `spt-link spt-${state || "well"}`;
  }
}
