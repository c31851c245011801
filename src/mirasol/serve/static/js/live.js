// The live view: camera and microphone over a connection, with answers and surprise.
import { Answer } from "./answers.js";
import { persist } from "./api.js";
import { Capture, inWords, whyNot } from "./capture.js";
import { Connection } from "./connection.js";
import { Curve } from "./curve.js";
import { byId, chunkRow, chunkTable, countSeconds, seconds } from "./dom.js";

const SHOWN = 60, REPEAT = 2000, TOO_MUCH_WAITING = 2e6; // seconds, ms, bytes
let curve, connection = null, capture = null, answer = null, chunks = [], asking = 0, drawing = 0, unsent = 0, sentFrames = [], model = {};

let endCount = () => {};

function say(text) {
  endCount();
  byId("live-status").textContent = text;
}

// Show a text with the seconds that pass.
function wait(text) {
  say(`${text} …`);
  endCount = countSeconds(byId("live-elapsed"));
}

async function start() {
  const video = byId("live-video").checked, audio = byId("live-audio").checked;
  if (!video && !audio) return say("Switch on camera or microphone first.");
  const opening = new Connection(
    { chunks: true, attribute: true, when_behind: "skip", use_video: video, use_audio: audio },
    { onEvent, onError, onLost, onBack, onEnd: stop },
  );
  connection = opening;
  chunks = [];
  sentFrames = [];
  unsent = 0;
  setRunning("opening");
  try {
    wait("Connecting");
    await persist(() => opening.open(), wait);
    wait("Opening camera and microphone; the browser may ask for your consent");
    const opened = await Capture.open(byId("camera"), { video, audio, framesPerSecond: model.frames_per_second || 12.5 }, push);
    if (opening !== connection) return opened.stop(); // stopped while it opened
    capture = opened;
    setRunning("on", video);
    say("");
    tellLosses({});
    drawCurve();
    tabulate();
  } catch (error) {
    if (opening === connection) stop(inWords(error));
  }
}

function push(piece) {
  const now = performance.now();
  if (!connection?.isOpen) return;
  if (connection.waiting > TOO_MUCH_WAITING) unsent++; // on a slow network a gap is better than growing lag
  else connection.send("input_audio_buffer.append", piece);
  sentFrames.push([now, piece.video_frames?.length || 0]);
  sentFrames = sentFrames.filter(([time]) => time > now - 3000);
  byId("rate").textContent = Math.round(sentFrames.reduce((sum, [, count]) => sum + count, 0) / Math.max(0.16, (now - sentFrames[0][0]) / 1000 || 0.16));
}

function onEvent(event) {
  if (event.type === "mirasol.chunk") {
    chunks = [...chunks, event].filter(({ end }) => end > event.end - SHOWN);
    byId("watched").textContent = `${event.end.toFixed(1)} s`;
    byId("lag").textContent = seconds(Math.max(event.lag_seconds, (capture?.seconds ?? event.end) - event.end));
    byId("dropped").textContent = (event.dropped.skipped_chunks || 0) + unsent;
    tellLosses(event.dropped);
    drawing ||= requestAnimationFrame(drawCurve); // chunks that arrive together are drawn once
    addRow();
  } else if (event.type === "response.output_text.delta") answer?.add(event.delta);
  else if (event.type === "response.done" && answer) {
    const { status, status_details: details, mirasol, output } = event.response;
    if (status === "failed") answer.fail(details?.error || new Error("The server could not answer."), ask);
    else {
      if (!answer.told) answer.add(output[0]?.content[0]?.text || "");
      answer.finish(mirasol || {});
    }
    answer = null;
  }
}

function onError(message) {
  say(message);
  answer?.fail(new Error(message), ask);
  answer = null;
}

function onLost() {
  answer?.fail(new Error("The connection broke off before the answer."), ask);
  answer = null;
  byId("live-losses").textContent = "";
  byId("lag").textContent = "–";
  wait("The connection to the server broke off. Reconnecting; camera and microphone stay on");
}

// session: whether it was resumed, and up to which second it is watched.
function onBack({ resumed, seconds: watched }) {
  if (!resumed) {
    capture?.restart();
    chunks = [];
    tabulate();
    return say("The connection is back, but the server no longer has this session. A new one has begun, without the media before it.");
  }
  const now = capture?.seconds ?? watched;
  say(`The connection is back. The model missed what happened from ${watched.toFixed(1)} to ${now.toFixed(1)} s, and still knows what came before.`);
}

function tellLosses({ skipped_chunks: skipped, ...others }) {
  const units = (name, count) => (name.endsWith("_seconds") ? `${count.toFixed(1)} s of ${name.slice(0, -8).replaceAll("_", " ")}` : `${count} ${name.replaceAll("_", " ")}`);
  const lost = Object.entries(others).map(([name, count]) => units(name, count));
  if (skipped) lost.unshift("chunks skipped because the server is too slow for this stream");
  if (unsent) lost.unshift("pieces not sent because the network is too slow");
  const text = lost.length ? `The model watches, with losses: ${lost.join(", ")}.` : "The model watches.";
  if (byId("live-losses").textContent !== text) byId("live-losses").textContent = text;
}

function drawCurve() {
  drawing = 0;
  const end = Math.max(chunks.at(-1)?.end || 0, 10);
  curve.set(chunks.map(({ start, end, surprise }) => [start, end, surprise]), [Math.max(0, end - SHOWN), end]);
}

const table = () => byId("live-chunks").querySelector(".scroll");
const cells = (chunk) => [chunk.start, chunk.end, chunk.surprise, chunk.has_video, chunk.has_audio];
const tabulate = () => table().replaceChildren(chunkTable([...chunks].reverse().map(cells)));

// Add the newest chunk at the top. The table is not rebuilt, so that its reader keeps the place.
function addRow() {
  if (!byId("live-chunks").open) return;
  const body = table().querySelector("tbody");
  body.prepend(chunkRow(cells(chunks.at(-1))));
  while (body.rows.length > chunks.length) body.lastElementChild.remove();
}

function ask() {
  const question = byId("live-question").value.trim();
  if (!question) return say("Write a question first.");
  if (!capture) return say("Start camera or microphone first.");
  if (!connection.isOpen) return say("The connection is broken. Ask again when it is back.");
  if (answer) return;
  answer = new Answer(byId("live-answers"), `${question} at ${capture.seconds.toFixed(1)} s`);
  connection.send("response.create", { response: { input: [{ type: "message", role: "user", content: [{ type: "input_text", text: question }] }] } });
}

function repeat() {
  clearInterval(asking);
  const wanted = byId("live-repeat").checked && capture;
  asking = wanted ? setInterval(() => connection.isOpen && byId("live-question").value.trim() && ask(), REPEAT) : 0;
}

// state: "off", "opening" or "on".
function setRunning(state, video = false) {
  byId("live-start").hidden = state !== "off";
  byId("live-start").disabled = whyNot() !== "";
  byId("live-stop").hidden = state === "off";
  byId("live-stop").textContent = state === "opening" ? "Cancel" : "Stop";
  byId("live-video").disabled = byId("live-audio").disabled = state !== "off";
  byId("camera-off").textContent = state !== "on" ? "Camera and microphone are off" : video ? "" : "Listening; the camera is off";
  if (state === "opening") byId("live-stop").focus();
}

export function stop(text) {
  if (!connection) return;
  capture?.stop();
  connection.end();
  capture = connection = null;
  answer?.fail(new Error("Stopped before the answer."));
  answer = null;
  setRunning("off");
  repeat();
  byId("live-losses").textContent = "";
  say(text);
}

// facts: facts about the model.
export function setUp(facts) {
  if (connection) return; // a session is open
  model = facts;
  curve ??= new Curve(byId("live-surprise"), 40);
  byId("live-refused").textContent = whyNot();
  byId("live-refused").hidden = whyNot() === "";
  setRunning("off");
  byId("live-audio").checked = facts.hears !== false;
}

byId("live-start").addEventListener("click", async () => { await start(); repeat(); byId(capture ? "live-question" : "live-start").focus(); });
byId("live-stop").addEventListener("click", () => { stop("Stopped: camera and microphone are released."); byId("live-start").focus(); });
byId("live-form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
byId("live-repeat").addEventListener("change", repeat);
byId("live-chunks").addEventListener("toggle", tabulate);
addEventListener("pagehide", () => stop(""));

// A hidden box has no width, so that the curve is drawn when the view is shown.
export const shown = () => drawCurve();
