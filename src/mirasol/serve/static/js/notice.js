// What goes on in the clip view, in words. Work has a bar, its seconds and a button that cancels it.
import { byId, countSeconds } from "./dom.js";

const SHOWN = 10000; // ms, so that it does not hide what is below it for ever
let endCount = () => {}, fading = 0;

function set(text, kind) {
  endCount();
  endCount = () => {};
  clearTimeout(fading);
  byId("notice").className = kind;
  byId("effort").hidden = kind !== "busy";
  byId("status").textContent = text;
}

// Words that stay if they are needed.
export function say(text, stays = false) {
  set(text, "");
  if (text && !stays) fading = setTimeout(() => set("", ""), SHOWN);
}

export const complain = (text) => set(text, "bad");

// share: how much of it is done, 0 to 1, if that is known.
export function busy(text, share) {
  if (byId("status").textContent !== text) {
    set(text, "busy");
    endCount = countSeconds(byId("elapsed"));
  }
  if (share === undefined) byId("progress").removeAttribute("value");
  else byId("progress").value = share;
}
