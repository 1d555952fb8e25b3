// What is known of one edge: who calls whom, what, how often, how fast, how encrypted, by which policy, and what was refused.

import { html, useMemo } from "../vendor/preact.js";
import { useAgainOn, useApi } from "../api.js";
import { Chart, Points } from "../chart.js";
import { Answer, Empty, Facts, Foreign, Name, Num, Panel, Policy, Shares, Source, State, Table, Time } from "../parts.js";
import { Calls } from "../records.js";
import { here, link } from "../route.js";
import { isLive, rangeOf, spanOf } from "../span.js";
import * as text from "../text.js";
import { isTls, plaintext, withoutCalls, withoutVersion } from "./model.js";

const POINTS = 120;
//: of any answer, whatever step it has
const MOST_POINTS = 2000;
const STEPS_S = [10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 86400];

function stepOf(route) {
  const wanted = text.ageSeconds(rangeOf(route)) / POINTS;
  return STEPS_S.find((each) => each >= wanted) ?? STEPS_S.at(-1);
}

function Tally({ of, written = (name) => text.printable(name) }) {
  const found = Object.entries(of ?? {}).sort(([, a], [, b]) => b - a);
  if (!found.length) return html`<span class="none">–</span>`;
  return html`<span class="tally">${found.map(([name, calls]) => html`<span>${written(name)} <${Num} value=${calls} /></span>`)}</span>`;
}


export function Tls({ edge, kind }) {
  const plain = plaintext(edge, kind);
  const without = withoutVersion(edge, kind);
  const tlsName = (version) => (isTls(version) ? text.tlsVersion(version) : without);
  return html`<span class="tls"><${Tally} of=${edge.tls} written=${tlsName} />${plain ? html` <${State} is="warn" label=${`${text.count(plain)} not encrypted`} />` : null}</span>`;
}

export function edgeFacts(edge) {
  return [
    ["calls", html`<${Num} value=${edge.calls} />`],
    ["allowed", html`<${Num} value=${edge.allowed} class="good" />`],
    ["observed", html`<${Num} value=${edge.observed} class="watch" />`],
    ["denied", html`<${Num} value=${edge.denied} class="bad" />`],
    ["cut", html`<${Num} value=${edge.cut} />`],
    ["unreached", html`<${Num} value=${edge.unreached} />`],
    ["p50", html`<${Num} value=${edge.p50_ms} as="ms" />`],
    ["p99", html`<${Num} value=${edge.p99_ms} as="ms" />`],
    ["received", html`<${Num} value=${edge.bytes_received} as="bytes" />`],
    ["sent", html`<${Num} value=${edge.bytes_sent} as="bytes" />`],
  ];
}

// Steps without calls are left out of the answer: they are drawn as what they are, no calls and no latency.
function linesOf(history) {
  const { points, step_s: step } = history;
  const known = new Map(points.map((each) => [Date.parse(each.time) / 1000, each]));
  const first = Math.floor(Date.parse(history.since) / 1000 / step) * step;
  const last = Date.parse(history.until) / 1000;
  const times = Array.from({ length: Math.min(Math.ceil((last - first) / step), MOST_POINTS) }, (_, at) => first + at * step);
  const each = (name, by = 1) => times.map((time) => {
    const value = known.get(time)?.[name];
    return value === null || value === undefined ? (name.endsWith("_ms") ? null : 0) : value / by;
  });
  return {
    times,
    calls: [
      { title: "allowed", values: each("allowed", step), tone: "--good", fill: true },
      { title: "denied", values: each("denied", step), tone: "--bad", dash: [5, 3] },
    ],
    latency: [
      { title: "p50", values: each("p50_ms"), tone: "--good" },
      { title: "p99", values: each("p99_ms"), tone: "--watch", dash: [5, 3] },
    ],
    bytes: [
      { title: "received", values: each("bytes_received", step), tone: "--good" },
      { title: "sent", values: each("bytes_sent", step), tone: "--accent", dash: [5, 3] },
    ],
  };
}

function Rates({ from, to, route }) {
  const step = stepOf(route);
  const asked = useApi(["edges", from, to, "history"], { ...spanOf(route), step }, { live: isLive(route) });
  useAgainOn(["deny"], asked.again);
  const lines = useMemo(() => (asked.data ? linesOf(asked.data) : null), [asked.data]);
  const perSecond = (value) => `${text.bytes(value)}/s`;
  return html`<${Panel} title="Over time" level=${3} url=${asked.url} class="rates">
    <${Answer} from=${asked} what="its history">${() => html`
      <${Chart} title="calls" times=${lines.times} lines=${lines.calls} write=${text.rate} sync="edge" />
      <${Chart} title="latency" times=${lines.times} lines=${lines.latency} write=${text.milliseconds} sync="edge" />
      <${Chart} title="bytes" times=${lines.times} lines=${lines.bytes} write=${perSecond} sync="edge" />
      <${Points} times=${lines.times} lines=${[...lines.calls, ...lines.latency.map((each) => ({ ...each, write: text.milliseconds }))]} write=${text.rate} />`}
    <//>
  <//>`;
}

const ROUTES = [
  { key: "route", title: "route", sort: (each) => each.route, cell: (each) => html`<span class="mono"><b>${text.shortened(each.method, 20)}</b> <${Foreign} value=${each.route ?? "no route"} longest=${80} /></span>` },
  { key: "calls", title: "calls", end: true, sort: (each) => each.calls, cell: (each) => html`<${Num} value=${each.calls} />` },
  { key: "denied", title: "denied", end: true, sort: (each) => each.denied, cell: (each) => html`<${Num} value=${each.denied} class="bad" />` },
  { key: "policy", title: "allowed by", sort: (each) => each.policy, cell: (each) => (each.policy ? html`<${Policy} value=${each.policy} />` : html`<span class="none">none</span>`) },
];

function Refused({ from, to, route }) {
  const asked = useApi(["calls"], { from, to, decision: "deny", ...spanOf(route), limit: 10 }, { live: isLive(route) });
  useAgainOn(["deny"], asked.again);
  return html`<${Panel} title="Last denials" level=${3} url=${asked.url} class="refused">
    <${Answer} from=${asked} what="its denials">${({ calls }) =>
      calls.length
        ? html`<${Calls} name="denied" caption="the last denials of this edge" calls=${calls} columns=${["time", "what", "reason"]} />`
        : html`<${Empty}>Nothing was denied here in this time.<//>`}
    <//>
  <//>`;
}

export function EdgePanel({ from, to, kind, route }) {
  const asked = useApi(["edges", from, to], spanOf(route), { live: isLive(route) });
  useAgainOn(["deny"], asked.again);
  const title = html`<span class="ends"><${Name} value=${from} longest=${44} /><span aria-label="calls"> → </span><${Name} value=${to} longest=${44} /></span>`;
  return html`<aside class="detail" aria-label="one edge" id="edge">
    <header class="detail-head"><h2>${title}</h2><a class="button quiet" href=${link(["map"], passed(route))} aria-label="close">✕</a></header>
    ${asked.error?.status === 404 ? html`<${Empty}>No call from the one to the other was ever seen.<//>` : html`<${Answer} from=${asked} what="this edge">${(edge) => html`
      ${edge.calls ? html`<${Shares} ...${edge} />` : html`<p class="sub">No call began in this time: ${withoutCalls(edge)}.</p>`}
      <${Facts} of=${edgeFacts(edge)} />
      <dl class="rowfacts">
        <div><dt>encrypted by</dt><dd><${Tls} edge=${edge} kind=${kind} /></dd></div>
        <div><dt>protocols</dt><dd><${Tally} of=${edge.protocols} /></dd></div>
        <div><dt>seen</dt><dd>first <${Time} at=${edge.first_seen} /><br />last <${Time} at=${edge.last_seen} as="age" /></dd></div>
      </dl>
      <p class="under"><${Source} url=${asked.url} /></p>
      <${Panel} title="Routes" level=${3} sub=${`${edge.routes.length}`}>
        <${Table} name="routes" caption="routes of this edge" rows=${edge.routes} order="-calls" columns=${ROUTES}
          rowKey=${(each) => `${each.method} ${each.route} ${each.policy}`} rowClass=${(each) => (each.denied ? "refused" : "")} />
      <//>`}
    <//>`}
    <${Refused} from=${from} to=${to} route=${route} />
    <${Rates} from=${from} to=${to} route=${route} />
  </aside>`;
}

// What of the map's own parameters stays when something on it is opened or closed.
export function passed(route) {
  return Object.fromEntries(["group", "open", "only", "attr", "q", "as", "compare", "span"].filter((each) => route.query.has(each)).map((each) => [each, route.query.get(each)]));
}

export function NodePanel({ name, service, edges, route, url }) {
  const of = edges.filter((each) => each.from === name || each.to === name);
  const side = (title, rows, other) => html`<${Panel} title=${title} level=${3} sub=${String(rows.length)}>
    ${rows.length
      ? html`<${Table} name=${title} caption=${title} rows=${rows} order="-calls" rowKey=${(each) => JSON.stringify([each.from, each.to])} columns=${[
          { key: "peer", title: other, sort: (each) => each[other], cell: (each) => html`<a class="foreign" href=${link(["map", "edge", each.from, each.to], passed(route))}>${text.shortened(text.shortName(each[other]), 40)}</a>` },
          { key: "calls", title: "calls", end: true, sort: (each) => each.calls, cell: (each) => html`<${Num} value=${each.calls} />` },
          { key: "denied", title: "denied", end: true, sort: (each) => each.denied, cell: (each) => html`<${Num} value=${each.denied} class="bad" />` },
          { key: "p99", title: "p99", end: true, sort: (each) => each.p99_ms, cell: (each) => html`<${Num} value=${each.p99_ms} as="ms" />` },
        ]} />`
      : html`<${Empty}>None in this time.<//>`}
  <//>`;
  return html`<aside class="detail" aria-label="one node" id="node">
    <header class="detail-head"><h2><${Foreign} value=${name} longest=${80} /></h2><a class="button quiet" href=${link(["map"], passed(route))} aria-label="close">✕</a></header>
    ${service
      ? html`<dl class="rowfacts">
          <div><dt>kind</dt><dd>${text.printable(service.kind).replace("_", " ")}${service.state ? html` <${State} is=${service.state} />` : null}</dd></div>
          ${service.window ? html`<div><dt>window</dt><dd><${Time} at=${service.window.opens} /> to ${service.window.closes ? html`<${Time} at=${service.window.closes} />` : "no end"}</dd></div>` : null}
          <div><dt>identities</dt><dd>${service.identities.slice(0, 5).map((each) => html`<div><${Foreign} value=${each} mono longest=${90} /></div>`)}</dd></div>
          <div><dt></dt><dd>${service?.window ? html`<a href=${link(["windows", "third_party", name])}>its window, and who tried outside of it</a> · ` : null}<a href=${link(["services", name])}>all that is known of it</a> · <a href=${here({ q: name })}>only this on the map</a></dd></div>
        </dl>`
      : null}
    ${side("Calls come from", of.filter((each) => each.to === name), "from")}
    ${side("Calls go to", of.filter((each) => each.from === name), "to")}
    <p class="under"><${Source} url=${url} /></p>
  </aside>`;
}
