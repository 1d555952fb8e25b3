// Light, dark, or what the system says; charts and the map draw anew when it changes.

import { useEffect, useState } from "./vendor/preact.js";

const KEY = "picoseg.theme";
const dark = window.matchMedia("(prefers-color-scheme: dark)");

export const chosenTheme = () => document.documentElement.dataset.theme ?? "system";
export const shownTheme = () => (chosenTheme() === "system" ? (dark.matches ? "dark" : "light") : chosenTheme());

export function chooseTheme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    if (name === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, name);
  } catch {
    // storage is forbidden: it holds for this page only
  }
  window.dispatchEvent(new Event("picoseg:theme"));
}

export function useTheme() {
  const [shown, setShown] = useState(shownTheme);
  useEffect(() => {
    const follow = () => setShown(shownTheme());
    window.addEventListener("picoseg:theme", follow);
    dark.addEventListener("change", follow);
    return () => {
      window.removeEventListener("picoseg:theme", follow);
      dark.removeEventListener("change", follow);
    };
  }, []);
  return shown;
}
