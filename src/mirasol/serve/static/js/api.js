// The server's routes. Every error becomes a Failure with a message for the user.
import { showProblem, sleep } from "./dom.js";
import * as key from "./key.js";

const AWAY = `The server at ${location.host} does not answer. Check that mirasol serve is running. This page continues when the server is back.`;
const TRIES = 20, LOOK_EVERY = 2000; // ms
let watching = 0; // timer that polls an absent server

// status: of the response, 0 without one; wait: seconds of Retry-After.
export class Failure extends Error {
  constructor(message, status = 0, wait = 0) {
    super(message);
    Object.assign(this, { status, wait });
  }
}

function refused(status, body, wait) {
  if (status === 401) key.want();
  const words = {
    401: "The server needs an API key. Enter it above.",
    429: "The server is busy.",
  };
  return new Failure(words[status] || body?.error?.message || `The server answered ${status}.`, status, +wait);
}

export async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...key.headers() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw away();
  }
  if (response.ok) return response;
  throw refused(response.status, await response.json().catch(() => null), response.headers.get("Retry-After"));
}

export const get = async (path, signal) => (await call(path, { signal })).json();

export const post = (path, body, signal) =>
  call(path, { method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// Store a file on the server and return its id; report(share) is called during the upload.
export function upload(file, report, signal) {
  const form = new FormData();
  form.append("purpose", "user_data");
  form.append("file", file, file.name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/files");
    for (const [name, value] of Object.entries(key.headers())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && report(event.loaded / event.total);
    request.onerror = () => reject(away());
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onload = () => {
      if (request.status < 300) return resolve(request.response.id);
      reject(refused(request.status, request.response, request.getResponseHeader("Retry-After")));
    };
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

export const content = async (id) => (await call(`/v1/files/${id}/content`)).blob();

// Ask about a watched clip; onText receives pieces of the answer. Return the extras under mirasol.
export async function askStreaming(clip, question, onText) {
  const body = { model: "mirasol", stream: true, messages: [{ role: "user", content: question }], mirasol: { clip, attribute: true } };
  const reader = (await post("/v1/chat/completions", body)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", extras = null;
  for (;;) {
    const { done, value } = await reader.read().catch(() => { throw away(); });
    if (done) break;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new Failure(event.error.message, 500);
      const text = event.choices[0]?.delta.content;
      if (text) onText(text);
      extras = event.mirasol || extras;
    }
  }
  if (!extras) throw new Failure("The answer broke off.", 500);
  return extras;
}

// Repeat a request until it succeeds or is refused; wait for an absent server, an API key, and room in a busy server.
export async function persist(request, tell, signal) {
  for (let tries = 1; ; tries++) {
    signal?.throwIfAborted();
    try {
      return await request();
    } catch (error) {
      const waits = error.wait > 0 && tries < TRIES;
      if (!waits && error.status !== 0 && error.status !== 401) throw error;
      tell(waits ? `The server is busy: trying again in ${error.wait} s` : error.status ? "Waiting for the API key" : "Waiting for the server");
      await (waits ? sleep(1000 * error.wait) : ready());
    }
  }
}

// Wait until the server is back or a key is entered.
export const ready = () => new Promise((done) => document.addEventListener("ready", done, { once: true }));

function away() {
  showProblem(AWAY);
  watching ||= setInterval(async () => {
    if (!(await fetch("/health").then((response) => response.ok, () => false)) || !watching) return;
    clearInterval(watching);
    watching = 0;
    showProblem("");
    document.dispatchEvent(new Event("ready"));
  }, LOOK_EVERY);
  return new Failure(AWAY);
}
