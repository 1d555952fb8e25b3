// Who there is: Services, third parties and whoever else called, with identities, certificates and windows.

import { html } from "../vendor/preact.js";
import { useApi } from "../api.js";
import { windowInWords } from "../map/model.js";
import { Answer, Empty, Foreign, Num, Panel, Search, Shares, State, Table, Time, useMatching } from "../parts.js";
import { link } from "../route.js";
import { isLive, mapSpanOf, spanOf } from "../span.js";
import * as text from "../text.js";
import { MoreCalls } from "./more_calls.js";

const KIND_WORDS = { service: "Service", third_party: "ThirdParty", unknown: "unknown" };
const SOON_S = 600;

// A certificate's end. SVIDs live an hour and are renewed at half of it: what has minutes left was not renewed.
export function Expiry({ at }) {
  const time = text.instant(at);
  if (!time) return html`<span class="none">–</span>`;
  const left = (time.getTime() - Date.now()) / 1000;
  const is = left <= 0 ? "fail" : left < SOON_S ? "warn" : "ok";
  return html`<${State} is=${is} label=${left <= 0 ? "expired" : ""} /> <${Time} at=${at} as="age" />`;
}

function Attributes({ of }) {
  const found = Object.entries(of ?? {});
  if (!found.length) return html`<span class="none">–</span>`;
  return html`<span class="tally">${found.map(([key, value]) => html`<a class="chip foreign" href=${link(["map"], { attr: `${key}=${value}` })}>${text.shortened(key, 30)}: ${text.shortened(value, 40)}</a>`)}</span>`;
}

const WORDS = (each) => [each.name, each.kind, each.state, each.mode, ...each.identities, ...Object.entries(each.attributes).flat()].map(text.printable).join(" ");

const COLUMNS = [
  { key: "name", title: "name", sort: (each) => each.name, cell: (each) => html`<a class=${each.name.length > 30 ? "foreign long" : "foreign"} href=${link(["services", each.name])} title=${text.shortened(each.name, 400)}>${text.shortened(each.name, 60)}</a>` },
  { key: "kind", title: "kind", sort: (each) => each.kind, cell: (each) => KIND_WORDS[each.kind] ?? text.printable(each.kind) },
  { key: "state", title: "window", sort: (each) => each.window?.closes, cell: (each) => (each.state ? html`<${State} is=${each.state} label=${windowInWords(each.window, each.state)} />` : html`<span class="none">–</span>`) },
  { key: "identities", title: "identities", sort: (each) => each.identities[0], cell: (each) => html`<${Foreign} value=${each.identities[0]} mono longest=${64} />${each.identities.length > 1 ? html` <small>and ${each.identities.length - 1} more</small>` : null}` },
  { key: "attributes", title: "attributes", cell: (each) => html`<${Attributes} of=${each.attributes} />` },
  { key: "mode", title: "mode", sort: (each) => each.mode, cell: (each) => (each.mode === "observe" ? html`<${State} is="observed" label="observe" />` : html`<${Foreign} value=${each.mode} />`) },
  { key: "svid", title: "certificate", sort: (each) => each.sidecar?.svid_expires, cell: (each) => html`<${Expiry} at=${each.sidecar?.svid_expires} />` },
  { key: "seen", title: "last seen", sort: (each) => each.last_seen, cell: (each) => html`<${Time} at=${each.last_seen} as="age" />` },
];

function Edges({ name, route }) {
  const asked = useApi(["edges"], { service: name, ...mapSpanOf(route) }, { live: isLive(route) });
  const columns = (other) => [
    { key: "peer", title: other === "from" ? "calls come from" : "calls go to", sort: (each) => each[other], cell: (each) => html`<a class="foreign" href=${link(["map", "edge", each.from, each.to])}>${text.shortened(text.shortName(each[other]), 50)}</a>` },
    { key: "share", title: "shares", cell: (each) => html`<${Shares} ...${each} />` },
    { key: "calls", title: "calls", end: true, sort: (each) => each.calls, cell: (each) => html`<${Num} value=${each.calls} />` },
    { key: "denied", title: "denied", end: true, sort: (each) => each.denied, cell: (each) => html`<${Num} value=${each.denied} class="bad" />` },
    { key: "p99", title: "p99", end: true, sort: (each) => each.p99_ms, cell: (each) => html`<${Num} value=${each.p99_ms} as="ms" />` },
    { key: "first", title: "first seen", sort: (each) => each.first_seen, cell: (each) => html`<${Time} at=${each.first_seen} as="age" />` },
  ];
  return html`<${Panel} title="Who it talks to" url=${asked.url} class="wide"><${Answer} from=${asked} what="its edges">${({ edges }) => {
    const sides = [["from", edges.filter((each) => each.to === name)], ["to", edges.filter((each) => each.from === name)]];
    return html`<div class="twofold">${sides.map(([other, rows]) => (rows.length
      ? html`<${Table} name=${other} caption=${other === "from" ? "who calls it" : "whom it calls"} rows=${rows} order="-calls" columns=${columns(other)} rowKey=${(each) => each[other]} rowClass=${(each) => (each.denied ? "refused" : "")} />`
      : html`<${Empty}>${other === "from" ? "Nobody called it" : "It called nobody"} in this time.<//>`))}</div>`;
  }}<//><//>`;
}

function One({ service, route, url }) {
  const { sidecar } = service;
  return html`
    <${Panel} id="service" class="wide" title=${html`<${Foreign} value=${service.name} longest=${400} />`} sub=${KIND_WORDS[service.kind]} url=${url} actions=${html`<a class="button quiet" href=${link(["services"])}>all services</a>`}>
      <dl class="rowfacts">
        <div><dt>identities</dt><dd>${service.identities.length ? service.identities.map((each) => html`<div><${Foreign} value=${each} mono longest=${400} /></div>`) : html`<span class="none">none seen</span>`}</dd></div>
        <div><dt>attributes</dt><dd><${Attributes} of=${service.attributes} /></dd></div>
        ${service.window ? html`<div><dt>window</dt><dd><${State} is=${service.state} /> <${Time} at=${service.window.opens} /> to ${service.window.closes ? html`<${Time} at=${service.window.closes} />` : "no end"}</dd></div>` : null}
        ${service.mode ? html`<div><dt>mode</dt><dd>${text.printable(service.mode)}</dd></div>` : null}
        ${sidecar ? html`<div><dt>certificate</dt><dd><${Expiry} at=${sidecar.svid_expires} /></dd></div>
          <div><dt>sidecar</dt><dd><a class="foreign" href=${link(["sidecars"])}>${text.shortened(sidecar.name, 80)}</a>, revision <span class="mono">${text.shortened(sidecar.revision, 16)}</span></dd></div>` : null}
        <div><dt>seen</dt><dd>first <${Time} at=${service.first_seen} />, last <${Time} at=${service.last_seen} /></dd></div>
        <div><dt>look at</dt><dd><a href=${link(["map", "node", service.name])}>it on the map</a> · <a href=${link(["denials", "source", service.name])}>what it was denied</a> · <a href=${link(["denials", "destination", service.name])}>what was denied to others there</a></dd></div>
      </dl>
    <//>
    <${Edges} name=${service.name} route=${route} />
    <${MoreCalls} key=${service.name} title="Calls that it received, kept in full" query=${{ to: service.name, ...spanOf(route) }} live=${isLive(route)} />`;
}

export function Services({ route }) {
  const asked = useApi(["services"]);
  const [name] = route.parts;
  const all = asked.data?.services ?? [];
  const shown = useMatching(all, route.query.get("q"), WORDS);
  if (name !== undefined) {
    return html`<${Answer} from=${asked} what="the services">${() => {
      const one = all.find((each) => each.name === name);
      return one ? html`<${One} key=${name} service=${one} route=${route} url=${asked.url} />` : html`<${Empty}>Nobody of this name is known here. <a href=${link(["services"])}>All services</a><//>`;
    }}<//>`;
  }
  return html`
    <div class="mapbar"><${Search} label="find a service, identity, attribute" /></div>
    <${Panel} title="Who there is" class="wide" url=${asked.url} sub=${asked.data ? html`<${Num} value=${shown.length} />` : null}>
      <${Answer} from=${asked} what="the services">${() => (shown.length
        ? html`<${Table} name="services" caption="services, third parties and others" rows=${shown} order="name" columns=${COLUMNS} rowKey=${(each) => each.name} />`
        : html`<${Empty}>${all.length ? "Nobody of such a name." : "Nobody is known yet: no policies are followed, and no call was recorded."}<//>`)}<//>
    <//>`;
}
