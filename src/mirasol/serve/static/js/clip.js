// The clip view: a file or sample is watched once, then asked any number of times.
import { Answer } from "./answers.js";
import { askStreaming, content, get, post, upload } from "./api.js";
import { byId, make } from "./dom.js";
import { Player } from "./player.js";
import { decodeSound } from "./spectrum.js";
import { Timeline } from "./timeline.js";

const SAMPLES = [
  { url: "starter/speech.mp4", name: "“Bin blue …”", says: "a spoken sentence, 3 s", question: "which color is named?" },
  { url: "samples/red.mp4", name: "“Bin red …”", says: "another sentence, 3 s", question: "what is said?" },
  { url: "starter/helicopter.mp4", name: "Helicopter", says: "picture without sound", question: "what flies?" },
];
const player = new Player((time) => timeline.at(time));
const timeline = new Timeline((time) => player.seek(time));
const own = { file: null, id: null }; // the picture: a Blob, and its id on the server
const other = { file: null, id: null }; // the sound that replaces its own
let clip = null, turn = 0; // a newer request makes the answers of older ones void

const say = (text) => { byId("status").textContent = text; };

async function sent(part, what) {
  part.id ??= await upload(part.file, (share) => say(`Sending ${what}, ${Math.round(100 * share)} %`));
  return part.id;
}

// Have the server watch what is chosen, and show it.
async function watch() {
  const mine = ++turn, fresh = byId("work").hidden;
  const use = [byId("use-video").checked, byId("use-audio").checked];
  try {
    const kind = /^(audio|image)\//.exec(own.file.type)?.[1] || "video";
    const body = { [kind]: await sent(own, "the clip"), use_video: use[0], use_audio: use[1] };
    if (other.file) body.audio = await sent(other, "the sound");
    say("The model watches …");
    const watched = await (await post("/v1/clips", body)).json();
    if (mine === turn) await show(watched);
  } catch (error) {
    if (mine !== turn) return;
    say(error.message);
    byId("start").hidden = !fresh;
  }
}

async function show(watched) {
  clip = watched;
  const facts = clip.mirasol, before = location.hash;
  if (before !== `#clip=${clip.id}`) history.pushState(null, "", `#clip=${clip.id}`);
  byId("start").hidden = true;
  byId("work").hidden = false;
  byId("name").textContent = own.file?.name || "A watched clip";
  byId("use-video").checked = facts.use_video;
  byId("use-audio").checked = facts.use_audio;
  const seen = facts.seconds_covered < facts.seconds - 0.5 ? `, of which it saw ${facts.seconds_covered.toFixed(1)} s` : "";
  byId("facts").textContent = [`Watched once: ${facts.seconds.toFixed(1)} s${seen}, ${facts.num_frames} frames.`, `Picture ${facts.video}, sound ${facts.audio}.`, ...facts.warnings].join(" ");
  if (player.clip !== own.file || player.sound !== other.file) {
    player.load(own.file, other.file);
    Object.assign(player, { clip: own.file, sound: other.file });
  }
  player.use(facts.use_video, facts.use_audio);
  const source = facts.use_audio ? other.file || own.file : null;
  timeline.show(source && (await decodeSound(source)), facts);
  say("");
}

export function begin(file, question = "") {
  Object.assign(own, { file, id: null });
  Object.assign(other, { file: null, id: null });
  byId("swap").value = "";
  byId("use-video").checked = byId("use-audio").checked = true;
  byId("answers").replaceChildren();
  byId("question").value = question;
  byId("start").hidden = true;
  watch().then(() => byId("question").focus());
}

async function fromSample({ url, question }) {
  say("Loading the sample …");
  try {
    begin(await fetched(url), question);
  } catch (error) {
    say(error.message);
  }
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`The server has no sample ${url} (${response.status}).`);
  return new File([await response.blob()], url.split("/").at(-1), { type: "video/mp4" });
}

async function ask(question) {
  const answer = new Answer(byId("answers"), question), asked = clip.id;
  try {
    const extras = await askStreaming(asked, question, (piece) => answer.add(piece));
    const reveal = (i) => {
      for (const item of byId("answers").children) item.classList.toggle("shown", item === answer.item);
      timeline.mark(extras.attributed_to || []);
      if (i !== undefined) player.seek(extras.attributed_to[i].start);
    };
    answer.finish(extras, reveal);
    if (asked === clip.id) reveal();
  } catch (error) {
    answer.fail(error);
  }
}

// The clip of a link: #clip=clip_...
export async function openLink() {
  const id = /^#clip=(clip_\w+)$/.exec(location.hash)?.[1];
  if (!id || id === clip?.id) return;
  const mine = ++turn;
  byId("start").hidden = true;
  say("Opening the clip of the link …");
  try {
    const watched = await get(`/v1/clips/${id}`), files = watched.mirasol.files || {};
    for (const [part, ref] of [[own, files.video || files.image || (files.audio ?? null)], [other, files.video ? files.audio : null]]) {
      const kept = ref ? await content(ref).catch(() => null) : null; // the file may be gone; the watched clip is not
      Object.assign(part, { id: ref, file: kept && new File([kept], part === own ? "Shared clip" : "Other sound", { type: kept.type }) });
    }
    if (mine !== turn) return;
    byId("answers").replaceChildren();
    await show(watched);
    if (!own.file) say("The file of this clip is no longer kept, so it cannot be played; questions are answered all the same.");
  } catch (error) {
    if (mine !== turn) return;
    say(`${error.message} The link may be of another server, or the clip made room for newer ones.`);
    byId("start").hidden = !byId("work").hidden;
  }
}

function swap(file) {
  Object.assign(other, { file, id: null });
  watch();
}

export function setUp() {
  for (const sample of SAMPLES) {
    const preview = make("video", { src: sample.url, muted: true, preload: "metadata", tabIndex: -1 });
    preview.setAttribute("aria-hidden", "true");
    byId("samples").append(make("button", { onclick: () => fromSample(sample) }, preview, make("strong", { textContent: sample.name }), make("span", { textContent: sample.says })));
    if (sample !== SAMPLES.at(-1)) byId("swap").lastElementChild.before(make("option", { value: sample.url, textContent: `sample ${sample.name}` }));
  }
  byId("file").addEventListener("change", (event) => event.target.files[0] && begin(event.target.files[0]));
  const drop = byId("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.toggle("over", name === "dragover"); });
  }
  document.addEventListener("drop", (event) => event.dataTransfer.files[0] && begin(event.dataTransfer.files[0]));
  for (const id of ["use-video", "use-audio"]) {
    byId(id).addEventListener("change", (event) => {
      if (byId("use-video").checked || byId("use-audio").checked) return own.file ? watch() : say("The file of this clip is no longer kept: it cannot be watched again.");
      event.target.checked = true;
      say("The model needs picture or sound: one stays on.");
    });
  }
  byId("swap").addEventListener("change", async (event) => {
    const value = event.target.value;
    byId("swap-file").hidden = value !== "file";
    if (!own.file) return say("The file of this clip is no longer kept: it cannot be watched with another sound.");
    if (value === "file") return byId("swap-file").click();
    try {
      swap(value ? await fetched(value) : null);
    } catch (error) {
      say(error.message);
    }
  });
  byId("swap-file").addEventListener("change", (event) => event.target.files[0] && swap(event.target.files[0]));
  byId("ask-form").addEventListener("submit", (event) => { event.preventDefault(); ask(byId("question").value.trim()); });
  byId("another").addEventListener("click", () => {
    turn++;
    clip = null;
    player.video.pause();
    history.pushState(null, "", location.pathname);
    byId("work").hidden = true;
    byId("start").hidden = false;
    byId("file").value = "";
    byId("file").focus();
  });
  byId("share").addEventListener("click", async () => {
    const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    say(copied ? "Link copied. It works for everybody who reaches this server, for as long as the clip is kept." : `The link to this clip: ${location.href}`);
  });
  addEventListener("hashchange", openLink);
}

// A number (#) of a known question becomes the second that the player shows.
export const now = () => player.video.currentTime || 1;
