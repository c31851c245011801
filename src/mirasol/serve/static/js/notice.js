// Status of the clip view. Work in progress has a bar, its seconds and a button that cancels it.
import { byId, countSeconds } from "./dom.js";

const SHOWN = 10000; // ms, because it covers the content below it
let endCount = () => {}, fading = 0;

function set(text, kind) {
  endCount();
  endCount = () => {};
  clearTimeout(fading);
  byId("notice").className = kind;
  byId("effort").hidden = kind !== "busy";
  byId("status").textContent = text;
}

// Show a text; with `stays`, it does not fade.
export function say(text, stays = false) {
  set(text, "");
  if (text && !stays) fading = setTimeout(() => set("", ""), SHOWN);
}

export const complain = (text) => set(text, "bad");

// share: progress from 0 to 1, if it is known.
export function busy(text, share) {
  if (byId("status").textContent !== text) {
    set(text, "busy");
    endCount = countSeconds(byId("elapsed"));
  }
  if (share === undefined) byId("progress").removeAttribute("value");
  else byId("progress").value = share;
}
