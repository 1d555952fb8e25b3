// What the map shows, from what the API says: pure, so that the drawing and the list say the same.

import { duration, instant, printable, shortName, shortened, utcDate } from "../text.js";

//: more than this many nodes are put together, unless the address says otherwise
export const GROUPED_ABOVE = 150;
const MOST_GROUPS = 80;

// A third party's window as its node says it.
export function windowInWords(window, state, now = Date.now()) {
  if (!window) return "";
  const opens = instant(window.opens);
  const closes = instant(window.closes);
  const away = (time) => duration((time.getTime() - now) / 1000);
  if (state === "opening" && opens) return `opens in ${away(opens)}`;
  if (state === "ended" && closes) return `ended ${duration((closes.getTime() - now) / 1000, 1)} ago`;
  if (state === "closing" && closes) return `closes in ${away(closes)}`;
  if (closes) return `open until ${utcDate(closes)}`;
  return opens ? "open, no end" : "always open";
}

const KINDS = { service: "Services", third_party: "third parties", unknown: "unknown" };

// By what nodes can be put together: attributes with fewer values than nodes, then what every name has.
export function groupings(services) {
  const keys = new Map();
  for (const service of services) {
    for (const [key, value] of Object.entries(service.attributes ?? {})) {
      if (!keys.has(key)) keys.set(key, new Map());
      const values = keys.get(key);
      values.set(String(value), (values.get(String(value)) ?? 0) + 1);
    }
  }
  return [...keys.entries()]
    .map(([key, values]) => ({ key, values: [...values.entries()].sort(([a], [b]) => a.localeCompare(b)) }))
    .sort((a, b) => a.key.localeCompare(b.key));
}

function bestGrouping(services, found) {
  const covered = (values) => values.reduce((sum, [, each]) => sum + each, 0);
  const fit = found
    .filter(({ values }) => values.length > 1 && values.length <= MOST_GROUPS)
    .sort((a, b) => covered(b.values) - covered(a.values) || b.values.length - a.values.length);
  return fit.length ? fit[0].key : "name";
}

function groupOf(service, by) {
  if (service.kind === "third_party") return null;
  if (by === "kind") return KINDS[service.kind] ?? service.kind;
  if (by === "name") {
    const name = shortName(service.name);
    return service.kind === "unknown" ? "unknown" : (/^[^-_.@/]+/u.exec(name)?.[0] ?? name);
  }
  const value = service.attributes?.[by];
  return value === undefined ? (service.kind === "unknown" ? "unknown" : `no ${by}`) : String(value);
}

// How an edge differs from what it was in the span that is compared with; null where it does not.
export const changeOf = (edge) => (edge.compared && edge.compared.change !== "same" ? edge.compared.change : null);

const SUMS = ["calls", "allowed", "denied", "observed", "cut", "unreached", "plain", "bytes_received", "bytes_sent"];

function added(sum, edge) {
  for (const name of SUMS) sum[name] = (sum[name] ?? 0) + (edge[name] ?? 0);
  // percentiles do not add up: of several edges the slowest is told
  for (const name of ["p50_ms", "p99_ms"]) {
    if (edge[name] !== null && edge[name] !== undefined) sum[name] = Math.max(sum[name] ?? 0, edge[name]);
  }
  sum.tls ??= {};
  for (const [version, calls] of Object.entries(edge.tls ?? {})) sum.tls[version] = (sum.tls[version] ?? 0) + calls;
  const change = changeOf(edge);
  if (change) sum.changes = { ...sum.changes, [change]: (sum.changes?.[change] ?? 0) + 1 };
  return sum;
}

export const isTls = (version) => /^TLS/iu.test(version);

// What stands for a version where the record has none: the call was not sent, or it is one to a third party of whose
// connection Envoy has not told in time.
export function withoutVersion(edge, kind) {
  const without = Object.entries(edge.tls ?? {}).reduce((sum, [version, calls]) => sum + (isTls(version) ? 0 : calls), 0);
  if (without <= edge.denied + edge.unreached) return "not sent";
  return kind === "third_party" ? "TLS from the caller's Envoy on" : "no TLS recorded";
}

// How many calls certainly went to a Service without TLS. What was refused at the caller, or never arrived, has no TLS
// in its record because it was not sent; to a third party it is the caller's proxy that encrypts, behind the record.
export function plaintext(edge, kind = "service") {
  if (kind !== "service") return 0;
  let without = 0;
  for (const [version, calls] of Object.entries(edge.tls ?? {})) if (!isTls(version)) without += calls;
  return Math.max(0, without - edge.denied - edge.unreached);
}

const TESTS = {
  denied: (edge) => edge.denied > 0,
  plaintext: (edge) => edge.plain > 0,
  observed: (edge) => edge.observed > 0,
  changed: (edge) => changeOf(edge) !== null,
};

function serviceMap(services, edges) {
  const known = new Map(services.map((each) => [each.name, each]));
  for (const edge of edges) {
    for (const name of [edge.from, edge.to]) {
      if (!known.has(name)) known.set(name, { name, kind: "unknown", attributes: {}, identities: [] });
    }
  }
  return known;
}

function node(id, fields) {
  return { id, calls: 0, denied: 0, members: 1, ...fields };
}

// `wanted`: {attributes: [[key, value]], only, group, opened: Set of group names, quiet: whether to show who did not call}.
export function mapOf(services, given, wanted) {
  const all = serviceMap(services, given);
  const edges = given.map((edge) => ({ ...edge, plain: plaintext(edge, all.get(edge.to).kind) }));
  const test = TESTS[wanted.only] ?? (() => true);
  const has = (name) => wanted.attributes.every(([key, value]) => String(all.get(name).attributes?.[key]) === value);
  const filtered = wanted.attributes.length > 0;
  const kept = edges.filter((edge) => test(edge) && (!filtered || has(edge.from) || has(edge.to)));
  const names = new Set();
  for (const edge of kept) names.add(edge.from).add(edge.to);
  if (!wanted.only && wanted.quiet) {
    // hosts and addresses that are nobody's are whatever callers made up: each is drawn while there are calls of it
    for (const [name, { kind }] of all) if (kind !== "unknown" && (!filtered || has(name))) names.add(name);
  }
  const found = groupings(services);
  const by = wanted.group ?? (names.size > GROUPED_ABOVE ? bestGrouping(services, found) : "none");
  const nodes = new Map();
  const idOf = new Map();
  for (const name of names) {
    const service = all.get(name);
    const group = by === "none" ? null : groupOf(service, by);
    const folded = group !== null && !wanted.opened.has(group);
    const id = folded ? `g:${group}` : `s:${name}`;
    idOf.set(name, id);
    if (folded && nodes.has(id)) nodes.get(id).members += 1;
    else if (folded) nodes.set(id, node(id, { kind: "group", name: group, label: shortened(group, 32) }));
    else {
      const unnamed = service.kind === "unknown";
      nodes.set(id, node(id, {
        kind: service.kind,
        name,
        label: shortened(unnamed ? shortName(name) : name, 30),
        sub: windowInWords(service.window, service.state),
        state: service.state,
      }));
    }
  }
  const drawn = new Map();
  for (const edge of kept) {
    const from = idOf.get(edge.from);
    const to = idOf.get(edge.to);
    nodes.get(to).calls += edge.calls;
    nodes.get(to).denied += edge.denied;
    if (from === to && from.startsWith("g:")) continue;
    const id = JSON.stringify([from, to]);
    if (!drawn.has(id)) drawn.set(id, { id, source: from, target: to, from: edge.from, to: edge.to, edges: 0 });
    const sum = added(drawn.get(id), edge);
    sum.edges += 1;
  }
  for (const each of nodes.values()) if (each.kind === "group") each.sub = `${each.members} services`;
  return { nodes: [...nodes.values()], edges: [...drawn.values()], listed: kept, idOf, all, by, groupings: found, total: all.size };
}

// Shares of an edge as stops of a gradient, none so small that it is not seen. What was only observed was allowed, too.
export function stops(edge) {
  const parts = [["allowed", edge.allowed - edge.observed], ["observed", edge.observed], ["denied", edge.denied]].filter(([, calls]) => calls > 0);
  const whole = parts.reduce((sum, [, calls]) => sum + calls, 0);
  if (!whole) return [];
  const wide = parts.map(([name, calls]) => [name, Math.max(calls / whole, 0.18)]);
  const sum = wide.reduce((total, [, each]) => total + each, 0);
  let at = 0;
  return wide.map(([name, each]) => {
    const from = at;
    at += (each / sum) * 100;
    return [name, from, at];
  });
}

// An edge on which no call began: calls of before ran or ended in this time, or it has gone since the span compared with.
export function withoutCalls(edge) {
  if (edge.cut) return `${edge.cut} cut`;
  if (edge.compared?.change === "gone" || edge.changes?.gone) return "no calls";
  return "only earlier calls";
}

export function inWords(edge) {
  return `${printable(edge.from)} to ${printable(edge.to)}`;
}
