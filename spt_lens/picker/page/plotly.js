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

// ask(): sends for the bytes; resolves to them, however long a busy kernel takes.
function plotlyOnce(version, ask) {
  const shared = (window.__spt_lens_plotly ??= {});
  shared[version] ??= ask().then(importPlotly);
  // After a failure the next picker may try again.
  shared[version].catch(() => delete shared[version]);
  return shared[version];
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
