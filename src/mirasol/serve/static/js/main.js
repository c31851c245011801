// The two views, and the questions of the loaded checkpoint.
import { get } from "./api.js";
import * as clip from "./clip.js";
import { byId, make, showProblem } from "./dom.js";
import * as key from "./key.js";
import * as live from "./live.js";

const SUGGESTED = 8;
const tabs = [byId("tab-clip"), byId("tab-live")];

function select(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (tab.id === "tab-live") live.shown();
  else live.stop("Stopped, because you left this view.");
}

for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", ({ key }) => {
    if (key !== "ArrowRight" && key !== "ArrowLeft") return;
    const next = tabs[1 - tabs.indexOf(tab)];
    select(next);
    next.focus();
  });
}

function suggest(questions) {
  const liveNow = byId("live-question"), clipNow = byId("question");
  for (const group of document.querySelectorAll(".suggestions")) {
    const isLive = group.closest("#live") !== null;
    group.replaceChildren(...questions.slice(0, SUGGESTED).map(({ text }) => make("button", {
      type: "button", textContent: text.replace("#", "…"),
      onclick: () => {
        const field = isLive ? liveNow : clipNow;
        field.value = text.replace("#", clip.now().toFixed(1));
        field.form.requestSubmit();
      },
    })));
  }
}

function tell(model) {
  const { mirasol: facts, id } = model, known = facts.known_questions;
  byId("model").textContent = `Questions of the model “${id}”`;
  const about = `The model takes ${facts.frames_per_second} frames a second in chunks of ${facts.seconds_per_chunk} s, at most ${facts.max_chunks} chunks (${(facts.max_chunks * facts.seconds_per_chunk).toFixed(1)} s), and uses ${facts.hears ? "picture and sound" : "only the picture"}.`;
  const rows = (known || []).map(({ text, answers }) => make("tr", {}, make("td", { textContent: text }), make("td", { textContent: answers.join(", ") })));
  byId("knows").replaceChildren(make("p", { textContent: about }), known
    ? make("p", { textContent: "The model was trained on these questions (# is a number). Its answers to other questions are guesses." })
    : make("p", { textContent: "The checkpoint has no list of the questions of its training." }));
  if (!known) return;
  const head = make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "Question" }), make("th", { scope: "col", textContent: "Frequent answers" })));
  byId("knows").append(make("table", {}, head, make("tbody", {}, ...rows)));
  suggest(known);
}

async function load() {
  try {
    const model = (await get("/v1/models")).data[0];
    key.accepted();
    showProblem("");
    tell(model);
    clip.tell(model.mirasol);
    live.setUp(model.mirasol);
    await clip.openLink();
  } catch (error) {
    if (error.status !== 401) showProblem(error.message); // the key form shows it
  }
}

clip.setUp();
live.setUp({});
document.addEventListener("ready", load);
load();
