// The clip's player. Another sound is played in step by an audio element, and the clip is mute.
import { byId } from "./dom.js";

export class Player {
  constructor(onTime) {
    this.video = byId("video");
    this.other = this.clip = this.sound = null;
    const each = () => { onTime(this.video.currentTime); if (!this.video.paused) requestAnimationFrame(each); };
    this.video.addEventListener("play", each);
    for (const name of ["seeked", "timeupdate"]) this.video.addEventListener(name, () => onTime(this.video.currentTime));
    this.video.addEventListener("play", () => this.other?.play());
    this.video.addEventListener("pause", () => this.other?.pause());
    this.video.addEventListener("seeking", () => { if (this.other) this.other.currentTime = this.video.currentTime; });
    this.video.addEventListener("ratechange", () => { if (this.other) this.other.playbackRate = this.video.playbackRate; });
    this.video.addEventListener("error", () => this.video.hasAttribute("src") && this.note("This browser cannot play this kind of file. The model watched it."));
  }

  // clip, sound: blobs or null; facts: facts about the clip.
  show(clip, sound, facts) {
    if (this.clip !== clip || this.sound !== sound) this.load(clip, sound);
    Object.assign(this, { clip, sound });
    byId("stage").classList.toggle("off", !facts.use_video);
    this.video.muted = !facts.use_audio || this.other !== null;
    if (this.other) this.other.muted = !facts.use_audio;
    if (!facts.use_video) this.note("Picture switched off for the model");
    else if (!clip) this.note("The server no longer has the file");
    else if (facts.video !== "used") this.note("No picture: the model uses only the sound");
    else if (!this.video.error) this.note("");
  }

  note(text) {
    byId("unseen").textContent = text;
  }

  load(clip, sound) {
    this.other?.pause();
    for (const old of [this.video.src, this.other?.src]) if (old) URL.revokeObjectURL(old);
    this.other = sound ? new Audio(URL.createObjectURL(sound)) : null;
    this.video.removeAttribute("src");
    this.video.removeAttribute("poster");
    this.video.load();
    if (!clip) return;
    const url = URL.createObjectURL(clip);
    if (clip.type.startsWith("image/")) this.video.poster = url;
    else this.video.src = url;
  }

  seek(time) {
    this.video.currentTime = Math.max(0, time);
  }
}
