// Camera and microphone -> pieces {audio, audio_start, video_frames, timestamps} on one clock that begins at 0.
const RATE = 16000, PIECE = 0.16, SIDE = 192; // Hz, s, pixels; the model uses the middle square of the picture

// Return why the page cannot use a camera, or "".
export function whyNot() {
  if (!isSecureContext) return `Browsers allow camera and microphone only on encrypted pages, and ${location.origin} is not encrypted. Start the server with mirasol serve --tls and open its https:// address, or open this page on the server's own machine at http://127.0.0.1. Clips work without encryption.`;
  if (!navigator.mediaDevices?.getUserMedia) return "This browser has no camera for pages. Clips work.";
  return "";
}

export function inWords(error) {
  const known = {
    NotAllowedError: "The browser refused camera or microphone. Allow them for this page (symbol beside the address) and start again.",
    NotFoundError: "No suitable camera or microphone was found. Connect one, or switch off the missing one.",
    NotReadableError: "Another program uses the camera or microphone. Close it there and start again.",
    NotSupportedError: "This browser cannot record the microphone at 16 kHz (Firefox cannot). Use another browser, or switch the microphone off.",
  };
  return known[error.name] || error.message;
}

export class Capture {
  // onPiece receives about 6 pieces a second.
  static async open(view, { video, audio, framesPerSecond }, onPiece) {
    const wanted = { video: video && { width: { ideal: 320 }, height: { ideal: 320 }, frameRate: { ideal: 25 } }, audio: audio && { echoCancellation: false, noiseSuppression: false, autoGainControl: false } };
    const capture = new Capture();
    Object.assign(capture, { view, onPiece, framesPerSecond, frames: [], times: [], heard: 0, silent: 0, timers: [] });
    capture.stream = await navigator.mediaDevices.getUserMedia(wanted);
    try {
      await capture.start(video, audio);
    } catch (error) {
      capture.stop();
      throw error;
    }
    return capture;
  }

  async start(video, audio) {
    if (video) {
      this.view.srcObject = this.stream;
      await this.view.play();
      this.canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
      this.pen = this.canvas.getContext("2d", { alpha: false });
      this.pen.imageSmoothingQuality = "high";
      this.timers.push(setInterval(() => this.grab(), 1000 / this.framesPerSecond));
    }
    this.begin = performance.now();
    if (!audio) return void this.timers.push(setInterval(() => this.emit({}), 1000 * PIECE));
    this.context = new AudioContext({ sampleRate: RATE });
    await this.context.audioWorklet.addModule(new URL("pcm-worklet.js", import.meta.url));
    const node = new AudioWorkletNode(this.context, "pcm", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    this.context.createMediaStreamSource(this.stream).connect(node);
    node.port.onmessage = ({ data }) => {
      // The sound is the clock: a picture has the second of the sound at which it was taken.
      if (!this.heard) {
        this.begin = performance.now() - 1000 * PIECE;
        this.frames = [];
        this.times = [];
        this.silent = this.stopped;
      }
      const slept = this.stopped - this.silent; // the sound stopped: a closed laptop, or a phone call
      if (slept > 1) {
        this.heard += Math.round(slept * RATE);
        this.silent += slept;
      }
      const audioStart = this.heard / RATE;
      this.heard += data.byteLength / 2;
      this.emit({ audio: base64(data), audio_start: audioStart });
    };
    await this.context.resume();
  }

  // Seconds of the page's clock that the sound's clock lacks.
  get stopped() {
    return performance.now() / 1000 - this.context.currentTime;
  }

  // Restart the time at 0.
  restart() {
    Object.assign(this, { heard: 0, frames: [], times: [], begin: performance.now() });
  }

  get seconds() {
    return (performance.now() - this.begin) / 1000;
  }

  grab() {
    const { videoWidth: width, videoHeight: height } = this.view, side = Math.min(width, height);
    if (!side) return;
    this.pen.drawImage(this.view, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIDE, SIDE);
    this.frames.push(this.canvas.toDataURL("image/jpeg", 0.85).split(",")[1]);
    this.times.push(this.seconds);
    if (this.frames.length > 60) { this.frames.shift(); this.times.shift(); }
  }

  emit(piece) {
    if (this.frames.length) Object.assign(piece, { video_frames: this.frames, timestamps: this.times });
    this.frames = [];
    this.times = [];
    if (piece.audio || piece.video_frames) this.onPiece(piece);
  }

  stop() {
    this.timers.forEach(clearInterval);
    this.stream.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.view.srcObject = null;
  }
}

function base64(buffer) {
  let text = "";
  for (const byte of new Uint8Array(buffer)) text += String.fromCharCode(byte);
  return btoa(text);
}
