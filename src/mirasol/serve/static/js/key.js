// The API key, which is kept until the tab is closed.
import { byId } from "./dom.js";

const FOR_SOCKETS = /^[\w!#$%&'*+.^`|~-]+$/; // characters of a WebSocket subprotocol
let key = sessionStorage.getItem("key") || "";

export const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

export function protocols() {
  if (!key) return ["realtime"];
  if (!FOR_SOCKETS.test(key)) throw new Error("Your API key has characters, such as / or =, that a browser cannot send to a live session. Ask for a key of letters and digits; this key works for clips.");
  return ["realtime", `openai-insecure-api-key.${key}`];
}

function tell(text) {
  byId("key-wrong").textContent = text;
  byId("key").setAttribute("aria-invalid", text !== "");
}

// Ask for a key, or for another one if this key was refused.
export function want() {
  if (!byId("key-form").hidden && !byId("key-form").ariaBusy) return;
  byId("key-form").ariaBusy = null;
  byId("key-form").hidden = false;
  tell(key && "This server does not know that key. Check it and enter it again.");
  byId("key").focus();
}

export function accepted() {
  byId("key-form").ariaBusy = null;
  byId("key-form").hidden = true;
  byId("key").value = "";
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = byId("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) return tell("A key is one word of letters, digits and punctuation.");
  key = given;
  sessionStorage.setItem("key", key);
  tell("");
  byId("key-form").ariaBusy = "true";
  document.dispatchEvent(new Event("ready"));
});
