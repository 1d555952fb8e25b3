// What happens, as it happens.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { address, useApi, useStream, useStreamState } from "../api.js";
import { Empty, Failure, Foreign, Name, Panel, Policy, Reason, Search, State, Table, Time, useMatching } from "../parts.js";
import { callLink, sourceOf, targetOf, whatOf } from "../records.js";
import { go, here, link } from "../route.js";
import * as text from "../text.js";

//: as many as one looks back at; the rest is under Denials
const MOST = 500;
const KINDS = [["deny", "denials"], ["edge", "new edges"], ["window", "windows"], ["revision", "policies"], ["anomaly", "anomalies"]];

let serial = 0;

// An event of the stream as a row; what kind has no fields of its own is shown as it came.
function rowOf(kind, datum) {
  const row = { id: (serial += 1), kind, time: datum.time ?? datum.first_seen ?? new Date().toISOString(), datum };
  if (datum.caller && datum.destination) {
    return { ...row, from: sourceOf(datum), to: targetOf(datum), what: whatOf(datum), reason: datum.reason, policy: datum.policy, call: datum.decision_id, cut: datum.cut };
  }
  if (kind === "window" && datum.what === "state") return { ...row, what: `${datum.name} is ${datum.state}`, window: [datum.kind, datum.name], state: datum.state };
  if (kind === "window") {
    return { ...row, from: datum.from, to: datum.to, what: `${datum.what ?? ""} on ${datum.name}`, reason: datum.reason, call: datum.decision_id, policy: datum.name };
  }
  if (kind === "revision") {
    return { ...row, what: `${String(datum.revision).slice(0, 12)} is in force ${datum.sidecar ? `at ${datum.sidecar}` : "in the folder"}`, revision: datum.revision };
  }
  const rest = Object.entries(datum).filter(([key]) => !["from", "to", "time", "kind"].includes(key));
  return { ...row, from: datum.from, to: datum.to, policy: datum.policy, what: rest.map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(" · ") };
}

const SIGNS = { deny: "deny", edge: "new", window: "warn", revision: "ok", anomaly: "warn" };
const WORDS = { deny: "denied", edge: "new edge", window: "attempt", revision: "policies", anomaly: "anomaly" };

export function Live({ route }) {
  const stream = useStreamState();
  const past = useApi(["calls"], { decision: "deny", limit: 50 }, { live: false });
  const [rows, setRows] = useState([]);
  const [paused, setPaused] = useState(false);
  const waiting = useRef([]);
  const [held, setHeld] = useState(0);
  const hidden = new Set((route.query.get("hide") ?? "").split(",").filter(Boolean));
  const frame = useRef(null);
  const flush = () => {
    frame.current = null;
    const fresh = waiting.current.splice(0).reverse();
    if (fresh.length) setRows((old) => [...fresh, ...old].slice(0, MOST));
    setHeld(0);
  };
  useStream(({ kind, datum }) => {
    if (!KINDS.some(([each]) => each === kind) || datum === null || typeof datum !== "object") return;
    waiting.current.push(rowOf(kind, datum));
    if (waiting.current.length > MOST) waiting.current.splice(0, waiting.current.length - MOST);
    if (paused) setHeld(waiting.current.length);
    else frame.current ??= setTimeout(flush, 100);
  });
  useEffect(() => () => clearTimeout(frame.current), []);
  const before = (past.data?.calls ?? []).map((each) => ({ ...rowOf("deny", each), id: `before ${each.decision_id} ${each.cut}` }));
  const came = new Set(rows.map((each) => each.call).filter(Boolean));
  const all = [...rows, ...before.filter((each) => !came.has(each.call))].filter((each) => !hidden.has(each.kind));
  const shown = useMatching(all, route.query.get("q"), (each) => [each.kind, each.from, each.to, each.what, each.reason, each.policy].map(text.printable).join(" "));
  const toggle = (kind) => {
    const next = new Set(hidden);
    if (!next.delete(kind)) next.add(kind);
    go(here({ hide: [...next].join(",") }), { replace: true });
  };
  const turn = () => {
    if (paused) flush();
    setPaused(!paused);
  };
  return html`
    <div class="mapbar">
      <button type="button" class="first" aria-pressed=${String(paused)} onClick=${turn}>${paused ? `go on${held ? ` (${held} more)` : ""}` : "pause"}</button>
      <div class="choice" role="group" aria-label="kinds of events">${KINDS.filter(([kind]) => kind !== "anomaly" || rows.some((each) => each.kind === kind)).map(([kind, words]) => html`<button type="button" aria-pressed=${String(!hidden.has(kind))} onClick=${() => toggle(kind)}>${words}</button>`)}</div>
      <${Search} label="find in these" />
    </div>
    <${Panel} title="Events" class="wide" url=${address(["stream"])} sub=${`the newest ${MOST} are kept here`}>
      <div role="log" aria-live="off" aria-label="events">
      ${stream === "refused" ? html`<${Failure} error=${{ status: 403 }} />` : shown.length === 0 ? html`<${Empty}>Nothing yet. What is denied, a new edge, a window that opens or closes and new policies show here as they happen.<//>` : html`<${Table} name="live" caption="events, the newest first" rows=${shown} rowKey=${(each) => each.id} rowClass=${(each) => (each.kind === "deny" ? "refused" : "")} columns=${[
        { key: "time", title: "time", cell: (each) => (each.call ? html`<a href=${callLink({ decision_id: each.call, cut: each.cut })}><${Time} at=${each.time} as="time" /></a>` : html`<${Time} at=${each.time} as="time" />`) },
        { key: "kind", title: "event", cell: (each) => html`<${State} is=${each.cut ? "cut" : (each.state ?? SIGNS[each.kind])} label=${each.cut ? "cut" : each.window ? `window ${each.state}` : WORDS[each.kind]} />` },
        { key: "from", title: "from", cell: (each) => html`<${Name} value=${each.from} longest=${40} />` },
        { key: "to", title: "to", cell: (each) => html`<${Name} value=${each.to} longest=${40} />` },
        { key: "what", title: "what", cell: (each) => html`<${Foreign} value=${each.what} mono longest=${110} />` },
        { key: "reason", title: "reason", cell: (each) => html`<${Reason} value=${each.reason} />` },
        { key: "policy", title: "policy", cell: (each) => (each.window ? html`<a class="foreign mono name" href=${link(["windows", ...each.window])}>${text.shortened(each.window[1], 63)}</a>` : each.policy ? html`<${Policy} value=${each.policy} reason=${each.reason} />` : html`<span class="none">–</span>`) },
      ]} />`}
      </div>
    <//>`;
}
