// The live view: camera and microphone over /v1/realtime, answers and surprise as they come.
import { Answer } from "./answers.js";
import { AWAY, apiKey, serverIsAway } from "./api.js";
import { Capture, inWords, whyNot } from "./capture.js";
import { Curve } from "./curve.js";
import { byId, chunkTable, seconds } from "./dom.js";

const SHOWN = 60, REPEAT = 2000, TOO_MUCH_WAITING = 2e6; // seconds, ms, bytes
let curve, socket = null, capture = null, answer = null, chunks = [], asking = 0, unsent = 0, sentFrames = [], model = {};

const say = (text) => { byId("live-status").textContent = text; };
const send = (type, values = {}) => socket?.readyState === 1 && socket.send(JSON.stringify({ type, ...values }));

async function start() {
  const video = byId("live-video").checked, audio = byId("live-audio").checked;
  if (!video && !audio) return say("Switch on camera or microphone first.");
  byId("live-start").disabled = true;
  say("Asking for camera and microphone …");
  try {
    await connect(video, audio);
    chunks = [];
    sentFrames = [];
    unsent = 0;
    capture = await Capture.open(byId("camera"), { video, audio, framesPerSecond: model.frames_per_second || 12.5 }, push);
    if (!socket) return stop(); // it broke off meanwhile
    setRunning(true, video);
    say("");
    tellLosses({});
  } catch (error) {
    stop(inWords(error));
  }
}

function connect(video, audio) {
  const address = `${location.origin.replace(/^http/, "ws")}/v1/realtime?model=mirasol`;
  const opening = new WebSocket(address, apiKey() ? ["realtime", `openai-insecure-api-key.${apiKey()}`] : ["realtime"]);
  return new Promise((resolve, reject) => {
    let problem = "";
    opening.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "session.created") {
        socket = opening;
        const format = { type: "audio/pcm", rate: 16000 };
        send("session.update", { session: { type: "realtime", audio: { input: { format } }, mirasol: { chunks: true, attribute: true, when_behind: "skip", use_video: video, use_audio: audio } } });
      } else if (event.type === "session.updated") resolve();
      else if (event.type === "error") { problem = event.error.message; say(problem); answer?.fail(event.error); answer = null; }
      else handle(event);
    };
    opening.onclose = ({ code }) => {
      const text = problem || (code === 1012 ? "The server stops or restarts." : socket ? "The connection to the server broke off. Start again." : AWAY);
      reject(new Error(text));
      if (socket !== opening) return socket || serverIsAway();
      socket = null;
      stop(text);
    };
  });
}

function push(piece) {
  if (socket?.bufferedAmount > TOO_MUCH_WAITING) unsent++; // a slow network: rather a gap than ever more delay
  else send("input_audio_buffer.append", piece);
  const now = performance.now();
  sentFrames.push([now, piece.video_frames?.length || 0]);
  sentFrames = sentFrames.filter(([time]) => time > now - 3000);
  byId("rate").textContent = Math.round(sentFrames.reduce((sum, [, count]) => sum + count, 0) / Math.max(0.16, (now - sentFrames[0][0]) / 1000 || 0.16));
}

function handle(event) {
  if (event.type === "mirasol.chunk") {
    chunks = [...chunks, event].filter(({ end }) => end > event.end - SHOWN);
    byId("watched").textContent = `${event.end.toFixed(1)} s`;
    byId("lag").textContent = seconds(Math.max(event.lag_seconds, (capture?.seconds ?? event.end) - event.end));
    byId("dropped").textContent = (event.dropped.skipped_chunks || 0) + unsent;
    tellLosses(event.dropped);
    drawCurve();
  } else if (event.type === "response.output_text.delta") answer?.add(event.delta);
  else if (event.type === "response.done" && answer) {
    const { status, status_details: details, mirasol, output } = event.response;
    if (status === "failed") answer.fail(details?.error || new Error("The server could not answer."));
    else {
      if (!answer.told) answer.add(output[0]?.content[0]?.text || "");
      answer.finish(mirasol || {});
    }
    answer = null;
  }
}

function tellLosses({ skipped_chunks: skipped, ...others }) {
  const lost = Object.entries(others).map(([name, count]) => `${count} ${name.replaceAll("_", " ")}`);
  if (skipped) lost.unshift("chunks left out because the server is too slow for this stream");
  if (unsent) lost.unshift("pieces not sent because the network is too slow");
  const text = lost.length ? `The model watches, with losses: ${lost.join(", ")}.` : "The model watches.";
  if (byId("live-losses").textContent !== text) byId("live-losses").textContent = text;
}

function drawCurve() {
  const end = Math.max(chunks.at(-1)?.end || 0, 10);
  curve.set(chunks.map(({ start, end, surprise }) => [start, end, surprise]), [Math.max(0, end - SHOWN), end]);
  if (byId("live-chunks").open) tabulate();
}

const tabulate = () => byId("live-chunks").querySelector(".scroll").replaceChildren(
  chunkTable([...chunks].reverse().map((chunk) => [chunk.start, chunk.end, chunk.surprise, chunk.has_video, chunk.has_audio])));

function ask() {
  const question = byId("live-question").value.trim();
  if (!question || answer || !socket) return;
  answer = new Answer(byId("live-answers"), `${question} at ${capture.seconds.toFixed(1)} s`);
  send("response.create", { response: { input: [{ type: "message", role: "user", content: [{ type: "input_text", text: question }] }] } });
}

function repeat() {
  clearInterval(asking);
  asking = byId("live-repeat").checked && socket ? setInterval(ask, REPEAT) : 0;
}

function setRunning(running, video = false) {
  byId("live-start").hidden = running;
  byId("live-start").disabled = !running && whyNot() !== "";
  byId("live-stop").hidden = !running;
  byId("live-video").disabled = byId("live-audio").disabled = running;
  byId("live-form").querySelector("button").disabled = !running;
  byId("camera-off").hidden = running && video;
  byId("camera-off").textContent = running ? "Listening; the camera is off" : "Camera and microphone are off";
}

export function stop(text = "") {
  capture?.stop();
  capture = null;
  const closing = socket;
  socket = null;
  closing?.close(1000);
  answer?.fail(new Error("Stopped before the answer came."));
  answer = null;
  setRunning(false);
  repeat();
  byId("live-losses").textContent = "";
  say(text);
}

export function setUp(facts) {
  model = facts;
  curve ??= new Curve(byId("live-surprise"), 40);
  byId("live-refused").textContent = whyNot();
  byId("live-refused").hidden = whyNot() === "";
  setRunning(capture !== null);
  byId("live-audio").checked = facts.hears !== false;
}

byId("live-start").addEventListener("click", async () => { await start(); repeat(); if (capture) byId("live-question").focus(); });
byId("live-stop").addEventListener("click", () => { stop("Stopped: camera and microphone are released."); byId("live-start").focus(); });
byId("live-form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
byId("live-repeat").addEventListener("change", repeat);
byId("live-chunks").addEventListener("toggle", tabulate);
addEventListener("pagehide", () => stop());

// Drawn when the view is shown, because a hidden box has no width.
export const shown = () => drawCurve();
