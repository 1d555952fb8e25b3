// The hub's API, and nothing else: what is shown is one GET away, and `curl` says which.

import { useEffect, useRef, useState } from "./vendor/preact.js";

const TOKEN = "picoseg.token";
const BASE = new URL("api/v1/", document.baseURI);
//: how often what is on the screen is asked for again while it is live
const EVERY_MS = 10_000;
//: an answer that takes longer is no answer
const PATIENCE_MS = 30_000;

let token = sessionStorage.getItem(TOKEN);

export function signIn(text) {
  token = text || null;
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
  window.dispatchEvent(new Event("picoseg:signed-in"));
}

export const signedIn = () => token !== null;

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// The address of a question: `path` in parts, each a name as it is.
export function address(path, query = {}) {
  const url = new URL(path.map(encodeURIComponent).join("/"), BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(url) {
  const shown = token ? ' -H "Authorization: Bearer $TOKEN"' : "";
  return `curl -sS${shown} ${quoted(url.href)}`;
}

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function failure(response) {
  const told = await response.json().catch(() => null);
  return new ApiError(response.status, told?.error ?? `the hub answered ${response.status}`);
}

export async function ask(url, signal) {
  let response;
  try {
    const limit = AbortSignal.timeout(PATIENCE_MS);
    response = await fetch(url, {
      headers: headers(),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, error.name === "TimeoutError" ? "the hub did not answer in 30 s" : "the hub cannot be reached");
  }
  if (!response.ok) throw await failure(response);
  return response.json();
}

// What the hub answers, asked again while `live`: {data, error, loading, url, again}. Old data stays while new comes,
// but not across another question: numbers of one edge never stand under the name of another.
export function useApi(path, query = {}, { live = true, skip = false } = {}) {
  const url = skip ? null : address(path, query);
  const key = url?.href ?? "";
  const [state, setState] = useState({ key: null, data: null, error: null });
  const [turn, setTurn] = useState(0);
  const asked = useRef(key);
  asked.current = key;
  useEffect(() => {
    if (!key) return undefined;
    const stopped = new AbortController();
    let timer = null;
    const round = async () => {
      try {
        const data = await ask(key, stopped.signal);
        if (asked.current === key) setState({ key, data, error: null });
      } catch (error) {
        if (stopped.signal.aborted) return;
        setState((old) => ({ key, data: old.key === key ? old.data : null, error }));
      }
      if (live && !stopped.signal.aborted) timer = setTimeout(visible, EVERY_MS);
    };
    // a page that nobody sees asks nothing
    const visible = () => {
      if (document.hidden) document.addEventListener("visibilitychange", round, { once: true, signal: stopped.signal });
      else round();
    };
    round();
    return () => {
      stopped.abort();
      clearTimeout(timer);
    };
  }, [key, live, turn]);
  useEffect(() => {
    const retry = () => setTurn((old) => old + 1);
    window.addEventListener("picoseg:signed-in", retry);
    return () => window.removeEventListener("picoseg:signed-in", retry);
  }, []);
  const fresh = state.key === key;
  return {
    data: fresh ? state.data : null,
    error: fresh ? state.error : null,
    loading: Boolean(key) && (!fresh || (state.data === null && state.error === null)),
    url,
    again: () => setTurn((old) => old + 1),
  };
}

// --- the stream: read with fetch, because EventSource cannot say who asks ---------------------------------------------

//: a line of the stream holds one record, and a record is far smaller
const LONGEST_EVENT = 1 << 20;
//: the hub says something every 15 s; who hears nothing for so long is not connected any more, whatever the network says
const QUIET_MS = 35_000;
const listeners = new Set();
let connection = null;
let streamState = "connecting";
function tell(event) {
  for (const listener of listeners) listener(event);
}

function say(state) {
  const before = streamState;
  streamState = state;
  tell({ kind: "state", datum: state, before });
}

// Splits what comes into events; gives back the rest that is not whole yet.
export function eventsOf(text, take) {
  const blocks = text.split(/\r?\n\r?\n/u);
  const rest = blocks.pop();
  for (const block of blocks) {
    let kind = "message";
    const data = [];
    for (const line of block.split(/\r?\n/u)) {
      if (line.startsWith("event:")) kind = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /u, ""));
    }
    if (!data.length) continue;
    try {
      take({ kind, datum: JSON.parse(data.join("\n")) });
    } catch {
      // an event that is no JSON is none of the hub's
    }
  }
  return rest;
}

async function listen(signal) {
  const silence = new AbortController();
  const watch = () => setTimeout(() => silence.abort(), QUIET_MS);
  let quiet = watch();
  const heard = () => {
    clearTimeout(quiet);
    quiet = watch();
  };
  try {
    await hear(AbortSignal.any([signal, silence.signal]), heard);
  } finally {
    clearTimeout(quiet);
  }
}

async function hear(signal, heard) {
  const response = await fetch(address(["stream"]), { headers: headers(), signal, cache: "no-store" });
  if (!response.ok) throw await failure(response);
  say("open");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    heard();
    if (done) return;
    text = eventsOf(text + value, tell);
    if (text.length > LONGEST_EVENT) throw new ApiError(0, "an event without an end");
  }
}

async function keepListening(signal) {
  let wait = 500;
  while (!signal.aborted) {
    const began = Date.now();
    try {
      await listen(signal);
    } catch (error) {
      // whoever may not listen asks once, and not again before somebody else has signed in
      if (error.status === 401 || error.status === 403) {
        if (!signal.aborted) say("refused");
        return;
      }
    }
    if (signal.aborted) return;
    say("lost");
    wait = Date.now() - began > 10_000 ? 500 : Math.min(wait * 2, 15_000);
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

// One connection for the whole page, from the first who listens to the last.
export function subscribe(listener) {
  listeners.add(listener);
  if (connection === null) {
    connection = new AbortController();
    keepListening(connection.signal);
  }
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) {
      connection.abort();
      connection = null;
      streamState = "connecting";
    }
  };
}

window.addEventListener("picoseg:signed-in", () => {
  if (connection === null) return;
  connection.abort();
  connection = new AbortController();
  keepListening(connection.signal);
});

export function useStream(listener) {
  const latest = useRef(listener);
  latest.current = listener;
  useEffect(() => subscribe((event) => latest.current(event)), []);
}

export function useStreamState() {
  const [state, setState] = useState(streamState);
  useStream((event) => {
    if (event.kind === "state") setState(event.datum);
  });
  return state;
}

// Asks again soon after one of these events, once for many of them: what happens is on the page within a second. A
// connection that is new may have missed some.
export function useAgainOn(kinds, again) {
  const timer = useRef(null);
  useStream((event) => {
    const missed = event.kind === "state" && event.datum === "open" && event.before === "lost";
    if (!(kinds.includes(event.kind) || missed) || timer.current !== null) return;
    timer.current = setTimeout(() => {
      timer.current = null;
      again();
    }, 600);
  });
  useEffect(() => () => clearTimeout(timer.current), []);
}
