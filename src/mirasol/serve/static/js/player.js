// The clip's player. With another sound, an audio element plays it in step and the clip's own is mute.
import { byId } from "./dom.js";

export class Player {
  constructor(onTime) {
    this.video = byId("video");
    this.other = null;
    const each = () => { onTime(this.video.currentTime); if (!this.video.paused) requestAnimationFrame(each); };
    this.video.addEventListener("play", each);
    for (const name of ["seeked", "timeupdate"]) this.video.addEventListener(name, () => onTime(this.video.currentTime));
    this.video.addEventListener("play", () => this.other?.play());
    this.video.addEventListener("pause", () => this.other?.pause());
    this.video.addEventListener("seeking", () => { if (this.other) this.other.currentTime = this.video.currentTime; });
    this.video.addEventListener("ratechange", () => { if (this.other) this.other.playbackRate = this.video.playbackRate; });
  }

  // Blobs, or null where the clip has none.
  load(clip, sound) {
    this.other?.pause();
    for (const old of [this.video.src, this.other?.src]) if (old) URL.revokeObjectURL(old);
    this.other = sound ? new Audio(URL.createObjectURL(sound)) : null;
    this.video.removeAttribute("src");
    this.video.removeAttribute("poster");
    if (!clip) return this.video.load();
    const url = URL.createObjectURL(clip);
    if (clip.type.startsWith("image/")) this.video.poster = url;
    else this.video.src = url;
  }

  use(picture, sound) {
    byId("stage").classList.toggle("off", !picture);
    byId("unseen").hidden = picture;
    this.video.muted = !sound || this.other !== null;
    if (this.other) this.other.muted = !sound;
  }

  seek(time) {
    this.video.currentTime = Math.max(0, time);
  }
}
