// Sound of a file -> samples and spectrogram.
const RATE = 16000, SIZE = 512, LONGEST = 1200; // Hz, 32 ms, s
export const RANGE_DB = 70;

// Return the sound of a watched file, or null and the reason.
export async function soundOf(blob, facts) {
  if (!facts.use_audio) return [null, "The sound is switched off for the model."];
  if (!blob) return [null, "The server no longer has the file."];
  if (facts.audio === "not found") return [null, "This clip has no sound."];
  if (facts.seconds > LONGEST) return [null, `The sound is drawn for clips of up to ${LONGEST / 60} minutes.`];
  try {
    const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await blob.arrayBuffer());
    return [{ samples: sound.getChannelData(0), rate: RATE, seconds: sound.duration }, ""];
  } catch {
    return [null, "This browser cannot decode the sound; the model used it."];
  }
}

// Levels of `columns` moments, SIZE / 2 frequencies each, from 0 (quiet) to 1.
export function spectrogram({ samples }, columns) {
  const bins = SIZE / 2, levels = new Float32Array(columns * bins);
  const window = Float32Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
  const re = new Float32Array(SIZE), im = new Float32Array(SIZE);
  let loudest = -Infinity;
  for (let column = 0; column < columns; column++) {
    const from = Math.round(((column + 0.5) / columns) * samples.length) - SIZE / 2;
    for (let i = 0; i < SIZE; i++) re[i] = (samples[from + i] || 0) * window[i];
    im.fill(0);
    transform(re, im);
    for (let bin = 0; bin < bins; bin++) {
      const level = 10 * Math.log10(re[bin] ** 2 + im[bin] ** 2 + 1e-10);
      levels[column * bins + bin] = level;
      loudest = Math.max(loudest, level);
    }
  }
  return { bins, levels: levels.map((level) => Math.max(0, 1 + (level - loudest) / RANGE_DB)) };
}

// Fourier transform in place; the length is a power of 2.
function transform(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) { [re[i], re[j]] = [re[j], re[i]]; [im[i], im[j]] = [im[j], im[i]]; }
  }
  for (let length = 2; length <= n; length *= 2) {
    const half = length / 2;
    for (let k = 0; k < half; k++) {
      const c = Math.cos((2 * Math.PI * k) / length), s = -Math.sin((2 * Math.PI * k) / length);
      for (let i = k; i < n; i += length) {
        const j = i + half, a = re[j] * c - im[j] * s, b = re[j] * s + im[j] * c;
        re[j] = re[i] - a; im[j] = im[i] - b; re[i] += a; im[i] += b;
      }
    }
  }
}
