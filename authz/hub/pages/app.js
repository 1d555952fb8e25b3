// The frame: where one can go, the range of time that is looked at, whether it is live, and the keys.

import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";
import { signedIn, signIn, useApi, useStreamState } from "./api.js";
import { Choice, State, Time } from "./parts.js";
import { go, here, link, useRoute } from "./route.js";
import { rangeOf } from "./span.js";
import { chooseTheme, chosenTheme, shownTheme, useTheme } from "./theme_choice.js";
import { Help } from "./views/help.js";
import { MapView } from "./map/view.js";
import { Windows } from "./views/windows.js";
import { Denials } from "./views/denials.js";
import { Live } from "./views/live.js";
import { Services } from "./views/services.js";
import { Policies } from "./views/policies.js";
import { Sidecars } from "./views/sidecars.js";
import { History } from "./views/history.js";
import { Call } from "./views/call.js";

// [address, name, key after g, what draws it, whether the range of time is chosen there: `one` where only for one of them]
const VIEWS = [
  ["map", "Map", "m", MapView, true],
  ["windows", "Windows", "w", Windows, false],
  ["denials", "Denials", "d", Denials, true],
  ["live", "Live", "l", Live, false],
  ["services", "Services", "s", Services, "one"],
  ["policies", "Policies", "p", Policies, true],
  ["sidecars", "Sidecars", "c", Sidecars, false],
  ["history", "History", "h", History, true],
];
const RANGES = ["15m", "1h", "6h", "24h", "7d", "30d"].map((each) => [each, each]);


function Range({ route }) {
  const at = route.query.get("at");
  return html`<div class="range">
    ${at
      ? html`<span class="past"><${State} is="warn" label="as it was" /> <${Time} at=${at} /></span>
          <a class="button" href=${here({ at: null })}>back to now</a>`
      : null}
    <${Choice} label="range of time" value=${rangeOf(route)} of=${RANGES} onChoose=${(each) => go(here({ since: each }))} />
  </div>`;
}

const STREAM = { open: ["ok", "live"], connecting: ["opening", "connecting"], lost: ["warn", "not live"], refused: ["warn", "may not listen"] };

function Liveness() {
  const state = useStreamState();
  const [is, label] = STREAM[state] ?? STREAM.lost;
  return html`<span class="liveness" role="status"><${State} is=${is} label=${label} /></span>`;
}

function ThemeSwitch() {
  useTheme();
  const next = { system: shownTheme() === "dark" ? "light" : "dark", light: "dark", dark: "light" }[chosenTheme()];
  return html`<button type="button" class="quiet" onClick=${() => chooseTheme(next)} title="t" aria-label=${`theme: ${shownTheme()}; choose ${next}`}>
    <span aria-hidden="true">${shownTheme() === "dark" ? "☾" : "☀"}</span></button>`;
}

function SignIn() {
  const field = useRef(null);
  const enter = (event) => {
    event.preventDefault();
    signIn(field.current.value.trim());
  };
  useEffect(() => field.current.focus(), []);
  return html`<main class="signin" id="main"><form onSubmit=${enter} class="panel">
    <h1>Who asks?</h1>
    <p>This hub answers to a client certificate of the mesh, or to a token with a role. It is kept until this tab is closed.</p>
    <label>token <input type="password" ref=${field} autocomplete="off" required /></label>
    <button type="submit" class="first">sign in</button>
    ${signedIn() ? html`<p role="alert"><${State} is="fail" label="the hub does not know this token" /></p>` : null}
  </form></main>`;
}

// Typed keys, unless they are typed into something, or somebody has to say first who asks.
function useKeys(setHelp) {
  useEffect(() => {
    let before = "";
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = /^(?:INPUT|TEXTAREA|SELECT)$/u.test(event.target.tagName) && event.target.type !== "range";
      if (event.key === "Escape") {
        if (typing) event.target.blur();
        return;
      }
      if (typing || document.querySelector(".signin")) return;
      const leap = before === "g" && VIEWS.find(([, , key]) => key === event.key);
      before = event.key;
      if (leap) {
        go(link([leap[0]]));
        event.preventDefault();
      } else if (event.key === "?") setHelp((old) => !old);
      else if (event.key === "t") chooseTheme(shownTheme() === "dark" ? "light" : "dark");
      else if (event.key === "/") {
        const field = document.querySelector("[data-search] , input[type=search]");
        if (!field) return;
        field.focus();
        event.preventDefault();
      } else if (event.key === "j" || event.key === "k") {
        const links = [...document.querySelectorAll("main tbody tr")].map((row) => row.querySelector("a[href], button")).filter(Boolean);
        if (!links.length) return;
        const at = links.findIndex((each) => each.closest("tr").contains(document.activeElement));
        const next = at < 0 ? 0 : Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), links.length - 1);
        links[next].focus();
        links[next].scrollIntoView({ block: "nearest" });
      }
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, []);
}

function App() {
  const route = useRoute();
  const [help, setHelp] = useState(false);
  const status = useApi(["status"]);
  useKeys(setHelp);
  const view = VIEWS.find(([name]) => name === route.view);
  const title = view?.[1] ?? (route.view === "call" ? "Call" : "Not here");
  useEffect(() => {
    document.title = `${title} · Picoseg`;
  }, [title]);
  const main = useRef(null);
  const first = useRef(true);
  useEffect(() => {
    if (!first.current) main.current?.focus({ preventScroll: true });
    first.current = false;
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [route.view]);
  if (status.error?.status === 401) return html`<${SignIn} />`;
  const Shown = view?.[3] ?? (route.view === "call" ? Call : null);
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>to the content</a>
    <header class="top">
      <a class="brand" href="#/map"><img src="page/icon.svg" alt="" width="22" height="22" /><b>Picoseg</b></a>
      <nav aria-label="views"><ul>${VIEWS.map(
        ([name, words]) => html`<li><a href=${link([name])} aria-current=${name === route.view || (route.view === "call" && name === "denials") ? "page" : undefined}>${words}</a></li>`,
      )}</ul></nav>
      <div class="tools">
        <${Liveness} />
        <${ThemeSwitch} />
        <button type="button" class="quiet" onClick=${() => setHelp(true)} aria-label="keys and signs" title="?">?</button>
      </div>
    </header>
    <main id="main" tabindex="-1" ref=${main} class=${`view-${route.view}`}>
      <div class="heading"><h1>${title}</h1>${view && (view[4] === true || (view[4] === "one" && route.parts.length)) ? html`<${Range} route=${route} />` : null}</div>
      ${Shown ? html`<${Shown} route=${route} />` : html`<div class="placeholder"><p>There is nothing under this address. <a href="#/map">The map</a> is.</p></div>`}
    </main>
    <${Help} open=${help} onClose=${() => setHelp(false)} views=${VIEWS} />`;
}

render(html`<${App} />`, document.getElementById("app"));
