// Before the first paint: a theme in the link wins over the reader's last choice.
(() => {
  "use strict";
  const linked = /[#&]theme=(light|dark)/.exec(location.hash);
  let kept = null;
  try { kept = localStorage.getItem("circuitlapse-theme"); } catch { /* storage may be refused */ }
  const theme = linked ? linked[1] : kept;
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
