// Rates over time, drawn by uPlot, with the same numbers as a table for whoever does not see the drawing.

import { html, useEffect, useRef } from "./vendor/preact.js";
import uPlot from "./vendor/uplot.js";
import { Time } from "./parts.js";
import * as text from "./text.js";
import { useTheme } from "./theme_choice.js";

const HEIGHT_REM = 9.2;
const DAY_S = 86_400;

const heightPx = () => Math.round(HEIGHT_REM * Number.parseFloat(getComputedStyle(document.documentElement).fontSize));

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Time on the axis in UTC, whatever zone the browser is in.
const inUtc = (seconds) => new Date(seconds * 1000 + new Date(seconds * 1000).getTimezoneOffset() * 60_000);

// In UTC and by 24 hours, or the day where there are several.
function onAxis(seconds, all) {
  const time = new Date(seconds * 1000);
  return all.at(-1) - all[0] > 2 * DAY_S || seconds % DAY_S === 0 ? text.utcDate(time).slice(5) : text.utcTime(time).slice(0, 5);
}

function axis(write) {
  return {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: `11px ${colour("--sans")}`,
    ...(write ? { values: (_, all) => all.map((each) => (each === null ? "" : write(each))), size: 62 } : { size: 28 }),
  };
}

function options({ width, lines, write, sync, readout }) {
  return {
    width,
    height: heightPx(),
    legend: { show: false },
    tzDate: inUtc,
    cursor: { sync: { key: sync }, points: { size: 6 }, drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.12 : 1] } },
    axes: [{ ...axis(null), values: (_, all) => all.map((each) => onAxis(each, all)) }, axis(write)],
    series: [
      {},
      ...lines.map(({ tone, dash, fill }) => ({
        stroke: colour(tone),
        width: 1.6,
        dash,
        fill: fill ? `color-mix(in srgb, ${colour(tone)} 16%, transparent)` : undefined,
        points: { show: false },
        spanGaps: false,
      })),
    ],
    hooks: { setCursor: [(plot) => readout(plot.cursor.idx)] },
  };
}

// `times` in seconds since the epoch; `lines`: {title, values, tone (a colour's name), dash?, fill?}; `write` a number.
export function Chart({ title, times, lines, write, sync }) {
  const box = useRef(null);
  const plot = useRef(null);
  const words = useRef(null);
  const theme = useTheme();
  const shape = lines.map((each) => each.title).join("|");
  useEffect(() => {
    const readout = (at) => {
      if (!words.current) return;
      const told = at === null || at === undefined ? "" : text.utc(new Date(plot.current.data[0][at] * 1000));
      words.current.textContent = told;
      box.current.parentElement.querySelectorAll("[data-line]").forEach((each, index) => {
        const value = at === null || at === undefined ? null : plot.current.data[index + 1][at];
        each.textContent = value === null || value === undefined ? "" : write(value);
      });
    };
    const width = Math.max(box.current.clientWidth, 120);
    plot.current = new uPlot(options({ width, lines, write, sync, readout }), [times, ...lines.map((each) => each.values)], box.current);
    const watch = new ResizeObserver(([entry]) => {
      const next = Math.floor(entry.contentRect.width);
      if (next > 0 && next !== plot.current.width) plot.current.setSize({ width: next, height: heightPx() });
    });
    watch.observe(box.current);
    return () => {
      watch.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [theme, shape]);
  useEffect(() => plot.current?.setData([times, ...lines.map((each) => each.values)]), [times, lines]);
  const most = (values) => values.reduce((old, each) => (each !== null && each > old ? each : old), 0);
  const summary = lines.map((each) => `${each.title} at most ${write(most(each.values))}`).join(", ");
  return html`<figure class="chart">
    <figcaption><b>${title}</b>${lines.map(
      (each) => html`<span class="key"><i style=${{ background: `var(${each.tone})` }} class=${each.dash ? "dashed" : ""} aria-hidden="true"></i>${each.title} <span data-line class="num"></span></span>`,
    )}<span class="when" ref=${words}></span></figcaption>
    <div ref=${box} role="img" aria-label=${`${title} over time: ${summary}`}></div>
  </figure>`;
}

// The same points in words.
export function Points({ times, lines, write }) {
  const rows = times.map((at, index) => [at, index]).slice(-60).reverse();
  return html`<details class="points"><summary>the last ${rows.length} points as a table</summary>
    <div class="tablebox" tabindex="0" role="region" aria-label="points of the charts"><table>
      <thead><tr><th scope="col">time</th>${lines.map((each) => html`<th scope="col" class="end">${each.title}</th>`)}</tr></thead>
      <tbody>${rows.map(
        ([at, index]) => html`<tr key=${at}><td><${Time} at=${new Date(at * 1000).toISOString()} /></td>${lines.map(
          (each) => html`<td class="end">${each.values[index] === null ? "–" : (each.write ?? write)(each.values[index])}</td>`,
        )}</tr>`,
      )}</tbody>
    </table></div>
  </details>`;
}
