// The map: who talks to whom, as a drawing and as a list of the same.

import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { useAgainOn, useApi } from "../api.js";
import { Answer, Choice, Empty, Num, Search, Shares, Source, State, Table } from "../parts.js";
import { go, here, link } from "../route.js";
import { comparedWith, isLive, mapSpanOf, rangeOf } from "../span.js";
import * as text from "../text.js";
import { useTheme } from "../theme_choice.js";
import { MapCanvas } from "./canvas.js";
import { changeOf, GROUPED_ABOVE, isTls, mapOf, withoutCalls } from "./model.js";
import { EdgePanel, NodePanel, passed, Tls } from "./panel.js";
import { TimeSlider } from "./time.js";

const COMPARED = [["", "nothing"], ["1h", "an hour before"], ["24h", "a day before"], ["7d", "a week before"], ["30d", "30 days before"]];

function wantedOf(route) {
  return {
    attributes: route.query.getAll("attr").flatMap((each) => each.split(",")).map((each) => each.split("=", 2)).filter(([, value]) => value !== undefined),
    only: route.query.get("only"),
    group: route.query.get("group"),
    opened: new Set((route.query.get("open") ?? "").split(",").filter(Boolean).map((each) => decodeURIComponent(each))),
    quiet: route.query.get("quiet") !== "no",
  };
}

function Counts({ map, services }) {
  const sum = (name) => map.listed.reduce((total, each) => total + (each[name] ?? 0), 0);
  const plain = sum("plain");
  const parties = services.filter((each) => each.kind === "third_party");
  const calls = sum("calls");
  return html`<dl class="counts">
    <div><dt>calls</dt><dd><${Num} value=${calls} /></dd></div>
    <div class=${sum("denied") ? "bad" : ""}><dt>denied</dt><dd><${Num} value=${sum("denied")} /> <small>${text.share(sum("denied"), calls)}</small></dd></div>
    <div><dt>edges</dt><dd><${Num} value=${map.listed.length} /></dd></div>
    <div><dt>services</dt><dd><${Num} value=${services.filter((each) => each.kind === "service").length} /></dd></div>
    <div><dt>third parties</dt><dd><${Num} value=${parties.length} /></dd></div>
    <div class=${plain ? "watch" : ""}><dt>without TLS</dt><dd><${Num} value=${plain} /></dd></div>
  </dl>`;
}

function Select({ label, value, of, onChoose }) {
  return html`<label class="select">${label} <select value=${value} onChange=${(event) => onChoose(event.target.value)}>${of.map(
    ([each, words]) => html`<option value=${each} selected=${each === value}>${words}</option>`,
  )}</select></label>`;
}

const wide = () => window.matchMedia("(min-width: 641px)").matches;

function Filters({ route, map }) {
  const set = (query) => go(here(query), { replace: true });
  const attributes = map.groupings.flatMap(({ key, values }) => values.slice(0, 60).map(([value, calls]) => [`${key}=${value}`, `${text.shortened(key, 30)}: ${text.shortened(value, 40)} (${calls})`]));
  const chosen = ["only", "attr", "group", "compare"].filter((each) => route.query.get(each)).length;
  return html`<div class="filters"><${Search} label="find a service" />
    <details class="more-filters" open=${wide()}><summary>filters${chosen ? ` (${chosen})` : ""}</summary><div>
    <${Select} label="only" value=${route.query.get("only") ?? ""} onChoose=${(each) => set({ only: each })} of=${[["", "all calls"], ["denied", "denied"], ["observed", "observed"], ["plaintext", "without TLS"], ...(route.query.get("compare") ? [["changed", "changed"]] : [])]} />
    ${attributes.length ? html`<${Select} label="attribute" value=${route.query.get("attr") ?? ""} onChoose=${(each) => set({ attr: each })} of=${[["", "any"], ...attributes]} />` : null}
    <${Select} label="group by" value=${route.query.get("group") ?? map.by} onChoose=${(each) => set({ group: each, open: null })}
      of=${[["none", "nothing"], ...map.groupings.map(({ key }) => [key, text.shortened(key, 30)]), ["name", "first word of the name"], ["kind", "kind"]]} />
    <${Select} label="compare with" value=${route.query.get("compare") ?? ""} onChoose=${(each) => set({ compare: each })} of=${COMPARED} />
    </div></details>
  </div>`;
}

const edgeAddress = (edge, route) => link(["map", "edge", edge.from, edge.to], passed(route));

function EdgeList({ edges, route, kindOf }) {
  const columns = [
    { key: "edge", title: "edge", sort: (each) => each.from, cell: (each) => html`<a class="foreign" href=${edgeAddress(each, route)} title=${text.shortened(each.from, 400)}>${text.shortened(text.shortName(each.from), 44)} → ${text.shortened(text.shortName(each.to), 44)}</a>` },
    { key: "share", title: "shares", cell: (each) => html`<${Shares} ...${each} />` },
    { key: "calls", title: "calls", end: true, sort: (each) => each.calls, cell: (each) => html`<${Num} value=${each.calls} />` },
    { key: "allowed", title: "allowed", end: true, sort: (each) => each.allowed, cell: (each) => html`<${Num} value=${each.allowed} />` },
    { key: "observed", title: "observed", end: true, sort: (each) => each.observed, cell: (each) => html`<${Num} value=${each.observed} class="watch" />` },
    { key: "denied", title: "denied", end: true, sort: (each) => each.denied, cell: (each) => html`<${Num} value=${each.denied} class="bad" />` },
    { key: "p50", title: "p50", end: true, sort: (each) => each.p50_ms, cell: (each) => html`<${Num} value=${each.p50_ms} as="ms" />` },
    { key: "p99", title: "p99", end: true, sort: (each) => each.p99_ms, cell: (each) => html`<${Num} value=${each.p99_ms} as="ms" />` },
    { key: "bytes", title: "bytes", end: true, sort: (each) => each.bytes_received + each.bytes_sent, cell: (each) => html`<${Num} value=${each.bytes_received + each.bytes_sent} as="bytes" />` },
    { key: "tls", title: "encrypted by", sort: (each) => each.plain, cell: (each) => html`<${Tls} edge=${each} kind=${kindOf(each.to)} />` },
    ...(route.query.get("compare") ? [{ key: "change", title: "change", sort: changeOf, cell: (each) => (changeOf(each) ? html`<${State} is=${changeOf(each)} />` : "") }] : []),
  ];
  return html`<${Table} name="edges" caption="who calls whom" rows=${edges} order="-calls" columns=${columns}
    rowKey=${(each) => JSON.stringify([each.from, each.to])} rowClass=${(each) => (each.denied ? "refused" : "")} />`;
}

function Tip({ at }) {
  if (!at) return null;
  const style = { left: `${at.x + 14}px`, top: `${at.y + 14}px` };
  if (!at.source) {
    return html`<div class="tip" style=${style} role="presentation"><b class="foreign">${text.shortened(at.name, 120)}</b>
      <span>${text.count(at.calls)} calls come in${at.denied ? `, ${text.count(at.denied)} denied` : ""}</span>${at.sub ? html`<span>${at.sub}</span>` : null}</div>`;
  }
  return html`<div class="tip" style=${style} role="presentation">
    <b class="foreign">${at.edges > 1 ? `${at.edges} edges` : `${text.shortened(text.shortName(at.from), 50)} → ${text.shortened(text.shortName(at.to), 50)}`}</b>
    ${at.calls ? html`<span>${text.count(at.calls)} calls: ${text.share(at.allowed, at.calls)} allowed${at.observed ? `, ${text.share(at.observed, at.calls)} observed` : ""}${at.denied ? `, ${text.count(at.denied)} denied` : ""}</span>` : html`<span>no call began in this time: ${withoutCalls(at)}</span>`}
    <span>p50 ${text.milliseconds(at.p50_ms)} · p99 ${text.milliseconds(at.p99_ms)}</span>
    <span>${at.plain ? `▲ ${text.count(at.plain)} without TLS` : Object.keys(at.tls).filter(isTls).map(text.printable).join(", ")}</span>
  </div>`;
}

function Drawing({ map, route, chosen, lit, children }) {
  const box = useRef(null);
  const canvas = useRef(null);
  const [tip, setTip] = useState(null);
  const theme = useTheme();
  const latest = useRef(route);
  latest.current = route;
  useEffect(() => {
    canvas.current = new MapCanvas(box.current, {
      onEdge: (edge) => {
        const at = latest.current;
        if (edge.edges === 1) go(edgeAddress(edge, at));
        else go(link(["map"], { ...passed(at), as: "list", between: edge.id }));
      },
      onNode: (node) => {
        const at = latest.current;
        if (node === null) {
          if (at.parts.length) go(link(["map"], passed(at)));
        } else if (node.kind === "group") {
          const open = new Set((at.query.get("open") ?? "").split(",").filter(Boolean));
          go(link(["map"], { ...passed(at), open: [...open, encodeURIComponent(node.name)].join(",") }));
        } else go(link(["map", "node", node.name], passed(at)));
      },
      onPoint: setTip,
    });
    const watch = new ResizeObserver(() => canvas.current?.resize());
    watch.observe(box.current);
    return () => {
      watch.disconnect();
      canvas.current.destroy();
      canvas.current = null;
    };
  }, []);
  useEffect(() => canvas.current.show(map), [map]);
  useEffect(() => canvas.current.recolour(), [theme]);
  useEffect(() => canvas.current.choose(chosen), [chosen, map]);
  useEffect(() => canvas.current.light(lit), [lit, map]);
  const press = (event) => {
    if (!event.ctrlKey && !event.metaKey && canvas.current.press(event.key)) event.preventDefault();
  };
  const label = `map of ${map.nodes.length} nodes and ${map.edges.length} edges; arrows move it, + and - zoom; the list shows the same`;
  return html`<div class="drawing">
    <div class="canvas" ref=${box} tabindex="0" role="img" aria-label=${label} onKeyDown=${press} data-map></div>
    ${children}
    <${Tip} at=${tip} />
    <div class="zoom" role="group" aria-label="view of the map">
      <button type="button" onClick=${() => canvas.current.zoomBy(1.25)} aria-label="closer" title="+">+</button>
      <button type="button" onClick=${() => canvas.current.zoomBy(0.8)} aria-label="further" title="−">−</button>
      <button type="button" onClick=${() => canvas.current.fit()} aria-label="all of it" title="0">⤢</button>
      <button type="button" onClick=${() => canvas.current.arrange()} title="work out all places anew">arrange</button>
    </div>
    <ul class="legend" aria-label="what the lines and shapes mean">
      <li><i class="line good" aria-hidden="true"></i>allowed</li><li><i class="line watch" aria-hidden="true"></i>observed</li>
      <li><i class="line bad dashed" aria-hidden="true"></i>denied</li><li>⇄ third party</li><li>? unknown</li><li>width, number: calls; ✕ denied</li>
    </ul>
  </div>`;
}

function Opened({ route, map }) {
  const open = (route.query.get("open") ?? "").split(",").filter(Boolean);
  if (!open.length && map.by === "none") return null;
  const groups = map.nodes.filter((each) => each.kind === "group").length;
  return html`<p class="opened">${groups ? html`<span>${text.count(map.total)} nodes in ${groups} groups by ${text.shortened(map.by, 30)}${map.total > GROUPED_ABOVE ? ` (more than ${GROUPED_ABOVE})` : ""}; a click opens one</span>` : null}
    ${open.map((each) => html`<a class="chip" href=${here({ open: open.filter((other) => other !== each).join(",") })}>${text.shortened(decodeURIComponent(each), 40)} <span aria-hidden="true">✕</span><span class="hidden">close this group</span></a>`)}</p>`;
}

function chosenId(route, map) {
  const [what, from, to] = route.parts;
  if (what === "node") return map.idOf.get(from) ?? null;
  if (what === "edge") return JSON.stringify([map.idOf.get(from), map.idOf.get(to)]);
  return null;
}

function Shown({ route, services, edges, urls }) {
  // only what changes the map works it out anew: not what is searched for, and not what is opened beside it
  const query = ["attr", "only", "group", "open", "quiet", "compare"].map((each) => route.query.getAll(each)).join("|");
  const map = useMemo(() => mapOf(services.services, edges.edges, wantedOf(route)), [services, edges, query]);
  const needle = (route.query.get("q") ?? "").toLowerCase();
  const known = useMemo(() => new Map(services.services.map((each) => [each.name, each])), [services]);
  const matches = useMemo(() => {
    if (!needle) return null;
    const said = (name) => name.toLowerCase().includes(needle) || (known.get(name)?.identities ?? []).some((each) => each.toLowerCase().includes(needle));
    return said;
  }, [needle, known]);
  const lit = useMemo(() => {
    if (!matches) return null;
    const ids = new Set([...map.idOf.entries()].filter(([name]) => matches(name)).map(([, id]) => id));
    return (data) => ids.has(data.id);
  }, [matches, map]);
  const [what, from, to] = route.parts;
  const as = route.query.get("as") ?? "map";
  const between = route.query.get("between");
  const listed = map.listed.filter((each) => (!matches || matches(each.from) || matches(each.to)) && (!between || JSON.stringify([map.idOf.get(each.from), map.idOf.get(each.to)]) === between));
  const nothing = `No calls${route.query.get("only") ? " of that kind" : ""} in the ${isLive(route) ? "last " : ""}${rangeOf(route)}${isLive(route) ? "" : " before then"}. Choose a longer range, or start something that calls.`;
  return html`<div class=${`mapview ${what ? "chosen" : ""}`}>
    <div class="mapbar counted"><${Counts} map=${map} services=${services.services} /><${Source} url=${urls[0]} /></div>
    <div class="mapbar filtered"><${Filters} route=${route} map=${map} />
      <${Choice} label="drawn or listed" value=${as} of=${[["map", "map"], ["list", "list"]]} onChoose=${(each) => go(here({ as: each === "map" ? null : each, between: null }), { replace: true })} /></div>
    <${Opened} route=${route} map=${map} />
    <div class=${`mapbox ${what ? "with-detail" : ""}`}>
      <div class="mapmain">
        ${map.nodes.length === 0
          ? html`<${Empty}>${nothing}<//>`
          : as === "list"
            ? html`${between ? html`<p class="opened"><a class="chip" href=${here({ between: null })}>edges between two groups <span aria-hidden="true">✕</span></a></p>` : null}<${EdgeList} edges=${listed} route=${route} kindOf=${(name) => map.all.get(name).kind} />`
            : html`<${Drawing} map=${map} route=${route} chosen=${chosenId(route, map)} lit=${lit}>${map.edges.length ? null : html`<p class="overlay">${nothing}</p>`}<//>`}
        <${TimeSlider} route=${route} />
      </div>
      ${what === "edge" && to !== undefined ? html`<${EdgePanel} key=${`${from} ${to}`} from=${from} to=${to} kind=${map.all.get(to)?.kind} route=${route} />` : null}
      ${what === "node" && from !== undefined ? html`<${NodePanel} key=${from} name=${from} service=${known.get(from)} edges=${edges.edges} route=${route} url=${urls[0]} />` : null}
    </div>
  </div>`;
}

export function MapView({ route }) {
  const live = isLive(route);
  const compare = route.query.get("compare");
  const edges = useApi(["edges"], { ...mapSpanOf(route), ...comparedWith(route, compare) }, { live });
  const services = useApi(["services"], {}, { live });
  useAgainOn(["deny", "edge", "revision", "window"], edges.again);
  useAgainOn(["edge", "window"], services.again);
  const kept = useRef(null);
  // the map of the last answer stays while another span is asked for: a slider that blanks the map shows nothing
  if (edges.data) kept.current = edges.data;
  const shown = edges.data ?? (edges.loading ? kept.current : null);
  return html`<${Answer} from=${services} what="the services">${(told) => html`<${Answer} from=${{ ...edges, data: shown }} what="who calls whom">${(found) =>
    html`<${Shown} route=${route} services=${told} edges=${found} urls=${[edges.url, services.url]} />`}<//>`}<//>`;
}
