// How values become text. Names, paths and hosts come from whoever calls: what cannot be seen, or turns the direction of
// writing, is written out, so that two different names never look the same and none hides a part of itself.

const HIDDEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{e0000}-\u{e0fff}]|[\ud800-\udfff](?![\udc00-\udfff])/gu;
const LONGEST = 240;

export function printable(value) {
  if (value === null || value === undefined) return "";
  return String(value).replace(HIDDEN, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);
}

// What is cut says so; the middle goes, because both ends of a path tell something.
export function shortened(value, longest = LONGEST) {
  const text = printable(value);
  if (text.length <= longest) return text;
  const head = Math.ceil((longest - 1) * 0.7);
  return `${text.slice(0, head)}…${text.slice(text.length - (longest - 1 - head))}`;
}

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const EXACT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 3 });

function threeDigits(value) {
  if (value < 1) return String(Number(value.toPrecision(3)));
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function scaled(value, base, units) {
  let step = 0;
  while (value >= base * 0.9995 && step < units.length - 1) {
    value /= base;
    step += 1;
  }
  return { value, unit: units[step], step };
}

export function count(value) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) < 10_000) return WHOLE.format(value);
  const short = scaled(value, 1000, ["", "k", "M", "G", "T"]);
  return `${threeDigits(short.value)}${short.unit}`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const short = scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
  return short.step === 0 ? `${WHOLE.format(value)} B` : `${threeDigits(short.value)} ${short.unit}`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 ms";
  if (value < 1) return `${Math.max(1, Math.round(value * 1000))} µs`;
  if (value < 1000) return `${threeDigits(value)} ms`;
  if (value < 10_000) return `${(value / 1000).toFixed(1)} s`;
  return duration(value / 1000);
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  return value !== 0 && value < 10 ? `${threeDigits(value)}/s` : `${count(value)}/s`;
}

export function share(part, whole) {
  if (!whole) return "0 %";
  const percent = (part / whole) * 100;
  if (percent > 0 && percent < 0.1) return "<0.1 %";
  if (percent < 100 && percent > 99.9) return ">99.9 %";
  return `${percent < 10 ? percent.toFixed(1).replace(/\.0$/u, "") : percent.toFixed(0)} %`;
}

export function exact(value) {
  return value === null || value === undefined ? "" : EXACT.format(value);
}

const STEPS = [
  ["d", 86400],
  ["h", 3600],
  ["m", 60],
  ["s", 1],
];

// Two parts at most, or one: `98 d`, `3 h 20 m`, `12 s`.
export function duration(seconds, parts = 2) {
  const rest = Math.abs(seconds);
  if (rest < 1) return rest === 0 ? "0 s" : "<1 s";
  const at = STEPS.findIndex(([, each]) => rest >= each);
  const [unit, size] = STEPS[at];
  const whole = Math.floor(rest / size);
  const next = STEPS[at + 1];
  if (!next || parts === 1 || whole >= 10) return `${whole} ${unit}`;
  const left = Math.floor((rest - whole * size) / next[1]);
  return left ? `${whole} ${unit} ${left} ${next[0]}` : `${whole} ${unit}`;
}

const pad = (value, width = 2) => String(value).padStart(width, "0");

export function utcDate(time) {
  return `${time.getUTCFullYear()}-${pad(time.getUTCMonth() + 1)}-${pad(time.getUTCDate())}`;
}

export function utcTime(time, { millis = false } = {}) {
  const text = `${pad(time.getUTCHours())}:${pad(time.getUTCMinutes())}:${pad(time.getUTCSeconds())}`;
  return millis ? `${text}.${pad(time.getUTCMilliseconds(), 3)}` : text;
}

export function utc(time) {
  return `${utcDate(time)} ${utcTime(time)} UTC`;
}

// A version as people write it: Envoy says TLSv1.3, a policy TLSv1_3.
export function tlsVersion(version) {
  return printable(version).replace(/^TLSv1[_.]/u, "TLS 1.");
}

const LOCAL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

export function local(time) {
  return LOCAL.format(time);
}

export function instant(text) {
  if (!text) return null;
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? null : time;
}

const AGE = /^(\d{1,6})([smhdw])$/u;
const AGE_UNIT_S = { s: 1, m: 60, h: 3600, d: 86400, w: 604800 };

// Seconds of an age as the API writes it (`15m`), null for anything else.
export function ageSeconds(text) {
  const found = AGE.exec(text ?? "");
  return found ? Number(found[1]) * AGE_UNIT_S[found[2]] : null;
}

// A SPIFFE ID's last part, which tells workloads apart; the whole of anything else.
export function shortName(name) {
  const text = printable(name);
  if (!text.startsWith("spiffe://")) return text;
  const [domain, ...path] = text.slice("spiffe://".length).split("/");
  return path.length ? `${path[path.length - 1]}@${domain}` : domain;
}
