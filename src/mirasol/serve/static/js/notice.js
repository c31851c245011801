// What goes on in the clip view, in words. Work has a bar, its seconds and a button that cancels it.
import { byId, countSeconds } from "./dom.js";

let endCount = () => {};

function set(text, kind) {
  endCount();
  endCount = () => {};
  byId("notice").className = kind;
  byId("effort").hidden = kind !== "busy";
  byId("status").textContent = text;
}

export const say = (text) => set(text, "");
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
