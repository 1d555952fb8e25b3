// Whether every sidecar is well: by which policies it decides, whether its certificate is renewed, whether records are lost.

import { html } from "../vendor/preact.js";
import { useAgainOn, useApi } from "../api.js";
import { Answer, Empty, Facts, Foreign, Name, Num, Panel, Search, State, Table, Time, useMatching } from "../parts.js";
import { link } from "../route.js";
import * as text from "../text.js";
import { Expiry } from "./services.js";

//: three batches late
const SILENT_S = 60;

export function healthOf(sidecar, revision) {
  const silent = (Date.now() - Date.parse(sidecar.last_seen)) / 1000;
  const expired = sidecar.svid_expires && Date.parse(sidecar.svid_expires) < Date.now();
  if (sidecar.ready === false) return ["fail", "not ready"];
  if (expired) return ["fail", "certificate expired"];
  if (silent > SILENT_S) return ["warn", `silent for ${text.duration(silent)}`];
  if (sidecar.lost || sidecar.dropped) return ["warn", "lost records"];
  if (revision && sidecar.revision && sidecar.revision !== revision) return ["warn", "other policies"];
  return ["ok", "well"];
}

const RANK = { fail: 0, warn: 1, ok: 2 };

function columnsOf(revision) {
  const number = (key, title, usual = 0) => ({ key, title, end: true, sort: (each) => each[key], cell: (each) => html`<${Num} value=${each[key]} class=${each[key] > usual ? "watch" : ""} />` });
  return [
    { key: "name", title: "sidecar", sort: (each) => each.name, cell: (each) => html`<${Foreign} value=${each.name} longest=${60} />` },
    { key: "service", title: "of", sort: (each) => each.service, cell: (each) => html`<${Name} value=${each.service} />` },
    { key: "health", title: "health", sort: (each) => RANK[healthOf(each, revision)[0]], cell: (each) => { const [is, label] = healthOf(each, revision); return html`<${State} is=${is} label=${label} />`; } },
    { key: "revision", title: "policies", sort: (each) => each.revision, cell: (each) => (each.revision ? html`<a class="mono foreign" href=${link(["history", each.revision])}>${text.shortened(each.revision, 12)}</a>` : html`<${State} is="fail" label="none" />`) },
    { key: "svid", title: "certificate", sort: (each) => each.svid_expires, cell: (each) => html`<${Expiry} at=${each.svid_expires} />` },
    { key: "seen", title: "last heard", sort: (each) => each.last_seen, cell: (each) => html`<${Time} at=${each.last_seen} as="age" />` },
    { key: "lag_s", title: "lag", end: true, sort: (each) => each.lag_s, cell: (each) => html`<${Num} value=${each.lag_s === null ? null : Math.max(each.lag_s, 0) * 1000} as="ms" />` },
    // the batch that told it was one of them
    number("spooled", "spooled", 1), number("lost", "lost"), number("dropped", "dropped"), number("unjoined", "unjoined"),
    number("failed_handshakes", "bad handshakes"),
  ];
}

export function Sidecars({ route }) {
  const asked = useApi(["status"]);
  useAgainOn(["revision"], asked.again);
  const all = asked.data?.sidecars ?? [];
  const shown = useMatching(all, route.query.get("q"), (each) => [each.name, each.service, each.revision].map(text.printable).join(" "));
  const revision = asked.data?.policies?.revision ?? null;
  const well = all.filter((each) => healthOf(each, revision)[0] === "ok").length;
  return html`
    <div class="mapbar"><${Search} label="find a sidecar" /></div>
    <${Panel} title="Sidecars" class="wide" url=${asked.url} sub=${all.length ? html`<${State} is=${well === all.length ? "ok" : "warn"} label=${`${well} of ${all.length} are well`} />` : null}>
      <${Answer} from=${asked} what="the sidecars">${() => (shown.length
        ? html`<${Table} name="sidecars" caption="sidecars" rows=${shown} order="health" columns=${columnsOf(revision)} rowKey=${(each) => each.name} />`
        : html`<${Empty}>${all.length ? "None of such a name." : "No sidecar has sent anything yet: give them --hub."}<//>`)}<//>
    <//>
    ${asked.data ? html`<${Panel} title="The hub's store" class="wide" url=${asked.url}>
      <${Facts} of=${[
        ["kind", text.printable(asked.data.store.kind)],
        ["size", html`<${Num} value=${asked.data.store.size_bytes} as="bytes" />`],
        ["records", html`<${Num} value=${asked.data.store.records} />`],
        ["series", html`<${Num} value=${asked.data.store.series} />`],
        ["batches", html`<${Num} value=${asked.data.store.batches} />`],
        ["sent twice", html`<${Num} value=${asked.data.store.duplicates} />`],
        ["refused", html`<${Num} value=${asked.data.store.refused} />`],
        ["oldest", html`<${Time} at=${asked.data.store.oldest} as="age" />`],
      ]} />
      ${(asked.data.policies?.faults ?? []).length ? html`<p role="alert"><${State} is="fail" label="the policy folder cannot be read; what was read last is shown" /></p><ul class="faults">${asked.data.policies.faults.slice(0, 20).map((each) => html`<li><${Foreign} value=${each} mono longest=${400} /></li>`)}</ul>` : null}
    <//>` : null}`;
}
