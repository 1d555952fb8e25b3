// The parts that every view is made of.

import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import { curl } from "./api.js";
import { go, here, link, useRoute } from "./route.js";
import * as text from "./text.js";

// --- values -------------------------------------------------------------------------------------------------------------

const WRITTEN = { count: text.count, bytes: text.bytes, ms: text.milliseconds, rate: text.rate };

// A number as people read it, with the exact one for programs and on hover.
export function Num({ value, as = "count", class: kind = "" }) {
  if (value === null || value === undefined) return html`<span class="none">–</span>`;
  return html`<data value=${value} title=${`${text.exact(value)}${as === "bytes" ? " bytes" : as === "ms" ? " ms" : ""}`}
    class=${`num ${kind} ${value === 0 ? "zero" : ""}`}>${WRITTEN[as](value)}</data>`;
}

// An instant in UTC; the local one on hover. `as` is full, time or age.
export function Time({ at, as = "full" }) {
  const time = text.instant(at);
  if (!time) return html`<span class="none">–</span>`;
  const away = (Date.now() - time.getTime()) / 1000;
  const age = away >= 0 ? `${text.duration(away, 1)} ago` : `in ${text.duration(away)}`;
  const today = text.utcDate(time) === text.utcDate(new Date());
  const shown =
    as === "age" ? age
    : as === "time" ? (today ? text.utcTime(time, { millis: true }) : `${text.utcDate(time)} ${text.utcTime(time)}`)
    : text.utc(time);
  return html`<time datetime=${at} title=${`${text.utc(time)} · ${text.local(time)} · ${age}`}>${shown}</time>`;
}

//: what is longer is broken anywhere; shorter words stay whole
const LONG = 26;

// What someone else chose: a path, a host, a name. Text, whatever it says.
export function Foreign({ value, longest, mono = false }) {
  if (value === null || value === undefined || value === "") return html`<span class="none">–</span>`;
  const short = text.shortened(value, longest);
  const whole = text.shortened(value, 2000);
  return html`<span class=${`foreign ${mono ? "mono" : ""} ${short.length > LONG ? "long" : ""}`} title=${whole === short ? undefined : whole} dir="ltr">${short}</span>`;
}

// A service, a third party, a host: leads to what is known of it.
export function Name({ value, longest = 60 }) {
  if (!value) return html`<span class="none">–</span>`;
  const shown = text.printable(value).startsWith("spiffe://") ? text.shortName(value) : value;
  return html`<a class="foreign name" href=${link(["services", value])} title=${text.shortened(value, 400)} dir="ltr">${text.shortened(shown, longest)}</a>`;
}

// What a call was decided by: a rule, or the window of a ThirdParty.
const BY_WINDOW = ["decommissioned", "not_commissioned"];

export function Policy({ value, reason }) {
  if (!value) return html`<span class="none name">no policy</span>`;
  const where = BY_WINDOW.includes(reason) ? ["windows", "third_party", value] : ["policies", value];
  return html`<a class="foreign mono name" href=${link(where)}>${text.shortened(value, 80)}</a>`;
}

// Sentences of the API with `names` in backticks, as code.
export function Prose({ value }) {
  const parts = text.shortened(value, 4000).split("`");
  return html`<span>${parts.map((part, at) => (at % 2 ? html`<code class="foreign">${part}</code>` : part))}</span>`;
}

// --- states: never by colour alone, each has its sign and its word ------------------------------------------------------

const SIGNS = {
  allow: ["✓", "allowed", "good"],
  deny: ["✕", "denied", "bad"],
  observed: ["◐", "observed", "watch"],
  cut: ["✂", "cut", "bad"],
  unreached: ["⊘", "unreached", "watch"],
  open: ["●", "open", "good"],
  opening: ["◔", "opening", "calm"],
  closing: ["◕", "closing", "watch"],
  ended: ["■", "ended", "bad"],
  ok: ["✓", "well", "good"],
  warn: ["▲", "look", "watch"],
  fail: ["✕", "not well", "bad"],
  new: ["+", "new", "good"],
  gone: ["−", "gone", "bad"],
  grown: ["↑", "grown", "watch"],
  shrunk: ["↓", "shrunk", "calm"],
};

export function State({ is, label }) {
  const [sign, word, tone] = SIGNS[is] ?? ["·", is, "calm"];
  return html`<span class=${`state ${tone}`}><span aria-hidden="true" class="sign">${sign}</span>${text.printable(label ?? word)}</span>`;
}

export const decisionOf = (record) =>
  record.cut ? "cut" : record.decision === "deny" ? "deny" : record.reason === "observed" ? "observed" : "allow";

// Shares of allowed, observed (they were allowed, too) and denied as a bar; the words are the table's.
export function Shares({ allowed, observed, denied }) {
  const whole = allowed + denied;
  if (!whole) return html`<span class="shares empty" aria-hidden="true"></span>`;
  const label = `${text.share(allowed, whole)} allowed, of them ${text.share(observed, whole)} only observed, ${text.share(denied, whole)} denied`;
  const parts = [["good", allowed - observed], ["watch", observed], ["bad", denied]].filter(([, part]) => part > 0);
  return html`<span class="shares" role="img" aria-label=${label} title=${label}>${parts.map(
    ([tone, part]) => html`<i class=${tone} style=${{ flexGrow: Math.max(part / whole, 0.06) }}></i>`,
  )}</span>`;
}

// --- where the numbers come from ----------------------------------------------------------------------------------------

export function Source({ url }) {
  const [copied, setCopied] = useState(false);
  if (!url) return null;
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(curl(url));
      setCopied(true);
      setTimeout(() => setCopied(false), 1500);
    } catch {
      setCopied(null);
    }
  };
  const shown = `${url.pathname.replace(/^.*\/api\/v1\//u, "/api/v1/")}${url.search}`;
  return html`<span class="source">
    <a class="mono foreign" href=${url.pathname + url.search} target="_blank" rel="noreferrer" title="open the answer that this is drawn from">GET ${text.shortened(shown, 90)}</a>
    <button type="button" class="quiet" onClick=${copy} title=${text.shortened(curl(url), 400)}>${copied ? "copied" : copied === null ? "cannot copy here" : "copy as curl"}</button>
  </span>`;
}

// --- states of a view -----------------------------------------------------------------------------------------------------

export function Loading({ what }) {
  return html`<div class="placeholder loading" role="status"><span class="pulse" aria-hidden="true"></span>asking for ${what}</div>`;
}

export function Failure({ error, again }) {
  const words =
    error.status === 403 ? "this token's role may not read this: it takes the role security" : error.status === 401 ? "the hub wants to know who asks" : error.message;
  return html`<div class="placeholder failure" role="alert">
    <${State} is="fail" label=${text.shortened(words, 400)} />
    ${again && error.status !== 403 ? html`<button type="button" onClick=${again}>ask again</button>` : null}
  </div>`;
}

export function Empty({ children }) {
  return html`<div class="placeholder empty"><p>${children}</p></div>`;
}

// Data, or why there is none; what is on the screen stays when one round of asking fails.
export function Answer({ from, what, children }) {
  if (from.data) {
    return html`${from.error ? html`<p class="stale" role="status"><${State} is="warn" label=${`${text.shortened(from.error.message, 200)}; what is below is older`} /></p>` : null}${children(from.data)}`;
  }
  if (from.error) return html`<${Failure} error=${from.error} again=${from.again} />`;
  return html`<${Loading} what=${what} />`;
}

export function Panel({ title, sub, url, actions, children, class: kind = "", level = 2, id }) {
  const Heading = `h${level}`;
  return html`<section class=${`panel ${kind}`} id=${id} aria-label=${typeof title === "string" ? title : undefined}>
    <header>
      <${Heading}>${title}<//>
      ${sub ? html`<span class="sub">${sub}</span>` : null}
      ${actions ? html`<span class="actions">${actions}</span>` : null}
    </header>
    ${children}
    ${url ? html`<footer><${Source} url=${url} /></footer>` : null}
  </section>`;
}

export function Facts({ of }) {
  return html`<dl class="facts">${of
    .filter(Boolean)
    .map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export function Choice({ label, value, of, onChoose }) {
  return html`<div class="choice" role="group" aria-label=${label}>${of.map(
    ([each, words]) => html`<button type="button" aria-pressed=${String(each === value)} onClick=${() => onChoose(each)}>${words}</button>`,
  )}</div>`;
}

// A field whose content is part of the address; what is typed goes there a little later.
export function Search({ name = "q", label, id }) {
  const route = useRoute();
  const given = route.query.get(name) ?? "";
  const [typed, setTyped] = useState(given);
  const timer = useRef(null);
  useEffect(() => setTyped(given), [given]);
  const type = (event) => {
    const { value } = event.target;
    setTyped(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => go(here({ [name]: value }), { replace: true }), 150);
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  return html`<label class="search"><span class="hidden">${label}</span>
    <input type="search" id=${id} value=${typed} onInput=${type} placeholder=${label} autocomplete="off" spellcheck="false" data-search /></label>`;
}

// --- tables ---------------------------------------------------------------------------------------------------------------

//: rows that are drawn at once; the others come on request
const ROWS = 200;

function compared(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return typeof a === "string" && typeof b === "string" ? a.localeCompare(b) : a < b ? -1 : 1;
}

// `columns`: {key, title, cell(row), sort(row)?, end?}. The order is in the address under `name`, `-` before it for the
// largest first. Roles are said once more: on a narrow screen the rows become cards, and lose them otherwise.
export function Table({ name = "sort", caption, columns, rows, order, rowKey, rowClass }) {
  const route = useRoute();
  const [more, setMore] = useState(1);
  const given = route.query.get(name) ?? order ?? "";
  const down = given.startsWith("-");
  const column = columns.find((each) => each.key === given.replace(/^-/u, "") && each.sort);
  const sorted = useMemo(() => {
    if (!column) return rows;
    const by = [...rows].sort((a, b) => compared(column.sort(a), column.sort(b)));
    return down ? by.reverse() : by;
  }, [rows, column?.key, down]);
  const shown = sorted.slice(0, ROWS * more);
  const turn = (each) => go(here({ [name]: given === `-${each.key}` ? each.key : `-${each.key}` }), { replace: true });
  return html`<div class="tablebox">
    <table role="table">
      <caption class="hidden">${caption}</caption>
      <thead role="rowgroup"><tr role="row">${columns.map((each) => {
        const way = column?.key === each.key ? (down ? "descending" : "ascending") : undefined;
        return html`<th role="columnheader" scope="col" class=${each.end ? "end" : ""} aria-sort=${way}>
          ${each.sort ? html`<button type="button" class="order" onClick=${() => turn(each)}>${each.title}<span aria-hidden="true">${way ? (down ? " ↓" : " ↑") : ""}</span></button>` : each.title}
        </th>`;
      })}</tr></thead>
      <tbody role="rowgroup">${shown.map(
        (row) => html`<tr role="row" key=${rowKey(row)} class=${rowClass?.(row) ?? ""}>${columns.map(
          (each) => html`<td role="cell" class=${each.end ? "end" : ""} data-title=${typeof each.title === "string" ? each.title : ""}><div>${each.cell(row)}</div></td>`,
        )}</tr>`,
      )}</tbody>
    </table>
    ${rows.length > shown.length
      ? html`<p class="more"><button type="button" onClick=${() => setMore(more + 1)}>show ${Math.min(ROWS, rows.length - shown.length)} more of ${text.count(rows.length)}</button></p>`
      : null}
  </div>`;
}

// Rows that a text is in; the text of a row is what `words` gives.
export function useMatching(rows, wanted, words) {
  return useMemo(() => {
    const needles = (wanted ?? "").toLowerCase().split(/\s+/u).filter(Boolean);
    if (!needles.length) return rows;
    return rows.filter((row) => {
      const hay = words(row).toLowerCase();
      return needles.every((needle) => hay.includes(needle));
    });
  }, [rows, wanted]);
}

const REASONS = {
  malformed: "not a request that can be judged",
  unidentified: "the caller proved no identity",
  untrusted: "an identity that nobody here trusts",
  unknown_destination: "no Service or ThirdParty of that name",
  guardrail: "a Guardrail forbids it, whatever is allowed below",
  not_commissioned: "the ThirdParty is not commissioned yet",
  decommissioned: "the ThirdParty's window has ended",
  not_yet_open: "the rule's window is not open yet",
  outside_hours: "outside of the rule's hours",
  closed: "the rule's window has closed",
  no_policy: "no MicroPolicy allows it",
  internal_error: "the sidecar could not decide, and so denied",
  overloaded: "the sidecar had too much to do, and so denied",
  allowed: "a MicroPolicy allows it",
  observed: "would be denied where it is enforced; here it is only observed",
};

export function Reason({ value }) {
  if (!value) return html`<span class="none">–</span>`;
  return html`<span class="reason mono" title=${REASONS[value]}>${text.shortened(value, 40)}</span>`;
}

export const reasonInWords = (value) => REASONS[value] ?? "";
