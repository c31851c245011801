// The clip view: a file or sample is watched once, then takes any number of questions.
import { Answer } from "./answers.js";
import { askStreaming, call, content, get, persist, post, upload } from "./api.js";
import { byId, make } from "./dom.js";
import { busy, complain, say } from "./notice.js";
import { Player } from "./player.js";
import { soundOf } from "./spectrum.js";
import { Timeline } from "./timeline.js";

const SAMPLES = [
  { url: "starter/speech.mp4", name: "“Bin blue …”", says: "a spoken sentence, 3 s", question: "which color is named?" },
  { url: "samples/red.mp4", name: "“Bin red …”", says: "another sentence, 3 s", question: "what is said?" },
  { url: "starter/helicopter.mp4", name: "Helicopter", says: "picture without sound", question: "what flies?" },
];
const GONE = "The server no longer has the file of this clip, so that it cannot be played or watched with other tracks. Questions still work.";
const player = new Player((time) => timeline.at(time));
const timeline = new Timeline((time) => player.seek(time));
const own = { file: null, id: null }; // the clip's own file: a Blob, and its id on the server
const other = { file: null, id: null }; // the sound that replaces the clip's own
let clip = null, turn = new AbortController(), maxBytes = Infinity; // a newer turn cancels the older ones

function newTurn() {
  turn.abort();
  turn = new AbortController();
  return turn.signal;
}

// Do the work of a turn and show its error; return false if it failed or was cancelled.
async function inTurn(signal, work) {
  try {
    await persist(work, busy, signal);
    signal.throwIfAborted();
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    complain(error.message.replace(/<\d+ bytes>/, own.file?.name)); // the server's name for a file that it got as bytes
    goBack();
    return false;
  }
}

// Show the state before the turn that was cancelled or failed: the clip, or the start.
function goBack() {
  if (!clip) return showStart();
  byId("use-video").checked = clip.mirasol.use_video;
  byId("use-audio").checked = clip.mirasol.use_audio;
}

function showStart() {
  byId("work").hidden = true;
  byId("start").hidden = false;
  byId("file").value = "";
  byId("file").focus();
}

async function send(part, what, signal) {
  if (part.file.size > maxBytes) throw new Error(`${part.file.name} has ${megabytes(part.file.size)}; this server takes files up to ${megabytes(maxBytes)}. Cut the clip, or encode it smaller.`);
  part.id ??= await upload(part.file, (share) => busy(`Sending ${what}`, share), signal);
  return part.id;
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 24 ? 1 : 0)} MiB`;

// Watch the chosen file and tracks, and show the clip.
function watch() {
  const signal = newTurn(), use = { use_video: byId("use-video").checked, use_audio: byId("use-audio").checked };
  const kind = /^(audio|image)\//.exec(own.file.type)?.[1] || "video";
  const tell = async () => {
    const body = { ...use, [kind]: await send(own, "the clip", signal) };
    if (other.file) body.audio = await send(other, "the sound", signal);
    busy("The model watches");
    return (await post("/v1/clips", body, signal)).json();
  };
  return inTurn(signal, async () => {
    busy(own.id ? "The model watches" : "Sending the clip");
    const watched = await tell().catch((error) => {
      if (error.status !== 404) throw error;
      own.id = other.id = null; // the server removed the files to make room
      return tell();
    });
    if (!signal.aborted) await show(watched);
  });
}

function describe({ seconds, seconds_covered: covered, num_frames: frames, video, audio, warnings }) {
  const isPicture = seconds < 0.1, seen = covered < seconds - 0.5 ? `, of which ${covered.toFixed(1)} s were watched` : "";
  const length = [isPicture ? "" : `${seconds.toFixed(1)} s${seen}`, frames ? `${frames} ${frames === 1 ? "frame" : "frames"}` : ""];
  byId("facts").textContent = `Watched once: ${length.filter(Boolean).join(", ")}. Picture ${video}, sound ${audio}.`;
  byId("time").hidden = isPicture;
  byId("remarks").hidden = !warnings.length;
  byId("remarks").querySelector("summary").textContent = `Warnings about this file (${warnings.length})`;
  byId("remarks").querySelector("ul").replaceChildren(...warnings.map((text) => make("li", { textContent: text })));
}

async function show(watched) {
  clip = watched;
  const facts = clip.mirasol;
  if (location.hash !== `#clip=${clip.id}`) history.pushState(null, "", `#clip=${clip.id}`);
  byId("start").hidden = true;
  byId("work").hidden = false;
  byId("name").textContent = own.file?.name || "A watched clip";
  byId("use-video").checked = facts.use_video;
  byId("use-audio").checked = facts.use_audio;
  describe(facts);
  player.show(own.file, other.file, facts);
  const [sound, without] = await soundOf(other.file || own.file, facts);
  if (clip !== watched) return;
  timeline.show(sound, without, facts);
  say(own.file ? "" : GONE);
}

export async function begin(file, question = "") {
  Object.assign(own, { file, id: null });
  Object.assign(other, { file: null, id: null });
  clip = null;
  player.video.pause();
  byId("swap").value = "";
  byId("swap-file").hidden = true;
  byId("use-video").checked = byId("use-audio").checked = true;
  byId("answers").replaceChildren();
  byId("question").value = question;
  byId("work").hidden = true;
  byId("start").hidden = false;
  if (await watch()) byId("question").focus();
}

async function fromSample({ url, question }) {
  const signal = newTurn();
  let file;
  busy("Loading the sample");
  if (await inTurn(signal, async () => { file = await fetched(url); })) begin(file, question);
}

async function fetched(url) {
  return new File([await (await call(url)).blob()], url.split("/").at(-1), { type: "video/mp4" });
}

async function ask(question) {
  if (!question) return complain("Write a question first.");
  if (!clip) return;
  const answer = new Answer(byId("answers"), question);
  let asked = clip;
  const once = () => persist(() => askStreaming(asked.id, question, (piece) => answer.add(piece)), (why) => answer.wait(why));
  try {
    const extras = await once().catch(async (error) => {
      if (error.status !== 404 || asked !== clip || !own.file) throw error;
      answer.wait("The server no longer has this clip. It is sent and watched again");
      if (!(await watch())) throw error;
      asked = clip;
      return once();
    });
    const reveal = (i) => {
      for (const item of byId("answers").children) item.classList.toggle("shown", item === answer.item);
      timeline.mark(extras.attributed_to || []);
      if (i !== undefined) player.seek(extras.attributed_to[i].start);
    };
    const warnings = extras.warnings.filter((text) => !asked.mirasol.warnings.includes(text)); // the file's are shown once
    answer.finish({ ...extras, warnings }, reveal);
    if (asked === clip) reveal();
  } catch (error) {
    answer.fail(error, () => ask(question));
  }
}

// Show the clip of a link: #clip=clip_...
export async function openLink() {
  const id = /^#clip=(clip_\w+)$/.exec(location.hash)?.[1];
  if (!id && clip) return leave();
  if (!id || id === clip?.id) return;
  const signal = newTurn();
  byId("start").hidden = true;
  busy("Opening the clip of the link");
  await inTurn(signal, async () => {
    const watched = await get(`/v1/clips/${id}`, signal).catch((error) => {
      throw error.status === 404 ? new Error("This server does not have the clip of the link: the link is of another server, or the clip made room for newer ones. Choose the file again.") : error;
    });
    const files = watched.mirasol.files || {};
    for (const [part, ref] of [[own, files.video || files.image || (files.audio ?? null)], [other, files.video ? files.audio : null]]) {
      const kept = ref ? await content(ref).catch((error) => { if (error.status === 404) return null; throw error; }) : null;
      Object.assign(part, { id: ref, file: kept && new File([kept], part === own ? "Shared clip" : "Other sound", { type: kept.type }) });
    }
    if (signal.aborted) return;
    byId("answers").replaceChildren();
    await show(watched);
  });
}

function leave() {
  newTurn();
  clip = null;
  player.video.pause();
  say("");
  showStart();
}

async function swap(load) {
  const signal = newTurn();
  busy("Loading the sound");
  await inTurn(signal, async () => Object.assign(other, { file: await load(), id: null })) && watch();
}

async function share() {
  const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
  const local = /^(localhost|127\.|\[::1\])/.test(location.hostname);
  const reach = local ? "It works on this machine while the server has the clip." : "It works for everybody who reaches this server, while the server has the clip.";
  say(copied ? `Link copied. ${reach}` : `The link to this clip: ${location.href} ${reach}`, !copied);
}

function setUpSamples() {
  for (const sample of SAMPLES) {
    const preview = make("video", { src: sample.url, muted: true, preload: "metadata", tabIndex: -1 });
    preview.setAttribute("aria-hidden", "true");
    byId("samples").append(make("button", { onclick: () => fromSample(sample) }, preview, make("strong", { textContent: sample.name }), make("span", { textContent: sample.says })));
    if (sample !== SAMPLES.at(-1)) byId("swap").lastElementChild.before(make("option", { value: sample.url, textContent: `sample ${sample.name}` }));
  }
}

function setUpDrop() {
  byId("file").addEventListener("change", (event) => event.target.files[0] && begin(event.target.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); byId("drop").classList.toggle("over", name === "dragover"); });
  }
  document.addEventListener("drop", (event) => {
    if (event.dataTransfer.files[0] && !byId("clip").hidden) begin(event.dataTransfer.files[0]);
  });
}

function setUpChoices() {
  for (const id of ["use-video", "use-audio"]) {
    byId(id).addEventListener("change", ({ target }) => {
      const problem = !own.file ? GONE : byId("use-video").checked || byId("use-audio").checked ? "" : "The model needs picture or sound, so that one stays on.";
      if (!problem) return watch();
      target.checked = !target.checked;
      complain(problem);
    });
  }
  byId("swap").addEventListener("change", ({ target: { value } }) => {
    byId("swap-file").hidden = value !== "file";
    if (!own.file) return complain(GONE);
    if (value === "file") return byId("swap-file").click();
    swap(() => (value ? fetched(value) : null));
  });
  byId("swap-file").addEventListener("change", ({ target }) => target.files[0] && swap(() => target.files[0]));
}

// facts: of the model.
export function tell(facts) {
  maxBytes = facts.upload_bytes || Infinity;
}

export function setUp() {
  setUpSamples();
  setUpDrop();
  setUpChoices();
  byId("ask-form").addEventListener("submit", (event) => { event.preventDefault(); ask(byId("question").value.trim()); });
  byId("another").addEventListener("click", () => { history.pushState(null, "", location.pathname); leave(); });
  byId("cancel").addEventListener("click", () => {
    newTurn();
    say("Cancelled.");
    goBack();
    if (clip) byId("question").focus();
  });
  byId("share").addEventListener("click", share);
  addEventListener("hashchange", openLink);
}

// The position of the player, which replaces # in a known question.
export const now = () => player.video.currentTime || 1;
