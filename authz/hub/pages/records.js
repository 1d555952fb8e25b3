// Decision records as rows: the same table wherever calls are listed.

import { html } from "./vendor/preact.js";
import { decisionOf, Foreign, Name, Num, Policy, Reason, State, Table, Time } from "./parts.js";
import { link } from "./route.js";
import { printable } from "./text.js";

export const sourceOf = ({ caller }) =>
  caller.service ?? caller.third_party ?? caller.identity ?? (caller.address ?? "").replace(/:\d+$/u, "");
export const targetOf = ({ destination }) => destination.service ?? destination.third_party ?? destination.host;
export const whatOf = (record) =>
  record.handshake ? `handshake failed: ${record.handshake.failure}` : `${record.method} ${record.path ?? record.route ?? ""}`;
// Where a record is looked at: the end of a call that was cut has the id of its beginning.
export const callLink = (record) => link(["call", record.decision_id], record.cut ? { part: "cut" } : {});

export const CALL_WORDS = (record) =>
  [sourceOf(record), record.caller.identity, targetOf(record), whatOf(record), record.reason, record.policy, record.caller.address]
    .map(printable)
    .join(" ");

const COLUMNS = {
  time: { key: "time", title: "time", sort: (each) => each.time, cell: (each) => html`<a class="when" href=${callLink(each)}><${Time} at=${each.time} as="time" /></a>` },
  decision: { key: "decision", title: "decision", sort: decisionOf, cell: (each) => html`<${State} is=${decisionOf(each)} />` },
  from: { key: "from", title: "from", sort: sourceOf, cell: (each) => html`<${Name} value=${sourceOf(each)} longest=${40} />` },
  to: { key: "to", title: "to", sort: targetOf, cell: (each) => html`<${Name} value=${targetOf(each)} longest=${40} />` },
  what: { key: "what", title: "call", sort: whatOf, cell: (each) => html`<${Foreign} value=${whatOf(each)} longest=${90} mono />` },
  reason: { key: "reason", title: "reason", sort: (each) => each.reason, cell: (each) => html`<${Reason} value=${each.reason} />` },
  policy: { key: "policy", title: "policy", sort: (each) => each.policy, cell: (each) => html`<${Policy} value=${each.policy} reason=${each.reason} />` },
  status: { key: "status", title: "status", end: true, sort: (each) => each.status, cell: (each) => html`<${Num} value=${each.status} />` },
};

export function Calls({ name, caption, calls, columns = ["time", "decision", "from", "to", "what", "reason", "policy"], order = "-time" }) {
  return html`<${Table} name=${name} caption=${caption} rows=${calls} order=${order} rowKey=${(each) => `${each.decision_id}${each.cut}`}
    columns=${columns.map((each) => COLUMNS[each])} />`;
}
