// Every window on one line of time: what opens, what closes, and who still knocks.

import { html, useMemo } from "../vendor/preact.js";
import { useAgainOn, useApi } from "../api.js";
import { Answer, Choice, Empty, Foreign, Name, Num, Panel, Policy, Search, State, Table, Time, useMatching } from "../parts.js";
import { go, here, link } from "../route.js";
import * as text from "../text.js";

const DAY_MS = 86_400_000;
const AROUND = { "14d": 7, "90d": 45, "1y": 183, "2y": 365 };
const ORDER = { closing: 0, opening: 1, open: 2, ended: 3 };

function ticksOf(from, until) {
  const days = (until - from) / DAY_MS;
  const step = days <= 21 ? 1 : days <= 120 ? 7 : 0;
  const found = [];
  if (step) {
    for (let at = Math.ceil(from / DAY_MS) * DAY_MS; at < until; at += DAY_MS) {
      const date = new Date(at);
      if (step === 1 ? date.getUTCDate() % 2 === 0 : date.getUTCDay() === 1) found.push([at, text.utcDate(date).slice(5)]);
    }
    return found;
  }
  const first = new Date(from);
  const every = days > 400 ? 3 : 1;
  for (let month = first.getUTCMonth() + 1; ; month += 1) {
    const at = Date.UTC(first.getUTCFullYear(), month, 1);
    if (at >= until) return found;
    if (month % every === 0) found.push([at, text.utcDate(new Date(at)).slice(0, 7)]);
  }
}

// One window as a bar between its dates. The state is a pattern as well as a colour; attempts are marks with their count.
function Bar({ window, from, until, now }) {
  const opens = window.opens ? Date.parse(window.opens) : -Infinity;
  const closes = window.closes ? Date.parse(window.closes) : Infinity;
  const place = (time) => Math.min(Math.max(((time - from) / (until - from)) * 100, 0), 100);
  const at = (time) => `${place(time)}%`;
  const [left, right] = [place(opens), place(closes)];
  const seen = ({ count, first, last }) => count > 0 && Date.parse(last) >= from && Date.parse(first) <= until;
  const knocks = [window.attempts_before, window.attempts_after].filter((each) => each && seen(each));
  const words = `${window.state}: ${window.opens ?? "always"} to ${window.closes ?? "no end"}${knocks.length ? `; ${knocks.map((each) => each.count).join(" and ")} attempts outside of it` : ""}`;
  return html`<svg class=${`gantt ${window.state}`} role="img" aria-label=${text.printable(words)}>
    <title>${text.printable(words)}</title>
    ${ticksOf(from, until).map(([time]) => html`<line class="tick" x1=${at(time)} x2=${at(time)} y1="0" y2="28" />`)}
    ${right > 0 && left < 100 ? html`<rect class="bar" x=${`${left}%`} y="6" width=${`${Math.max(right - left, 0.4)}%`} height="16" rx="3" />` : null}
    ${right > 0 && right < 100 ? html`<line class="end" x1=${`${right}%`} x2=${`${right}%`} y1="3" y2="25" />` : null}
    ${knocks.map((each) => html`<g class="knock">
      <line x1=${at(Date.parse(each.first))} x2=${at(Date.parse(each.last))} y1="14" y2="14" />
      ${[...new Set([each.first, each.last])].map((time) => html`<text x=${at(Date.parse(time))} y="19.5" text-anchor="middle">✕</text>`)}
    </g>`)}
    <line class="now" x1=${at(now)} x2=${at(now)} y1="0" y2="28" />
  </svg>`;
}

// Not every line has room for its words.
const sparse = (ticks) => ticks.filter((_, at) => at % Math.ceil(ticks.length / 7) === 0);

function Scale({ from, until, now }) {
  const place = (at) => `${((at - from) / (until - from)) * 100}%`;
  const clear = ([at]) => Math.abs(at - now) > (until - from) * 0.045 && at - from > (until - from) * 0.03 && until - at > (until - from) * 0.03;
  return html`<div class="scale" aria-hidden="true">${sparse(ticksOf(from, until)).filter(clear).map(
    ([at, words]) => html`<span style=${{ left: place(at) }}>${words}</span>`,
  )}<span class="now" style=${{ left: place(now) }}>now</span></div>`;
}

const address = (each) => link(["windows", each.kind, each.name]);

function Attempts({ of, words }) {
  if (!of || of.count === 0) return null;
  return html`<${Panel} title=${words} level=${3} sub=${html`<${Num} value=${of.count} /> from <${Time} at=${of.first} /> to <${Time} at=${of.last} />`}>
    <${Table} name="sources" caption=${words} rows=${of.sources} order="-count" rowKey=${(each) => JSON.stringify(each)} columns=${[
      { key: "source", title: "source", sort: (each) => each.identity ?? each.address, cell: (each) => html`<${Foreign} value=${each.identity ?? "no identity"} mono longest=${100} />` },
      { key: "service", title: "known as", sort: (each) => each.service, cell: (each) => html`<${Name} value=${each.service} />` },
      { key: "address", title: "address", sort: (each) => each.address, cell: (each) => html`<${Foreign} value=${each.address} mono longest=${60} />` },
      { key: "direction", title: "direction", sort: (each) => each.direction, cell: (each) => each.direction },
      { key: "sidecar", title: "refused at", sort: (each) => each.sidecar, cell: (each) => html`<${Foreign} value=${each.sidecar} />` },
      { key: "count", title: "attempts", end: true, sort: (each) => each.count, cell: (each) => html`<${Num} value=${each.count} class="bad" />` },
    ]} />
  <//>`;
}

function Chosen({ window }) {
  return html`<${Panel} id="window" class="chosen" title=${html`<${Foreign} value=${window.name} />`} sub=${html`<${State} is=${window.state} />`} actions=${html`<a class="button quiet" href=${link(["windows"])} aria-label="close">✕</a>`}>
    <dl class="rowfacts">
      <div><dt>kind</dt><dd>${window.kind === "third_party" ? "ThirdParty" : "MicroPolicy"}</dd></div>
      <div><dt>opens</dt><dd>${window.opens ? html`<${Time} at=${window.opens} />` : "always was"}</dd></div>
      <div><dt>closes</dt><dd>${window.closes ? html`<${Time} at=${window.closes} /> (<${Time} at=${window.closes} as="age" />)` : "no end"}</dd></div>
      ${window.hours ? html`<div><dt>hours</dt><dd><${Foreign} value=${window.hours} /></dd></div>` : null}
      <div><dt>look at</dt><dd>${window.kind === "third_party"
        ? html`<a href=${link(["services", window.name])}>its identities and calls</a> · <a href=${link(["map", "node", window.name])}>it on the map</a>`
        : html`<${Policy} value=${window.name} />`}</dd></div>
    </dl>
    <${Attempts} of=${window.attempts_after} words="Attempts after it closed" />
    <${Attempts} of=${window.attempts_before} words="Attempts before it opened" />
    ${window.attempts_after.count || window.attempts_before?.count ? null : html`<${Empty}>Nobody tried outside of these dates.<//>`}
  <//>`;
}

export function Windows({ route }) {
  const asked = useApi(["windows"]);
  useAgainOn(["window", "deny", "revision"], asked.again);
  const range = route.query.get("around") in AROUND ? route.query.get("around") : "1y";
  const now = Date.now();
  const half = AROUND[range] * DAY_MS;
  const [from, until] = [now - half, now + half];
  const all = useMemo(() => [...(asked.data?.windows ?? [])].sort(
    (a, b) => ORDER[a.state] - ORDER[b.state] || String(a.closes ?? "9").localeCompare(String(b.closes ?? "9")) || a.name.localeCompare(b.name)), [asked.data]);
  const shown = useMatching(all, route.query.get("q"), (each) => `${each.name} ${each.kind} ${each.state}`);
  const [kind, name] = route.parts;
  const chosen = all.find((each) => each.name === name && each.kind === kind);
  return html`
    <div class="mapbar"><${Search} label="find a window" />
      <${Choice} label="around now" value=${range} of=${Object.keys(AROUND).map((each) => [each, each])} onChoose=${(each) => go(here({ around: each }), { replace: true })} /></div>
    <${Panel} title="What opens and closes" class="wide" url=${asked.url}>
      <${Answer} from=${asked} what="the windows">${() => shown.length === 0
        ? html`<${Empty}>${all.length ? "No window has such a name." : "No ThirdParty and no rule that this hub knows has a window. A hub knows them by --policies."}<//>`
        : html`<${Table} name="windows" caption="windows, the next to close first" rows=${shown} rowKey=${(each) => `${each.kind} ${each.name}`} rowClass=${(each) => (each === chosen ? "chosen" : "")} columns=${[
            { key: "name", title: "window", sort: (each) => each.name, cell: (each) => html`<a class="foreign" href=${address(each)}>${text.shortened(each.name, 63)}</a> <small>${each.kind === "third_party" ? "ThirdParty" : "rule"}</small>${each.hours ? html`<br /><small class="foreign">${text.shortened(each.hours, 80)}</small>` : null}` },
            { key: "state", title: "state", sort: (each) => ORDER[each.state], cell: (each) => html`<${State} is=${each.state} />` },
            { key: "bar", title: html`<${Scale} from=${from} until=${until} now=${now} />`, cell: (each) => html`<${Bar} window=${each} from=${from} until=${until} now=${now} />` },
            { key: "closes", title: "closes", sort: (each) => each.closes, cell: (each) => (each.closes ? html`<${Time} at=${each.closes} as="age" />` : html`<span class="none">no end</span>`) },
            { key: "attempts", title: "tried after", end: true, sort: (each) => each.attempts_after.count, cell: (each) => html`<${Num} value=${each.attempts_after.count} class=${each.attempts_after.count ? "bad" : ""} />${each.attempts_before?.count ? html`<br /><small><${Num} value=${each.attempts_before.count} class="bad" /> before</small>` : null}` },
          ]} />`}<//>
    <//>
    ${name && asked.data ? (chosen ? html`<${Chosen} window=${chosen} />` : html`<${Empty}>There is no window of this name any more.<//>`) : null}`;
}
