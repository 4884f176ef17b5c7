// The live check: what the chosen heads do together, patched in and knocked out, beside random heads.

class CheckPanel {
  constructor(ui) {
    this.ui = ui;
    this.run = pushButton("check", "Measure what the chosen heads do together", () => ui.send({ kind: "check" }));
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
    const auto = make("label", "spt-field", this.auto, make("span", "", "after every change"));
    this.element = make("section", "spt-panel spt-check",
      make("div", "spt-row", make("b", "", "Live check"), this.run, this.stop, auto), this.bar, this.says, this.table);
    this.update();
  }

  update() {
    const { model, selection, data } = this.ui, check = model.get("_check");
    const lost = Boolean(this.ui.lost), busy = !lost && (check.state === "queued" || check.state === "running");
    const own = check.heads.length === selection.cells.length && check.heads.every((i) => selection.has(i));
    this.run.disabled = !data.canCheck || lost || busy || !selection.cells.length;
    this.stop.disabled = !busy;
    this.auto.disabled = !data.canCheck || lost;
    this.auto.checked = model.get("_auto");
    this.bar.hidden = !busy;
    this.bar.firstChild.style.width = `${100 * check.done}%`;
    const stale = check.rows.length && !own ? "Of an earlier selection. " : "";
    const says = lost && ["queued", "running"].includes(check.state) ? "Interrupted: disconnected." : check.says;
    this.says.textContent = data.canCheck ? stale + says : data.whyNoCheck;
    this.table.hidden = !check.rows.length;
    this.element.classList.toggle("spt-stale", Boolean(stale));
    const head = ["", "as it is", "chosen", "random"];
    this.table.replaceChildren(make("tr", "", ...head.map((text) => make("th", "", text))),
      ...check.rows.map((row) => make("tr", "", make("th", "", row[0]), ...row.slice(1).map((text) => make("td", "", text)))));
  }
}
