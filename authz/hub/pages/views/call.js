// One decision: what was asked, what was answered, and why; which rule came nearest and what the call lacked for it.

import { html } from "../vendor/preact.js";
import { useApi } from "../api.js";
import { Answer, decisionOf, Empty, Facts, Foreign, Name, Num, Panel, Policy, Prose, Reason, reasonInWords, State, Table, Time } from "../parts.js";
import { sourceOf, targetOf, whatOf } from "../records.js";
import { link } from "../route.js";
import * as text from "../text.js";

// What the record does not say is not said: a call that goes out is encrypted by the caller's Envoy, behind its record.
function WithoutTls({ record }) {
  if (record.direction === "inbound") return html`<${State} is="warn" label="not encrypted" />`;
  if (record.decision === "deny" && !record.cut) return html`<span class="none">not sent</span>`;
  if (record.destination.third_party) return "TLS from the caller's Envoy on";
  if (record.destination.service) return "mTLS between the two Envoys; the callee's record says which";
  return html`<span class="none">not recorded</span>`;
}

function Record({ record, url, end }) {
  const { caller, destination, tls } = record;
  return html`<${Panel} title="The call" url=${url}>
    <p class="verdict"><${State} is=${decisionOf(record)} /> <${Reason} value=${record.reason} /> <span class="sub">${reasonInWords(record.reason)}</span></p>
    ${end ? html`<p><${State} is="cut" label="cut later" /> <a href=${link(["call", record.decision_id], { part: "cut" })}>at <${Time} at=${end.time} as="time" /></a>: <span class="sub">${reasonInWords(end.reason)}</span></p>` : null}
    <p class="calltext mono"><${Foreign} value=${whatOf(record)} longest=${1200} /></p>
    <p><${Name} value=${sourceOf(record)} /> → <${Name} value=${targetOf(record)} /> · <a href=${link(["map", "edge", sourceOf(record), targetOf(record)])}>this edge on the map</a></p>
    <dl class="rowfacts">
      <div><dt>time</dt><dd><${Time} at=${record.time} /></dd></div>
      <div><dt>identity</dt><dd><${Foreign} value=${caller.identity ?? "none"} mono longest=${400} /></dd></div>
      ${caller.presented_by ? html`<div><dt>presented by</dt><dd><${Foreign} value=${caller.presented_by} mono longest=${400} /></dd></div>` : null}
      <div><dt>address</dt><dd><${Foreign} value=${caller.address} mono /></dd></div>
      <div><dt>host</dt><dd><${Foreign} value=${destination.host} mono longest=${300} /></dd></div>
      <div><dt>route</dt><dd><${Foreign} value=${record.route} mono longest=${300} /></dd></div>
      <div><dt>policy</dt><dd><${Policy} value=${record.policy} reason=${record.reason} /></dd></div>
      ${record.shadow ? html`<div><dt>if enforced</dt><dd><${State} is=${record.shadow.decision} /> <${Reason} value=${record.shadow.reason} /> <${Policy} value=${record.shadow.policy} /></dd></div>` : null}
      ${record.valid_until ? html`<div><dt>valid until</dt><dd><${Time} at=${record.valid_until} /></dd></div>` : null}
      <div><dt>encrypted by</dt><dd>${tls.version ? html`<${Foreign} value=${`${text.tlsVersion(tls.version)} ${tls.cipher ?? ""}`} />` : html`<${WithoutTls} record=${record} />`}</dd></div>
      ${tls.peer_serial ? html`<div><dt>certificate</dt><dd><${Foreign} value=${tls.peer_serial} mono /></dd></div>` : null}
      ${record.handshake ? html`<div><dt>handshake</dt><dd><${Foreign} value=${record.handshake.failure} longest=${400} />${record.handshake.claimed ? html`, claimed <${Foreign} value=${record.handshake.claimed} mono longest=${300} />` : null}, <${Num} value=${record.handshake.count} /> ${record.handshake.count === 1 ? "time" : "times"}</dd></div>` : null}
      <div><dt>decided at</dt><dd><${Foreign} value=${record.sidecar} />, ${record.direction}${record.check_us ? html`, in <${Num} value=${record.check_us} /> µs` : null}</dd></div>
      <div><dt>revision</dt><dd><a class="mono foreign" href=${link(["history", record.revision])}>${text.shortened(record.revision, 16)}</a></dd></div>
      <div><dt>ids</dt><dd class="mono"><${Foreign} value=${record.decision_id} /><br />request <${Foreign} value=${record.request_id} longest=${80} /></dd></div>
    </dl>
    <${Facts} of=${[
      ["status", html`<${Num} value=${record.status} />`],
      ["took", html`<${Num} value=${record.duration_ms} as="ms" />`],
      ["received", html`<${Num} value=${record.bytes_received} as="bytes" />`],
      ["sent", html`<${Num} value=${record.bytes_sent} as="bytes" />`],
    ]} />
  <//>`;
}

function Nearest({ rules }) {
  return rules.map((rule, at) => html`<section class="nearest" key=${rule.policy}>
    <h3>${at === 0 ? "nearest" : "next"}: <${Policy} value=${rule.policy} /> <small class="mono foreign">${text.shortened(rule.place, 120)}</small></h3>
    <${Table} name=${`near${at}`} caption=${`what the call lacks for ${text.printable(rule.policy)}`} rows=${rule.lacks} rowKey=${(each) => each.field} columns=${[
      { key: "field", title: "differs in", cell: (each) => html`<b>${text.printable(each.field)}</b>` },
      { key: "found", title: "the call has", cell: (each) => html`<${Prose} value=${each.found} />` },
      { key: "wanted", title: "the rule has", cell: (each) => (each.wanted ? html`<${Prose} value=${each.wanted} />` : html`<span class="none">–</span>`) },
    ]} />
  </section>`);
}

function Explained({ told }) {
  const changed = told.was_decided_differently;
  return html`
    ${told.to_allow ? html`<p class="remedy"><b>To allow it</b> <${Prose} value=${told.to_allow} /></p>` : null}
    ${changed ? html`<p><${State} is="warn" label="the call was answered otherwise: it had something that its record does not keep, such as headers or the rest of a long path" /></p>` : null}
    <ol class="steps">${(told.steps ?? []).map(
      (step) => html`<li key=${step.step} class=${step.reason ? "decided" : ""}><b>${text.printable(step.name)}</b> <${Prose} value=${step.found} />${step.reason ? html` <${Reason} value=${step.reason} />` : null}</li>`,
    )}</ol>
    ${told.if_enforced ? html`<p><b>if every mode was enforce:</b> <${Prose} value=${told.if_enforced.found} /></p>` : null}
    ${told.then ? html`<p><b>when that is no longer valid:</b> <${Prose} value=${told.then.found} /></p>` : null}
    ${told.nearest?.length ? html`<${Nearest} rules=${told.nearest} />` : null}`;
}

// Why there is nothing to explain: no call was made.
function Handshake({ record }) {
  return html`<${Panel} title="Why"><p>The TLS handshake failed before a call could be made, so no policy was asked: <b><${Foreign} value=${record.handshake.failure} longest=${400} /></b>.
    Whoever stands at this address has no part in the mesh, or has a certificate that is not valid any more.</p><//>`;
}

export function Call({ route }) {
  const [id] = route.parts;
  // a call that was cut has two records: its beginning, which was allowed, and its end
  const part = route.query.get("part") === "cut" ? { part: "cut" } : {};
  const record = useApi(["decisions", id ?? ""], part, { live: false, skip: !id });
  const found = record.data;
  const explained = useApi(["explain", id ?? ""], part, { live: false, skip: !id || !found || Boolean(found.handshake) });
  // a call that ran on when its record was written may have been cut since
  const ranOn = Boolean(found) && found.decision === "allow" && found.status === null;
  const end = useApi(["decisions", id ?? ""], { part: "cut" }, { live: false, skip: !ranOn });
  if (!id) return html`<${Empty}>A call is looked at by the id of its decision.<//>`;
  return html`<div class="twofold">
    <${Answer} from=${record} what="this call">${(told) => html`<${Record} record=${told} url=${record.url} end=${end.data} />`}<//>
    ${found?.handshake
      ? html`<${Handshake} record=${found} />`
      : found
        ? html`<${Panel} title=${found.cut ? "Why it was cut" : "Why"} url=${explained.url}>
            ${found.cut ? html`<p>It was allowed by <${Policy} value=${found.policy} /> when it began. At its end a new call was answered so:</p>` : null}
            <${Answer} from=${explained} what="the explanation">${(told) => html`<${Explained} told=${told} />`}<//><//>`
        : null}
  </div>`;
}
