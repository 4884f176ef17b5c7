// plotly.js comes from Python, once for all pickers of a page, as gzip bytes; nothing is loaded from the network.

async function importPlotly(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const code = await new Response(stream).text();
  // Its own `module`, so that neither the page's Plotly nor its AMD loader is touched; it sets window.Plotly in passing.
  const before = Object.getOwnPropertyDescriptor(window, "Plotly");
  const source = `const module = { exports: {} }; const define = undefined;\n${code}\nexport default module.exports;`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  try {
    return (await import(url)).default;
  } finally {
    URL.revokeObjectURL(url);
    if (before) Object.defineProperty(window, "Plotly", before);
  }
}

// ask(): sends for the bytes; resolves to them, however long a busy kernel takes. Pickers that are shown at once share
// one answer; a kernel that is gone never gives one, so after three seconds a picker asks its own.
function plotlyOnce(version, ask) {
  const all = (window.__spt_lens_plotly ??= {});
  const shared = (all[version] ??= { asked: 0, loading: null });
  shared.promise ??= new Promise((resolve, reject) => Object.assign(shared, { resolve, reject }));
  const send = () => {
    if (shared.loading) return;
    shared.asked = Date.now();
    ask().then((bytes) => (shared.loading ??= importPlotly(bytes))).then(shared.resolve, (error) => {
      delete all[version]; // the next picker may try again
      shared.reject(error);
    });
  };
  if (Date.now() - shared.asked > 3000) send();
  else setTimeout(send, 3000);
  return shared.promise;
}

function askByMessage(model) {
  return new Promise((resolve) => {
    const hear = (message, buffers) => {
      if (message?.kind !== "plotly") return;
      model.off("msg:custom", hear);
      const view = buffers[0];
      resolve(view.buffer ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(view));
    };
    model.on("msg:custom", hear);
    model.send({ kind: "plotly" });
  });
}

// Light or dark, by the colour that really is behind the widget: it needs to know no front end.

function backgroundOf(element) {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, a = 1] = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) ?? []).map(Number);
    if (a > 0.5 && r !== undefined) return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? 0 : 1;
}

// Two-sided scales run from blue over the background's own colour to orange or red, one-sided ones from there to green;
// colour-blind readers tell them apart. The light ones come from Python.
const THEMES = {
  light: {
    ink: "#1b1b1b", halo: "#ffffff", gap: "#dddddd",
  },
  dark: {
    scale: [[0, "#6cb6ff"], [0.25, "#2f6ea8"], [0.5, "#26282b"], [0.75, "#b0532f"], [1, "#ff9d6b"]],
    one: [[0, "#26282b"], [0.5, "#2a7d68"], [1, "#7be0c0"]],
    ink: "#ececec", halo: "#000000", gap: "#3a3d41",
  },
};

// Calls apply(name) now and whenever the page turns from light to dark or back. Returns a function that stops.
function followTheme(root, wanted, apply) {
  let current = null;
  const look = () => {
    const found = wanted === "auto" ? (backgroundOf(root.parentElement ?? document.body) < 0.5 ? "dark" : "light") : wanted;
    if (found !== current) apply((current = found));
  };
  look();
  const observer = new MutationObserver(look);
  for (const element of [document.documentElement, document.body]) observer.observe(element, { attributes: true });
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", look);
  // JupyterLab sets a theme's colours a moment after its attributes.
  const later = setInterval(look, 1000);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", look);
    clearInterval(later);
  };
}
