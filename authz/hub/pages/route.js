// Where one is: `#/map/edge/storefront/catalog?since=1h`. Everything that can be looked at has such an address.

import { useEffect, useState } from "./vendor/preact.js";

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/u, "").split("?", 2);
  const parts = path.split("/").filter(Boolean).map(decoded);
  return { view: parts[0] || "map", parts: parts.slice(1), query: new URLSearchParams(query) };
}

export function current() {
  return parse(location.hash);
}

// What stays the same when one goes from view to view: the range of time.
const KEPT = ["since", "at"];

// An address: `parts` are names as they are, `query` what differs; null takes a parameter away.
export function link(parts, query = {}, { keep = KEPT } = {}) {
  const next = new URLSearchParams();
  const now = current().query;
  for (const name of keep) if (now.has(name)) next.set(name, now.get(name));
  for (const [name, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === "") next.delete(name);
    else next.set(name, value);
  }
  const text = next.toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

// The same place with other parameters.
export function here(query) {
  const { view, parts, query: now } = current();
  return link([view, ...parts], query, { keep: [...now.keys()] });
}

export function go(address, { replace = false } = {}) {
  if (!replace) {
    location.hash = address;
    return;
  }
  history.replaceState(null, "", address);
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

export function useRoute() {
  const [route, setRoute] = useState(current);
  useEffect(() => {
    const follow = () => setRoute(current());
    window.addEventListener("hashchange", follow);
    return () => window.removeEventListener("hashchange", follow);
  }, []);
  return route;
}
