// Functions on the document that all modules share.
export const byId = (id) => document.getElementById(id);

export function make(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

export const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
export const seconds = (value) => `${value.toFixed(2)} s`;
export const span = ({ start, end }) => `${start.toFixed(2)}–${end.toFixed(2)} s`;

// A table of [start, end, surprise, has_video, has_audio]: the numbers of the curve.
export function chunkTable(rows) {
  const head = make("tr", {}, ...["From", "To", "Surprise", "Picture", "Sound"].map((text) => make("th", { scope: "col", textContent: text })));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows.map(chunkRow)));
}

export function chunkRow([start, end, surprise, seen, heard]) {
  const texts = [seconds(start), seconds(end), surprise == null ? "none" : surprise.toFixed(2), seen ? "yes" : "no", heard ? "yes" : "no"];
  return make("tr", {}, ...texts.map((text) => make("td", { textContent: text })));
}

export function showProblem(text) {
  byId("problem").textContent = text;
}

// Show the seconds that pass in a node, from 2 s on; return a function that stops it.
export function countSeconds(node) {
  const begin = performance.now();
  const timer = setInterval(() => {
    const passed = Math.floor((performance.now() - begin) / 1000);
    if (passed > 1) node.textContent = `${passed} s`;
  }, 500);
  return () => { clearInterval(timer); node.textContent = ""; };
}
