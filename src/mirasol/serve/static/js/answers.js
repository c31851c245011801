// One answer in a list: the question, the streamed text, and the seconds to which it is attributed.
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

  // Show why the answer waits; text that was received is dropped.
  wait(why) {
    this.told = "";
    this.text.textContent = `… ${why}`;
  }

  // extras: confidence, attributed_to and warnings. With onSpan(index), each span is a button.
  finish({ confidence, attributed_to: spans, warnings }, onSpan) {
    this.end();
    this.item.append(...(warnings || []).map((text) => make("p", { className: "warned", textContent: text })));
    if (!this.told) this.text.textContent = "(no words)";
    const sure = confidence == null ? "" : `confidence ${Math.round(100 * confidence)} %`;
    const places = (spans || []).map((place, i) => onSpan
      ? make("button", { type: "button", textContent: `${i + 1}: ${span(place)}`, ariaLabel: `Go to span ${i + 1}: ${span(place)}`, onclick: () => onSpan(i) })
      : span(place));
    const said = [sure, places.length && "attributed to"].filter(Boolean).join(" · ");
    if (onSpan) this.rests.replaceChildren(said, ...places);
    else this.rests.textContent = `${said} ${places.join(", ")}`;
  }

  // again: repeats the question.
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
