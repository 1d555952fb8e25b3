// What changed: the policies by revision, what each came to mean, and the map on the same line of time.

import { html, useMemo } from "../vendor/preact.js";
import { useAgainOn, useApi } from "../api.js";
import { Answer, Choice, Empty, Foreign, Num, Panel, Prose, State, Table, Time } from "../parts.js";
import { changeOf } from "../map/model.js";
import { go, here, link } from "../route.js";
import { comparedWith, isLive, mapSpanOf, rangeOf } from "../span.js";
import * as text from "../text.js";

const BEFORE = [["1h", "an hour before"], ["24h", "a day before"], ["7d", "a week before"], ["30d", "30 days before"]];
const RANK = { new: 0, gone: 1, grown: 2, shrunk: 3 };
//: of one revision's differences; all of them are in the answer
const MOST = 40;

const names = (of) => (of ?? []).map((each) => text.shortened(each, 60)).join(", ");

function Difference({ of }) {
  const { becomes, spans = [] } = of;
  const dated = spans.filter((each) => each.from || each.until).slice(0, 2);
  return html`<li><${State} is=${becomes === "allow" ? "allow" : "deny"} label=${becomes === "allow" ? "becomes allowed" : "becomes denied"} />
<span class="foreign">${names(of.callers)} → ${names(of.destinations)}</span> <code class="foreign">${text.shortened(of.operation, 120)}</code>
    ${dated.map((each) => html` <small>${each.from ? html`from <${Time} at=${each.from} />` : ""} ${each.until ? html`until <${Time} at=${each.until} />` : ""}</small>`)}
    ${of.policy ? html` <small>by <a class="mono foreign" href=${link(["policies", of.policy])}>${text.shortened(of.policy, 63)}</a></small>` : null}</li>`;
}

function Changed({ revision }) {
  const { differences, notes } = revision;
  if (differences === null) return html`<p class="none">${revision.previous ? "what it changed is not known here" : "the first that was seen"}</p>`;
  if (!differences.length && !notes?.length) return html`<p class="none">no call is answered differently</p>`;
  return html`<ul class="differences">${differences.slice(0, MOST).map((each) => html`<${Difference} of=${each} />`)}
    ${differences.length > MOST ? html`<li class="none">and ${differences.length - MOST} more</li>` : null}
    ${(notes ?? []).slice(0, MOST).map((each) => html`<li><${Prose} value=${each} /></li>`)}</ul>`;
}

function Revisions({ asked, chosen }) {
  return html`<${Panel} title="Policies" class="wide" url=${asked.url}><${Answer} from=${asked} what="the revisions">${({ revisions }) => (revisions.length
    ? html`<ol class="revisions">${revisions.slice(0, 100).map((each) => html`<li key=${each.revision} class=${each.revision === chosen ? "chosen" : ""}>
        <header><a class="mono foreign" href=${link(["history", each.revision])}>${text.shortened(each.revision, 16)}</a>
          ${each.in_force ? html`<${State} is="open" label="in force" />` : null}
          <span>first <${Time} at=${each.first_seen} />${each.in_force ? null : html`, last <${Time} at=${each.last_seen} />`}</span>
          <span class="sub">decides at <${Num} value=${each.sidecars.length} /> sidecars</span>
          <a href=${link(["map"], { at: each.first_seen })}>the map then</a></header>
        <${Changed} revision=${each} />
        ${each.revision === chosen && each.sidecars.length ? html`<${Table} name="at" caption="sidecars that decided by it" rows=${each.sidecars} rowKey=${(one) => one.sidecar} columns=${[
          { key: "sidecar", title: "sidecar", sort: (one) => one.sidecar, cell: (one) => html`<${Foreign} value=${one.sidecar} />` },
          { key: "first", title: "from", sort: (one) => one.first_seen, cell: (one) => html`<${Time} at=${one.first_seen} />` },
          { key: "last", title: "until", sort: (one) => one.last_seen, cell: (one) => html`<${Time} at=${one.last_seen} />` },
        ]} />` : null}
      </li>`)}</ol>`
    : html`<${Empty}>No sidecar has said yet by which policies it decides.<//>`)}<//><//>`;
}

function Compared({ route, compare }) {
  const asked = useApi(["edges"], { ...mapSpanOf(route), ...comparedWith(route, compare) }, { live: isLive(route) });
  const status = useApi(["status"], {}, { live: false });
  const rows = useMemo(() => (asked.data?.edges ?? []).filter(changeOf), [asked.data]);
  // What a hub was not there to hear is not known to be new.
  const oldest = Date.parse(status.data?.store.oldest ?? "");
  const before = Date.parse(asked.data?.since ?? "") - text.ageSeconds(compare) * 1000;
  return html`<${Panel} title="The map" class="wide" url=${asked.url} sub=${`the last ${rangeOf(route)} beside as much of it, ${Object.fromEntries(BEFORE)[compare]}`}
    actions=${html`<a href=${link(["map"], { compare, only: "changed" })}>on the map</a>`}>
    ${oldest > before ? html`<p><${State} is="warn" label="the hub has heard of nothing before" /> <${Time} at=${status.data.store.oldest} />: what is called new may be older.</p>` : null}
    <${Answer} from=${asked} what="what changed">${() => (rows.length
      ? html`<${Table} name="changes" caption="edges that are new, gone, grown or shrunk" rows=${rows} order="change" rowKey=${(each) => JSON.stringify([each.from, each.to])} columns=${[
          { key: "change", title: "change", sort: (each) => RANK[changeOf(each)], cell: (each) => html`<${State} is=${changeOf(each)} />` },
          { key: "edge", title: "edge", sort: (each) => each.from, cell: (each) => html`<a class="foreign" href=${link(["map", "edge", each.from, each.to])}>${text.shortened(text.shortName(each.from), 44)} → ${text.shortened(text.shortName(each.to), 44)}</a>` },
          { key: "before", title: "calls before", end: true, sort: (each) => each.compared.calls, cell: (each) => html`<${Num} value=${each.compared.calls} />` },
          { key: "calls", title: "calls", end: true, sort: (each) => each.calls, cell: (each) => html`<${Num} value=${each.calls} />` },
          { key: "denied", title: "denied", end: true, sort: (each) => each.denied, cell: (each) => html`<${Num} value=${each.denied} class="bad" />` },
          { key: "first", title: "first seen", sort: (each) => each.first_seen, cell: (each) => html`<${Time} at=${each.first_seen} />` },
        ]} />`
      : html`<${Empty}>${(asked.data?.edges ?? []).length ? "The same edges, about as many calls." : "No calls in this time."}<//>`)}<//>
  <//>`;
}

export function History({ route }) {
  const revisions = useApi(["revisions"]);
  useAgainOn(["revision"], revisions.again);
  const compare = BEFORE.some(([each]) => each === route.query.get("compare")) ? route.query.get("compare") : "24h";
  return html`
    <div class="mapbar"><span>compare with</span><${Choice} label="compare with" value=${compare} of=${BEFORE} onChoose=${(each) => go(here({ compare: each }), { replace: true })} /></div>
    <${Compared} route=${route} compare=${compare} />
    <${Revisions} asked=${revisions} chosen=${route.parts[0]} />`;
}
