// One head beside the map: its report, and its attention on a dialogue, drawn by circuitsvis in a frame of its own.

class DetailsPanel {
  constructor(ui) {
    this.ui = ui;
    this.title = make("b", "", "A head");
    this.says = make("div", "spt-says", ui.data.canShow ? "Choose a head to see where it looks and what it writes." : ui.data.whyNoShow);
    this.report = make("div", "spt-report");
    this.frame = make("iframe", "spt-attention");
    this.frame.setAttribute("sandbox", "allow-scripts");
    this.frame.title = "attention of the head";
    this.frame.hidden = true;
    this.element = make("section", "spt-panel spt-details", make("div", "spt-row", this.title), this.says, this.frame, this.report);
    this.script = null;
    this.wanted = null;
    window.addEventListener("message", (this.hear = (event) => {
      if (event.source === this.frame.contentWindow && event.data?.spt_height) this.frame.style.height = `${event.data.spt_height}px`;
    }));
  }

  dispose() {
    window.removeEventListener("message", this.hear);
  }

  // Asks for a head; the last one asked for is shown.
  ask(i) {
    if (!this.ui.data.canShow || this.ui.lost) return;
    this.wanted = i;
    this.title.textContent = headName(i, this.ui.data.nHeads);
    this.says.textContent = "…";
    this.waits(true);
    this.ui.send({ kind: "details", head: i, script: this.script === null });
  }

  take(message) {
    if (message.script) this.script = message.script;
    if (message.head !== this.wanted) {
      // Another view of this picker asked later, and only the last wish is granted: ask again.
      if (this.waiting) setTimeout(() => this.waiting && this.ask(this.wanted), 300);
      return;
    }
    this.waits(false);
    this.says.textContent = message.error ?? message.says;
    this.report.innerHTML = message.report ?? ""; // made by HeadReport, which escapes all text from data
    this.frame.hidden = !message.attention;
    if (message.attention) this.drawAttention(message.attention);
  }

  // What is shown is of another head until the answer comes.
  waits(waiting) {
    this.waiting = waiting;
    this.element.classList.toggle("spt-stale", waiting);
  }

  lost() {
    if (this.waiting) this.says.textContent = "Disconnected.";
    this.waiting = false;
  }

  // In a light frame in both themes: circuitsvis draws for a white page.
  drawAttention(values) {
    const data = JSON.stringify(values).replaceAll("<", "\\u003c");
    this.frame.srcdoc = `<!DOCTYPE html><meta charset="utf-8">
      <meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:">
      <style>body { margin: 0; font: 13px system-ui, "DejaVu Sans", sans-serif; color: #1b1b1b; background: #fff }</style>
      <div id="attention"></div><script>${this.script}<\/script>
      <script>
        CircuitsVis.render("attention", CircuitsVis.AttentionHeads, ${data});
        new ResizeObserver(() => parent.postMessage({ spt_height: document.documentElement.scrollHeight }, "*")).observe(document.body);
      <\/script>`;
  }
}
