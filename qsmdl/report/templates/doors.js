"use strict";
// A report that can be rated in: a start screen with two doors. Nothing of the results is on the screen, nor in the title, until their door is opened.
(function () {
  const SCREENS = ["doors", "rating-mode", "report"];
  const byId = (id) => document.getElementById(id);
  const seen = `qsmdl-results-seen:${byId("doors").dataset.page}`, blindTitle = document.title;

  function remember() {
    byId("seen-warning").hidden = false;
    try { localStorage.setItem(seen, "1"); } catch { /* nothing is kept for this page; the warning stays until it is closed */ }
  }

  function open(screen) {
    if (!byId("work").hidden) byId("leave").click(); // saves, and takes the keys from the rating
    for (const id of SCREENS) byId(id).hidden = id !== screen;
    document.title = screen === "report" ? byId("report").dataset.title : blindTitle;
    window.scrollTo(0, 0);
    (screen === "rating-mode" ? byId("rater") : byId(screen).querySelector("h1")).focus({ preventScroll: true });
    if (screen !== "report") return;
    remember();
    document.dispatchEvent(new Event("qsmdl-results"));
  }

  try { byId("seen-warning").hidden = localStorage.getItem(seen) === null; } catch { /* as above */ }
  byId("export-csv").addEventListener("click", () => { byId("to-results").hidden = false; });
  byId("leave").addEventListener("click", () => { byId("to-results").hidden = true; });
  for (const door of document.querySelectorAll("[data-door]")) {
    door.addEventListener("click", () => open(door.dataset.door));
    door.disabled = false;
  }
})();
