// The way back in time: a slider over the last day, week or month, with what happened marked above it.

import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { useApi } from "../api.js";
import { Choice } from "../parts.js";
import { go, here } from "../route.js";
import { ageSeconds, count, duration, printable, utc, utcDate, utcTime } from "../text.js";

const SPANS = ["24h", "7d", "30d"];
const POSITIONS = 288;

function marksOf(revisions, windows, from, until) {
  const found = [];
  for (const each of revisions?.revisions ?? []) {
    const at = Date.parse(each.first_seen ?? each.time);
    found.push({ at, sign: "◆", tone: "accent", words: `policies changed to ${printable(each.revision).slice(0, 12)}` });
  }
  for (const each of windows?.windows ?? []) {
    if (each.opens) found.push({ at: Date.parse(each.opens), sign: "▸", tone: "good", words: `${printable(each.name)} opened` });
    if (each.closes) found.push({ at: Date.parse(each.closes), sign: "■", tone: "bad", words: `${printable(each.name)} closed` });
  }
  return found.filter(({ at }) => at >= from && at <= until).slice(0, 200);
}

// How many calls there were: a bar for each step of the API's answer, none for those that it leaves out.
function Density({ asked, from, length }) {
  const { points = [], step_s: step = 3600 } = asked.data ?? {};
  const most = points.reduce((found, each) => Math.max(found, each.calls), 0);
  if (!most) return html`<div class="density"></div>`;
  const width = (step * 1000 * 100) / length;
  const every = step === 3600 ? "hour" : duration(step);
  const label = `calls over time: ${count(points.reduce((sum, each) => sum + each.calls, 0))}, at most ${count(most)} in one ${every}`;
  return html`<div class="density" role="img" aria-label=${label} title=${label}>${points.map((each) => {
    const left = ((Date.parse(each.time) - from) / length) * 100;
    const seen = Math.max(left, 0);
    const style = { left: `${seen}%`, width: `${Math.max(0, Math.min(left + width, 100) - seen)}%`, height: `${Math.max((each.calls / most) * 100, 6)}%` };
    return html`<i key=${each.time} style=${style} data-calls=${each.calls} data-denied=${each.denied}>${each.denied ? html`<b style=${{ height: `${Math.max((each.denied / each.calls) * 100, 12)}%` }}></b>` : null}</i>`;
  })}</div>`;
}

export function TimeSlider({ route }) {
  const span = SPANS.includes(route.query.get("span")) ? route.query.get("span") : "24h";
  const at = route.query.get("at");
  const revisions = useApi(["revisions"]);
  const windows = useApi(["windows"]);
  const density = useApi(["history"], { since: span }, { live: false });
  const again = useRef(density.again);
  again.current = density.again;
  const length = ageSeconds(span) * 1000;
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => {
      setNow(Date.now());
      if (!document.hidden) again.current();
    }, 60_000);
    return () => clearInterval(timer);
  }, []);
  const from = now - length;
  const given = at ? Math.round(((Date.parse(at) - from) / length) * POSITIONS) : POSITIONS;
  const [moved, setMoved] = useState(null);
  const timer = useRef(null);
  useEffect(() => setMoved(null), [at]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const position = moved ?? Math.max(0, Math.min(given, POSITIONS));
  const there = position >= POSITIONS ? null : new Date(Math.round((from + (length * position) / POSITIONS) / 60_000) * 60_000);
  const move = (event) => {
    const next = Number(event.target.value);
    setMoved(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      const time = next >= POSITIONS ? null : new Date(Math.round((from + (length * next) / POSITIONS) / 60_000) * 60_000).toISOString();
      go(here({ at: time }), { replace: true });
    }, 200);
  };
  const marks = useMemo(() => marksOf(revisions.data, windows.data, from, now), [revisions.data, windows.data, from, now]);
  const place = (time) => `${((time - from) / length) * 100}%`;
  const ticks = Array.from({ length: 5 }, (_, each) => new Date(from + (length * each) / 4));
  const words = there ? utc(there) : "now";
  return html`<div class="timeline" role="group" aria-label="time">
    <${Choice} label="how far back" value=${span} of=${SPANS.map((each) => [each, each])} onChoose=${(each) => go(here({ span: each }), { replace: true })} />
    <div class="track">
      <${Density} asked=${density} from=${from} length=${length} />
      <div class="marks">${marks.map(
        (each) => html`<button type="button" class=${`mark ${each.tone}`} style=${{ left: place(each.at) }} title=${`${each.words}, ${utc(new Date(each.at))}`}
          aria-label=${`${each.words}, ${utc(new Date(each.at))}: show the map then`} onClick=${() => go(here({ at: new Date(each.at).toISOString() }))}>${each.sign}</button>`,
      )}</div>
      <input type="range" min="0" max=${POSITIONS} step="1" value=${position} onInput=${move} aria-label="the map as it was" aria-valuetext=${words} />
      <div class="ticks" aria-hidden="true">${ticks.map(
        (each, index) => html`<span>${index === 4 ? "now" : span === "24h" ? utcTime(each).slice(0, 5) : utcDate(each).slice(5)}</span>`,
      )}</div>
    </div>
    <output class="num">${there ? html`${utcDate(there)}<br />${utcTime(there).slice(0, 5)} UTC` : html`now<br />live`}</output>
  </div>`;
}
