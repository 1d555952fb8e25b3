// The keys, and what the signs mean.

import { html, useEffect, useRef } from "../vendor/preact.js";
import { State } from "../parts.js";

const KEYS = [
  ["/", "search in this view"],
  ["j  k", "next, previous row"],
  ["Enter", "open what is focused"],
  ["Esc", "leave a field, close what is open"],
  ["t", "light or dark"],
  ["?", "this"],
];
const MAP_KEYS = [
  ["← ↑ → ↓", "move the map"],
  ["+  −", "closer, further"],
  ["0", "all of it"],
];
const SIGNS = ["allow", "observed", "deny", "cut", "unreached", "opening", "open", "closing", "ended"];
const MEANINGS = {
  allow: "the policies allow it",
  observed: "would be denied; its service only observes yet",
  deny: "refused, with a reason",
  cut: "under way when its permission ended",
  unreached: "allowed, but it never arrived",
  opening: "its window opens later",
  open: "its window is open",
  closing: "ends within 14 days",
  ended: "its window has ended",
};

export function Help({ open, onClose, views }) {
  const box = useRef(null);
  useEffect(() => {
    if (open && !box.current.open) box.current.showModal();
    if (!open && box.current.open) box.current.close();
  }, [open]);
  return html`<dialog ref=${box} onClose=${onClose} aria-labelledby="help-title" class="help">
    <header><h2 id="help-title">Keys and signs</h2><button type="button" class="quiet" onClick=${onClose}>close</button></header>
    <div class="columns">
      <div><dl>${KEYS.map(([key, words]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${words}</dd></div>`)}
        </dl><h3>on the map</h3><dl>${MAP_KEYS.map(([key, words]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${words}</dd></div>`)}</dl></div>
      <dl>${views.map(([, name, key]) => html`<div><dt><kbd>g ${key}</kbd></dt><dd>${name}</dd></div>`)}</dl>
      <dl class="signs">${SIGNS.map((each) => html`<div><dt><${State} is=${each} /></dt><dd>${MEANINGS[each]}</dd></div>`)}</dl>
    </div>
    <p>Times are UTC; the local one shows on hover. Every number has its question to the API under it.</p>
  </dialog>`;
}
