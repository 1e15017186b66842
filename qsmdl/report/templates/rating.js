"use strict";
// Blind rating: one category at a time over all submissions, in an order drawn from the rater's name, so that it can be resumed.
(function () {
  const FORMAT = "qsmdl-rating-1";
  const data = JSON.parse(document.getElementById("rating-data").textContent);
  const byId = (id) => document.getElementById(id);
  const categories = [
    ...data.scales.map((one) => ({ ...one, difference: false })),
    ...data.regions.map((one) => ({ ...one, difference: true })),
  ];
  let rater = "", screens = [], index = 0, active = 0, ratings = {}, store = null;

  try {
    localStorage.setItem("qsmdl-probe", "1");
    localStorage.removeItem("qsmdl-probe");
    store = localStorage;
  } catch {
    byId("storage-warning").hidden = false;
  }

  // FNV-1a and mulberry32: small, and the same everywhere.
  function seedOf(text) {
    let hash = 0x811c9dc5;
    for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
    return hash >>> 0;
  }

  function generator(seed) {
    let state = seed;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  function shuffled(items, text) {
    const order = [...items], random = generator(seedOf(text));
    for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  function picturesOf(category, code, scan) {
    const item = category.difference ? data.differences[code][scan] : data.maps[code][scan];
    if (!item) return null;
    return category.difference ? item[category.key] || null : item;
  }

  function makeScreens() {
    const all = [];
    for (const category of categories) {
      const codes = Object.keys(category.difference ? data.differences : data.maps);
      for (const code of shuffled(codes, `${data.page}|${rater}|${category.key}`)) {
        const scans = data.scans.filter((scan) => picturesOf(category, code, scan));
        if (scans.length) all.push({ category, code, scans });
      }
    }
    return all;
  }

  const keyOf = (screen, scan) => `${screen.category.key}|${screen.code}|${scan}`;
  const isRated = (screen) => screen.scans.every((scan) => keyOf(screen, scan) in ratings);
  const storageKey = () => `qsmdl-rating:${data.page}:${rater}`;
  const progressOf = () => ({ format: FORMAT, page: data.page, rater, index, ratings });

  function save() {
    try {
      if (store) store.setItem(storageKey(), JSON.stringify(progressOf()));
    } catch { // full
      byId("storage-warning").hidden = false;
    }
  }

  // What was saved or imported is checked item by item: a file may be anything.
  function restore(content) {
    if (!content || content.format !== FORMAT) throw new Error("This is no progress file of a rating page.");
    if (content.page !== data.page) throw new Error("This progress belongs to another rating page, whose codes differ.");
    ratings = {};
    for (const screen of screens) {
      for (const scan of screen.scans) {
        const value = content.ratings && content.ratings[keyOf(screen, scan)];
        if (Number.isInteger(value) && value >= 0 && value < screen.category.answers.length) ratings[keyOf(screen, scan)] = value;
      }
    }
    index = Number.isInteger(content.index) && content.index >= 0 && content.index < screens.length ? content.index : 0;
  }

  function begin(name, content) {
    name = String(name).normalize("NFC").trim();
    if (!/^[\p{L}\p{N}][\p{L}\p{N} ._-]{0,39}$/u.test(name)) throw new Error("A name has 1 to 40 letters, digits, spaces, points, hyphens or underscores, and begins with a letter or digit.");
    rater = name;
    screens = makeScreens();
    [ratings, index] = [{}, 0];
    const saved = content || (store && JSON.parse(store.getItem(storageKey()) || "null"));
    if (saved) restore(saved);
    byId("start").hidden = true;
    byId("work").hidden = false;
    save();
    show(index);
  }

  function picture(uri, [width, height], plane, scan) {
    const image = document.createElement("img");
    image.src = uri;
    image.alt = `${plane} slice of ${scan}`;
    image.style.cssText = `flex: ${width} 1 0; min-width: 0; max-width: ${2.4 * width}px; aspect-ratio: ${width} / ${height};`;
    return image;
  }

  function card(screen, scan, number) {
    const box = document.createElement("div");
    box.className = "scan";
    const title = document.createElement("h3");
    title.textContent = scan;
    const slices = document.createElement("div");
    slices.className = screen.category.difference ? "slices difference" : "slices";
    slices.style.cssText = "flex-wrap: nowrap; align-items: flex-end;";
    picturesOf(screen.category, screen.code, scan).forEach((uri, i) => slices.append(picture(uri, data.sizes_mm[scan][i], data.planes[i], scan)));
    const choices = document.createElement("div");
    choices.className = "choices";
    choices.setAttribute("role", "radiogroup");
    choices.setAttribute("aria-label", `${screen.category.question} ${scan}`);
    screen.category.answers.forEach((answer, value) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "action";
      button.setAttribute("role", "radio");
      button.dataset.value = value;
      button.textContent = `${value} ${answer}`;
      button.addEventListener("click", () => { active = number; rate(value); });
      choices.append(button);
    });
    box.append(title, slices, choices);
    return box;
  }

  function mark() {
    const screen = screens[index];
    [...byId("stage").children].forEach((box, number) => {
      box.setAttribute("aria-current", String(number === active));
      const value = ratings[keyOf(screen, screen.scans[number])];
      for (const button of box.querySelectorAll("button")) button.setAttribute("aria-checked", String(Number(button.dataset.value) === value));
    });
    const done = screens.filter(isRated).length;
    byId("progress").max = screens.length;
    byId("progress").value = done;
    byId("count").textContent = done === screens.length ? "All rated. Export the ratings and hand in the CSV file." : `${done} of ${screens.length} rated`;
  }

  function show(number) {
    index = Math.min(Math.max(number, 0), screens.length - 1);
    const screen = screens[index], same = screens.filter((one) => one.category === screen.category);
    byId("work-title").textContent = `${screen.category.title}: submission ${same.indexOf(screen) + 1} of ${same.length}`;
    byId("question").textContent = screen.category.question;
    byId("scale").textContent = screen.category.answers.map((answer, value) => `${value} ${answer}`).join(", ");
    byId("last-key").textContent = screen.category.answers.length - 1;
    byId("stage").replaceChildren(...screen.scans.map((scan, i) => card(screen, scan, i)));
    active = Math.max(screen.scans.findIndex((scan) => !(keyOf(screen, scan) in ratings)), 0);
    mark();
    save();
    byId("work-title").focus({ preventScroll: true });
  }

  function rate(value) {
    const screen = screens[index];
    if (value >= screen.category.answers.length) return;
    ratings[keyOf(screen, screen.scans[active])] = value;
    if (active + 1 < screen.scans.length) {
      active++;
      mark();
      save();
    } else if (isRated(screen) && index + 1 < screens.length) show(index + 1);
    else { mark(); save(); }
  }

  function nextUnrated() {
    for (let i = 1; i <= screens.length; i++) {
      const number = (index + i) % screens.length;
      if (!isRated(screens[number])) return show(number);
    }
    return undefined;
  }

  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;

  function csv() {
    const lines = [["rater", "submission", "category", "scan", "value"].join(",")];
    for (const screen of screens) {
      for (const scan of screen.scans) {
        const value = ratings[keyOf(screen, scan)];
        if (value !== undefined) lines.push([rater, screen.code, screen.category.key, scan, value].map(quoted).join(","));
      }
    }
    return `${lines.join("\n")}\n`;
  }

  function download(name, text, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function onKey(event) {
    if (byId("work").hidden || event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "INPUT") return;
    const screen = screens[index];
    if (/^[0-3]$/.test(event.key)) rate(Number(event.key));
    else if (event.key === "ArrowLeft") show(index - 1);
    else if (event.key === "ArrowRight") show(index + 1);
    else if (event.key === "ArrowUp") { active = Math.max(active - 1, 0); mark(); }
    else if (event.key === "ArrowDown") { active = Math.min(active + 1, screen.scans.length - 1); mark(); }
    else return;
    event.preventDefault();
  }

  function attempt(task) {
    try {
      byId("start-message").textContent = "";
      task();
    } catch (error) {
      byId("start-message").textContent = error.message;
    }
  }

  byId("start").hidden = false;
  byId("start-form").addEventListener("submit", (event) => { event.preventDefault(); attempt(() => begin(byId("rater").value)); });
  byId("import").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    const text = await file.text();
    event.target.value = "";
    attempt(() => {
      let content;
      try { content = JSON.parse(text); } catch { throw new Error("This file is not JSON, so it is no progress file."); }
      if (!content || typeof content !== "object") throw new Error("This is no progress file of a rating page.");
      begin(content.rater, content);
    });
  });
  byId("back").addEventListener("click", () => show(index - 1));
  byId("next").addEventListener("click", () => show(index + 1));
  byId("unrated").addEventListener("click", nextUnrated);
  byId("export-csv").addEventListener("click", () => download(`ratings_${rater}.csv`, csv(), "text/csv"));
  byId("export-progress").addEventListener("click", () => download(`progress_${rater}.json`, JSON.stringify(progressOf()), "application/json"));
  byId("leave").addEventListener("click", () => { save(); byId("work").hidden = true; byId("start").hidden = false; byId("rater").value = ""; byId("rater").focus(); });
  document.addEventListener("keydown", onKey);
})();
