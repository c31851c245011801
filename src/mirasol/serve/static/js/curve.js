// Surprise as steps over seconds, in the colours of the theme; redrawn when theme or width changes.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Curve {
  constructor(box, left = 0) {
    Object.assign(this, { box, left, data: [[], []], range: [0, 1], plot: null });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.build());
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(box);
  }

  size() {
    return { width: Math.max(this.box.clientWidth, 60), height: this.box.clientHeight };
  }

  // chunks: [start, end, surprise]; range: seconds shown.
  set(chunks, range) {
    this.data = [[], []];
    const add = (time, value) => { this.data[0].push(time); this.data[1].push(value); };
    for (const [i, [start, end, surprise]] of chunks.entries()) {
      add(start, surprise ?? null);
      if (surprise != null && chunks[i + 1]?.[2] == null) add(end - 1e-6, surprise); // a step ends where no chunk follows
    }
    this.range = range;
    if (!this.plot) return this.build();
    this.plot.setData(this.data, false);
    this.plot.setScale("x", { min: range[0], max: range[1] });
  }

  // Label of a tick; empty at the edges, where it would be cut.
  label(tick) {
    const [from, to] = this.range, share = (tick - from) / (to - from);
    return share > 0.97 || (share < 0.03 && !this.left) ? "" : `${+tick.toFixed(2)} s`;
  }

  build() {
    if (!this.box.clientWidth) return; // a hidden box is drawn when it is shown
    this.plot?.destroy();
    const axis = { stroke: css("--quiet"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line") }, font: "12px system-ui" };
    const y = this.left ? { ...axis, size: this.left } : { show: false };
    this.plot = new uPlot({
      ...this.size(), padding: [6, 0, 0, 0], legend: { show: false }, cursor: { show: false },
      scales: { x: { time: false, range: () => this.range }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(1, (high ?? 1) * 1.1)] } },
      axes: [{ ...axis, size: 26, space: 44, values: (_, ticks) => ticks.map((tick) => this.label(tick)) }, y],
      series: [{}, { stroke: css("--mark-line"), fill: css("--mark"), width: 2, points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) }],
    }, this.data, this.box);
  }
}
