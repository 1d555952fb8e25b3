// The span of time that is looked at, as the API's parameters say it.

import { ageSeconds } from "./text.js";

export const DEFAULT_RANGE = "1h";

export const rangeOf = (route) => (ageSeconds(route.query.get("since")) ? route.query.get("since") : DEFAULT_RANGE);

// For questions with `since` and `until`: up to now, or up to the instant that is looked back at.
export function spanOf(route) {
  const at = route.query.get("at");
  const range = rangeOf(route);
  const until = at ? new Date(at) : null;
  if (!until || Number.isNaN(until.getTime())) return { since: range };
  return { since: new Date(until.getTime() - ageSeconds(range) * 1000).toISOString(), until: until.toISOString() };
}

// The same for the map, which knows `at`.
export function mapSpanOf(route) {
  const at = route.query.get("at");
  return at ? { since: rangeOf(route), at } : { since: rangeOf(route) };
}

// `compare` of the API is when the other span ended; of the page it is how long before this one.
export function comparedWith(route, age) {
  if (!ageSeconds(age)) return {};
  const at = route.query.get("at");
  const until = at ? new Date(at) : null;
  if (!until || Number.isNaN(until.getTime())) return { compare: age };
  return { compare: new Date(until.getTime() - ageSeconds(age) * 1000).toISOString() };
}

export const isLive = (route) => !route.query.get("at");
