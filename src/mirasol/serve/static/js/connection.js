// A live session over /v1/realtime, which is resumed by its id when its connection breaks.
import { Failure, get, ready } from "./api.js";
import { sleep } from "./dom.js";
import { protocols } from "./key.js";

const SILENT = 30000, AGAIN = 2000, LONGEST_GAP = 570000; // ms; the server refuses a gap of 10 minutes in a session
const REFUSED = 4004, REPLACED = 4001, BROKEN = 4000; // close codes

export class Connection {
  // settings: under mirasol; listener: onEvent(event), onError(message), onLost(), onBack(session), onEnd(message).
  constructor(settings, listener) {
    Object.assign(this, { settings, listener, id: null, socket: null, isOpen: false, hasEnded: false, heard: 0 });
    this.leave = () => this.lost();
    addEventListener("offline", this.leave);
  }

  // Return the session when the server accepts media.
  async open() {
    await get("/v1/models"); // fails for an absent server or a refused key, which a WebSocket does not report
    if (this.hasEnded) throw new Failure("Stopped.", 499);
    const resumed = this.id ? `&session=${this.id}` : "";
    const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/realtime?model=mirasol${resumed}`, protocols());
    this.socket = socket;
    const session = await new Promise((resolve, reject) => {
      let problem = "";
      socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        this.heard = performance.now();
        if (event.type === "session.created") {
          this.id = event.session.id;
          const format = { type: "audio/pcm", rate: 16000 };
          socket.send(JSON.stringify({ type: "session.update", session: { type: "realtime", audio: { input: { format } }, mirasol: this.settings } }));
        } else if (event.type === "session.updated") resolve(event.session.mirasol);
        else if (event.type === "error") this.listener.onError(problem = event.error.message);
        else this.listener.onEvent(event);
      };
      socket.onclose = ({ code }) => {
        reject(new Failure(problem || "The server answers, but the live connection does not open. Check that proxies before the server pass WebSockets.", code));
        if (this.socket !== socket || !this.isOpen) return;
        if (code === REPLACED) this.listener.onEnd("Another connection took this session over.");
        else this.lost();
      };
    });
    this.isOpen = true;
    return session;
  }

  get waiting() {
    return this.isOpen ? this.socket.bufferedAmount : 0; // bytes that are not sent
  }

  send(type, values = {}) {
    if (!this.isOpen) return;
    if (performance.now() - this.heard > SILENT) return this.lost();
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...values })); // else its close event follows
  }

  // Drop a broken socket and reconnect until that succeeds or `end` is called.
  async lost() {
    if (!this.isOpen) return;
    this.isOpen = false;
    const begin = performance.now(), broken = this.socket;
    this.socket = null;
    broken.close(BROKEN); // not 1000, which would end the session
    this.listener.onLost();
    while (!this.hasEnded) {
      if (performance.now() - begin > LONGEST_GAP) this.id = null;
      try {
        return this.listener.onBack(await this.open());
      } catch (error) {
        if (error.status === REFUSED) this.id = null; // the session is gone: open a new one
        await (error.status === 0 || error.status === 401 ? ready() : sleep(AGAIN));
      }
    }
  }

  end() {
    this.hasEnded = true;
    this.isOpen = false;
    removeEventListener("offline", this.leave);
    this.socket?.close(1000);
    this.socket = null;
  }
}
