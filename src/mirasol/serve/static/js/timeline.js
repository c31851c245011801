// Waveform, spectrogram, surprise and attributed seconds on one time axis; a click seeks.
import { Curve } from "./curve.js";
import { byId, chunkTable, make, seconds } from "./dom.js";
import { spectrogram } from "./spectrum.js";

const MIDDLE = { light: [[250, 246, 238], [205, 150, 70], [70, 35, 60]], dark: [[24, 22, 26], [150, 80, 60], [255, 220, 150]] };
const dark = matchMedia("(prefers-color-scheme: dark)");

export class Timeline {
  constructor(seek) {
    this.curve = new Curve(byId("surprise"));
    this.length = 1;
    this.now = make("div", { className: "now" });
    byId("marks").addEventListener("click", (event) => {
      const box = byId("marks").getBoundingClientRect();
      seek(((event.clientX - box.left) / box.width) * this.length);
    });
    byId("seek").addEventListener("input", () => seek(+byId("seek").value));
    dark.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(byId("timeline"));
  }

  // sound: samples, or null, and then the reason in `without`; facts: facts about the clip.
  show(sound, without, facts) {
    byId("no-sound").textContent = without;
    Object.assign(this, { sound, length: facts.seconds || 1 });
    const rows = facts.chunk_times.map(([start, end], i) => [start, end, facts.surprise[i], facts.has_video[i], facts.has_audio[i]]);
    this.curve.set(rows, [0, this.length]);
    byId("chunks").querySelector(".scroll").replaceChildren(chunkTable(rows));
    byId("seek").max = this.length;
    this.mark([]);
    this.at(0);
    this.draw();
  }

  mark(spans) {
    const share = (value) => `${(100 * value) / this.length}%`;
    byId("marks").replaceChildren(this.now, ...spans.map(({ start, end }, i) => {
      const mark = make("div", { className: "mark" }, make("b", { textContent: i + 1 }));
      Object.assign(mark.style, { left: share(start), width: share(end - start) });
      return mark;
    }));
  }

  at(time) {
    this.now.style.left = `${Math.min(100, (100 * time) / this.length)}%`;
    byId("seek").value = time;
    byId("seek").setAttribute("aria-valuetext", `${seconds(time)} of ${seconds(this.length)}`);
  }

  draw() {
    const wave = byId("wave"), picture = byId("spectrogram");
    for (const canvas of [wave, picture]) canvas.parentElement.hidden = !this.sound;
    if (!wave.clientWidth) return; // hidden, or nothing to draw
    for (const canvas of [wave, picture]) {
      canvas.width = canvas.clientWidth * devicePixelRatio;
      canvas.height = canvas.clientHeight * devicePixelRatio;
    }
    const pen = wave.getContext("2d");
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--wave");
    const { samples, rate } = this.sound, perPixel = (this.length * rate) / wave.width;
    const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 1e-3);
    for (let x = 0; x < wave.width; x++) {
      let low = 0, high = 0;
      for (let i = Math.floor(x * perPixel); i < Math.min((x + 1) * perPixel, samples.length); i++) {
        low = Math.min(low, samples[i]);
        high = Math.max(high, samples[i]);
      }
      const scale = (0.48 * wave.height) / peak;
      pen.fillRect(x, wave.height / 2 - high * scale, 1, Math.max(1, (high - low) * scale));
    }
    this.paint(picture);
  }

  paint(canvas) {
    const length = Math.min(this.sound.seconds, this.length);
    const columns = Math.max(1, Math.min(1200, Math.round((canvas.width * length) / this.length)));
    const heard = { ...this.sound, samples: this.sound.samples.subarray(0, Math.round(length * this.sound.rate)) };
    const { bins, levels } = spectrogram(heard, columns);
    const image = new ImageData(columns, bins), colours = MIDDLE[dark.matches ? "dark" : "light"];
    for (let x = 0; x < columns; x++) {
      for (let bin = 0; bin < bins; bin++) {
        const level = levels[x * bins + bin] * 2, part = level < 1 ? 0 : 1, at = 4 * ((bins - 1 - bin) * columns + x);
        for (let c = 0; c < 3; c++) image.data[at + c] = colours[part][c] + (level - part) * (colours[part + 1][c] - colours[part][c]);
        image.data[at + 3] = 255;
      }
    }
    const small = new OffscreenCanvas(columns, bins);
    small.getContext("2d").putImageData(image, 0, 0);
    canvas.getContext("2d").drawImage(small, 0, 0, (canvas.width * length) / this.length, canvas.height);
  }
}
