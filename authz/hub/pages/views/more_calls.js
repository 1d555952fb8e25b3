// Calls, page by page.

import { html, useEffect, useState } from "../vendor/preact.js";
import { address, ask, useAgainOn, useApi } from "../api.js";
import { Answer, Empty, Panel, useMatching } from "../parts.js";
import { Calls, CALL_WORDS } from "../records.js";

const PAGE = 50;

export function MoreCalls({ title, sub, query, live, words, columns }) {
  const asked = useApi(["calls"], { ...query, limit: PAGE }, { live });
  useAgainOn(["deny"], asked.again);
  const [older, setOlder] = useState({ calls: [], cursor: undefined, failed: null });
  const first = asked.data?.calls ?? [];
  const cursor = older.cursor === undefined ? asked.data?.cursor : older.cursor;
  useEffect(() => setOlder({ calls: [], cursor: undefined, failed: null }), [asked.url?.href]);
  const more = async () => {
    try {
      const page = await ask(address(["calls"], { ...query, limit: PAGE, cursor }));
      // what came new since then has moved the first page on: each call stands here once
      const seen = new Set([...first, ...older.calls].map((each) => each.decision_id + each.cut));
      const fresh = page.calls.filter((each) => !seen.has(each.decision_id + each.cut));
      setOlder({ calls: [...(older.cursor === undefined ? first : older.calls), ...fresh], cursor: page.cursor, failed: null });
    } catch (error) {
      setOlder({ ...older, failed: error.message });
    }
  };
  const known = new Set(first.map((each) => each.decision_id + each.cut));
  const all = [...first, ...older.calls.filter((each) => !known.has(each.decision_id + each.cut))];
  const shown = useMatching(all, words, CALL_WORDS);
  return html`<${Panel} title=${title} sub=${sub} class="wide" url=${asked.url}>
    <${Answer} from=${asked} what="the calls">${() => html`
      ${shown.length === 0 ? html`<${Empty}>${all.length ? "None of the calls that are here has this in it." : "No calls in this time."}<//>` : html`<${Calls} name="calls" caption=${title} calls=${shown} columns=${columns} />`}
      ${cursor ? html`<p class="more"><button type="button" onClick=${more}>older ones</button>${older.failed ? html` <span role="alert">${older.failed}</span>` : null}</p>` : null}`}
    <//>
  <//>`;
}
