// Light or dark, by the colour that really is behind the widget: it needs to know no front end.

function backgroundOf(element) {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, a = 1] = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) ?? []).map(Number);
    if (a > 0.5 && r !== undefined) return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? 0 : 1;
}

// Both scales run from blue over the background's own colour to orange or red, which colour-blind readers tell apart.
// The light one is that of the Python figures, and comes from there.
const THEMES = {
  light: {
    ink: "#1b1b1b", halo: "#ffffff", gap: "#dddddd",
  },
  dark: {
    scale: [[0, "#6cb6ff"], [0.25, "#2f6ea8"], [0.5, "#26282b"], [0.75, "#b0532f"], [1, "#ff9d6b"]],
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
