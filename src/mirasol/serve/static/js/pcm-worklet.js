// Microphone -> 16-bit PCM in blocks of 0.16 s at the context's 16 kHz.
const BLOCK = 2560;

class Pcm extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(BLOCK);
    this.filled = 0;
  }

  process([[channel]]) {
    for (const sample of channel || []) {
      this.block[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.filled < BLOCK) continue;
      this.port.postMessage(this.block.buffer, [this.block.buffer]);
      this.block = new Int16Array(BLOCK);
      this.filled = 0;
    }
    return true;
  }
}
registerProcessor("pcm", Pcm);
