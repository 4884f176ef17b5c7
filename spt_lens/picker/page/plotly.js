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
