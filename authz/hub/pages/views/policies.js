// The rules, and what each of them was good for.

import { html } from "../vendor/preact.js";
import { useApi } from "../api.js";
import { windowInWords } from "../map/model.js";
import { Answer, Empty, Facts, Foreign, Num, Panel, Search, State, Table, Time, useMatching } from "../parts.js";
import { link } from "../route.js";
import { isLive, spanOf } from "../span.js";
import * as text from "../text.js";
import { MoreCalls } from "./more_calls.js";

const WORDS = (each) => [each.name, each.kind, each.owner, each.description, each.mode, each.state, each.place].map(text.printable).join(" ");

const COLUMNS = [
  { key: "name", title: "policy", sort: (each) => each.name, cell: (each) => html`<a class="foreign" href=${link(["policies", each.name])}>${text.shortened(each.name, 63)}</a>${each.description ? html`<br /><small class="foreign">${text.shortened(each.description, 120)}</small>` : null}` },
  { key: "kind", title: "kind", sort: (each) => each.kind, cell: (each) => each.kind },
  { key: "owner", title: "owner", sort: (each) => each.owner, cell: (each) => html`<${Foreign} value=${each.owner} />` },
  { key: "mode", title: "mode", sort: (each) => each.mode, cell: (each) => (each.mode === "observe" ? html`<${State} is="observed" label="observe" />` : html`<${Foreign} value=${each.mode} />`) },
  { key: "window", title: "window", sort: (each) => each.window?.closes, cell: (each) => (each.state ? html`<${State} is=${each.state} label=${windowInWords(each.window, each.state)} />` : html`<span class="none">–</span>`) },
  { key: "allowed", title: "allowed", end: true, sort: (each) => each.allowed, cell: (each) => html`<${Num} value=${each.allowed} />` },
  { key: "denied", title: "denied", end: true, sort: (each) => each.denied, cell: (each) => html`<${Num} value=${each.denied} class="bad" />` },
  { key: "used", title: "last used", sort: (each) => each.last_used, cell: (each) => (each.last_used ? html`<${Time} at=${each.last_used} as="age" />` : html`<${State} is="warn" label="never" />`) },
  { key: "place", title: "written in", sort: (each) => each.place, cell: (each) => html`<${Foreign} value=${each.place} mono longest=${60} />` },
];

function Usage({ name, route }) {
  const asked = useApi(["policies", name, "usage"], spanOf(route), { live: isLive(route) });
  return html`<${Panel} title="What it decided" url=${asked.url} class="wide"><${Answer} from=${asked} what="its usage">${(used) => html`
    <${Facts} of=${[
      ["calls", html`<${Num} value=${used.calls} />`],
      ["allowed", html`<${Num} value=${used.allowed} class="good" />`],
      ["denied", html`<${Num} value=${used.denied} class="bad" />`],
      ["last used", html`<${Time} at=${used.last_used} as="age" />`],
    ]} />
    ${used.edges.length
      ? html`<${Table} name="edges" caption="where it decided" rows=${used.edges} order="-calls" rowKey=${(each) => JSON.stringify([each.from, each.to])} columns=${[
          { key: "edge", title: "edge", sort: (each) => each.from, cell: (each) => html`<a class="foreign" href=${link(["map", "edge", each.from, each.to])}>${text.shortened(text.shortName(each.from), 44)} → ${text.shortened(text.shortName(each.to), 44)}</a>` },
          { key: "calls", title: "calls", end: true, sort: (each) => each.calls, cell: (each) => html`<${Num} value=${each.calls} />` },
          { key: "denied", title: "denied", end: true, sort: (each) => each.denied, cell: (each) => html`<${Num} value=${each.denied} class="bad" />` },
          { key: "routes", title: "routes", cell: (each) => html`<span class="tally">${each.routes.slice(0, 12).map((route) => html`<${Foreign} value=${route} mono longest=${60} />`)}</span>` },
          { key: "used", title: "last used", sort: (each) => each.last_used, cell: (each) => html`<${Time} at=${each.last_used} as="age" />` },
        ]} />`
      : html`<${Empty}>It decided nothing in this time. A rule that is never used can go.<//>`}`}<//><//>`;
}

export function Policies({ route }) {
  const asked = useApi(["policies"], spanOf(route), { live: isLive(route) });
  const [name] = route.parts;
  const all = asked.data?.policies ?? [];
  const wanted = name === undefined ? (route.query.get("unused") === "yes" ? all.filter((each) => !each.calls) : all) : all.filter((each) => each.name === name);
  const shown = useMatching(wanted, name === undefined ? route.query.get("q") : "", WORDS);
  return html`
    ${name === undefined ? html`<div class="mapbar"><${Search} label="find a policy, owner, file" /></div>` : null}
    <${Panel} title=${name === undefined ? "What is allowed, and by whom it is used" : html`<${Foreign} value=${name} />`} class="wide" url=${asked.url}
      sub=${asked.data ? html`revision <a class="mono foreign" href=${link(["history"])}>${text.shortened(asked.data.revision ?? "none", 16)}</a>` : null}
      actions=${name === undefined ? null : html`<a class="button quiet" href=${link(["policies"])}>all policies</a>`}>
      <${Answer} from=${asked} what="the policies">${() => (shown.length
        ? html`<${Table} name="policies" caption="policies and their usage" rows=${shown} order="name" columns=${COLUMNS} rowKey=${(each) => `${each.kind} ${each.name}`} />`
        : html`<${Empty}>${name !== undefined ? "The policies in force have none of this name; what it decided before is below." : all.length ? "None of such a name." : "This hub follows no policies: start it with --policies."}<//>`)}<//>
    <//>
    ${name === undefined ? null : html`<${Usage} key=${name} name=${name} route=${route} />
      <${MoreCalls} key=${`calls ${name}`} title="Calls that it decided, kept in full" query=${{ policy: name, ...spanOf(route) }} live=${isLive(route)} />`}`;
}
