// What was refused: by whom it was tried, why, by which policy, and where; and each call behind a number.

import { html } from "../vendor/preact.js";
import { useAgainOn, useApi } from "../api.js";
import { Answer, Choice, Empty, Name, Num, Panel, Policy, Reason, reasonInWords, Search, Table, Time, useMatching } from "../parts.js";
import { Calls, CALL_WORDS } from "../records.js";
import { go, link } from "../route.js";
import { isLive, spanOf } from "../span.js";
import * as text from "../text.js";
import { MoreCalls } from "./more_calls.js";

const GROUPS = [["source", "by source"], ["reason", "by reason"], ["policy", "by policy"], ["destination", "by destination"]];
const FILTER = { source: "from", reason: "reason", policy: "policy", destination: "to" };

function Key({ group, value }) {
  if (value === null) return html`<span class="none">${group === "policy" ? "no policy" : "nobody"}</span>`;
  if (group === "reason") return html`<${Reason} value=${value} /> <small>${reasonInWords(value)}</small>`;
  if (group === "policy") return html`<${Policy} value=${value} />`;
  return html`<${Name} value=${value} />`;
}

function Bar({ part, whole }) {
  return html`<span class="bar" aria-hidden="true"><i style=${{ width: `${Math.max((part / whole) * 100, 1)}%` }}></i></span>`;
}

function Grouped({ group, route, chosen }) {
  const span = spanOf(route);
  const asked = useApi(["denials"], { group, ...span }, { live: isLive(route) });
  useAgainOn(["deny"], asked.again);
  const shown = useMatching(asked.data?.denials ?? [], route.query.get("q"), (each) => `${text.printable(each.key)} ${Object.keys(each.reasons).join(" ")}`);
  const most = Math.max(1, ...shown.map((each) => each.count));
  const total = shown.reduce((sum, each) => sum + each.count, 0);
  return html`<${Panel} title="Denials" class="wide" url=${asked.url} sub=${asked.data ? html`<${Num} value=${total} class="bad" />` : null}>
    <${Answer} from=${asked} what="the denials">${() => shown.length === 0
      ? html`<${Empty}>${asked.data.denials.length ? "None of them has this in it." : "Nothing was denied in this time."}<//>`
      : html`<${Table} name="groups" caption=${`denials by ${group}`} rows=${shown} order="-count" rowKey=${(each) => String(each.key)} rowClass=${(each) => (chosen !== undefined && each.key === chosen ? "chosen" : "")} columns=${[
          { key: "key", title: group, sort: (each) => each.key, cell: (each) => html`<${Key} group=${group} value=${each.key} />` },
          { key: "count", title: "denied", end: true, sort: (each) => each.count, cell: (each) => html`<${Num} value=${each.count} class="bad" />` },
          { key: "bar", title: html`<span class="hidden">share</span>`, cell: (each) => html`<${Bar} part=${each.count} whole=${most} />` },
          ...(group === "reason" ? [] : [{ key: "reasons", title: "reasons", cell: (each) => html`<span class="tally">${Object.entries(each.reasons).sort(([, a], [, b]) => b - a).map(([reason, calls]) => html`<span><${Reason} value=${reason} /> <${Num} value=${calls} /></span>`)}</span>` }]),
          { key: "first", title: "first", sort: (each) => each.first, cell: (each) => html`<${Time} at=${each.first} />` },
          { key: "last", title: "last", sort: (each) => each.last, cell: (each) => html`<${Time} at=${each.last} as="age" />` },
          { key: "calls", title: html`<span class="hidden">calls</span>`, cell: (each) => (each.key === null ? null : html`<a href=${link(["denials", group, each.key])}>calls<span class="hidden"> of ${text.shortened(each.key, 60)}</span></a>`) },
        ]} />`}<//>
  <//>`;
}

export function Denials({ route }) {
  const [given, key] = route.parts;
  const group = given in FILTER ? given : "source";
  const query = { decision: "deny", ...spanOf(route), ...(key === undefined ? {} : { [FILTER[group]]: key }) };
  return html`
    <div class="mapbar"><${Choice} label="denials by" value=${group} of=${GROUPS} onChoose=${(each) => go(link(["denials", each], { q: route.query.get("q") }))} /><${Search} label="find in these" /></div>
    <${Grouped} group=${group} route=${route} chosen=${key} />
    <${MoreCalls} key=${`${group} ${key}`} title="Refused calls" query=${query} live=${isLive(route)} words=${route.query.get("q")}
      sub=${key === undefined ? "the newest first" : html`${group} <b class="foreign">${text.shortened(key, 80)}</b> <a href=${link(["denials", group])}>all</a>`} />`;
}
