// The server's routes. Every failure becomes an Error whose message a person can read.
import { byId, showProblem } from "./dom.js";

let key = sessionStorage.getItem("key") || "";
let watching = 0; // for the return of the server
export const AWAY = `The server at ${location.host} does not answer. Is mirasol serve still running? This page goes on as soon as it is back.`;

export const apiKey = () => key;

export async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    serverIsAway();
    throw new Error(AWAY);
  }
  if (response.ok) return response;
  if (response.status === 401) byId("key-form").hidden = false;
  const body = await response.json().catch(() => null);
  const wait = response.headers.get("Retry-After");
  throw new Error((body?.error?.message || `The server answered ${response.status}.`) + (wait ? ` Try again in ${wait} s.` : ""));
}

export const get = async (path) => (await call(path)).json();

export const post = (path, body, signal) =>
  call(path, { method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// Keep a file on the server; report(share) is called while it is sent.
export function upload(file, report) {
  const form = new FormData();
  form.append("purpose", "user_data");
  form.append("file", file, file.name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/files");
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && report(event.loaded / event.total);
    request.onerror = () => { serverIsAway(); reject(new Error(AWAY)); };
    request.onload = () => {
      if (request.status < 300) return resolve(request.response.id);
      if (request.status === 401) byId("key-form").hidden = false;
      reject(new Error(request.response?.error?.message || `The server answered ${request.status}.`));
    };
    request.send(form);
  });
}

export async function content(id) {
  return (await call(`/v1/files/${id}/content`)).blob();
}

// Ask about a watched clip; onText gets pieces of the answer. Return our extras (seconds, confidence).
export async function askStreaming(clip, question, onText) {
  const body = { model: "mirasol", stream: true, messages: [{ role: "user", content: question }], mirasol: { clip, attribute: true } };
  const reader = (await post("/v1/chat/completions", body)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", extras = null;
  for (;;) {
    const { done, value } = await reader.read().catch(() => { serverIsAway(); throw new Error(AWAY); });
    if (done) break;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      const text = event.choices[0]?.delta.content;
      if (text) onText(text);
      extras = event.mirasol || extras;
    }
  }
  if (!extras) throw new Error("The answer broke off. Ask again.");
  return extras;
}

export function serverIsAway() {
  showProblem(AWAY);
  if (watching) return;
  watching = setInterval(async () => {
    const alive = await fetch("/health").then((response) => response.ok, () => false);
    if (!alive) return;
    clearInterval(watching);
    watching = 0;
    showProblem("");
    document.dispatchEvent(new Event("server-back"));
  }, 2000);
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key").value.trim();
  sessionStorage.setItem("key", key); // until the tab is closed
  byId("key-form").hidden = true;
  showProblem("");
  document.dispatchEvent(new Event("server-back"));
});
