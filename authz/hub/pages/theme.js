// Before the first paint, and no module for that reason: the theme that was chosen here, else the system's.
(() => {
  const KEY = "picoseg.theme";
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // storage is forbidden: the system's theme it is
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
