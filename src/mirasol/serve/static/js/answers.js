// One answer in a list: the question, the text as it streams in, and the seconds it rests on.
import { countSeconds, make, span } from "./dom.js";

const KEPT = 30;

export class Answer {
  constructor(list, question) {
    this.text = make("p", { className: "answer", textContent: "…" });
    this.rests = make("p", { className: "rests" });
    this.item = make("li", {}, make("p", { className: "asked", textContent: question }), this.text, this.rests);
    this.item.setAttribute("aria-busy", "true"); // read out when it is complete
    list.prepend(this.item);
    while (list.children.length > KEPT) list.lastElementChild.remove();
    this.told = "";
    this.endCount = countSeconds(this.rests);
  }

  add(piece) {
    this.told += piece;
    this.text.textContent = this.told;
  }

  // Why it does not come yet; what came of it is void.
  wait(why) {
    this.told = "";
    this.text.textContent = `… ${why}`;
  }

  // extras: confidence and attributed_to; onSpan(index) makes a button of each span.
  finish({ confidence, attributed_to: spans }, onSpan) {
    this.end();
    if (!this.told) this.text.textContent = "(no words)";
    const sure = confidence == null ? "" : `${Math.round(100 * confidence)} % sure`;
    const places = (spans || []).map((place, i) => onSpan
      ? make("button", { type: "button", textContent: `${i + 1}: ${span(place)}`, ariaLabel: `Go to place ${i + 1}: ${span(place)}`, onclick: () => onSpan(i) })
      : span(place));
    const said = [sure, places.length && "rests on"].filter(Boolean).join(" · ");
    if (onSpan) this.rests.replaceChildren(said, ...places);
    else this.rests.textContent = `${said} ${places.join(", ")}`;
  }

  // again: asks once more.
  fail(error, again) {
    this.end();
    this.text.textContent = error.message;
    this.text.classList.add("failed");
    const once = () => { this.item.remove(); again(); };
    if (again) this.rests.replaceChildren(make("button", { type: "button", textContent: "Ask again", onclick: once }));
  }

  end() {
    this.endCount();
    this.item.removeAttribute("aria-busy");
  }
}
