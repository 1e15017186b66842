"use strict";
// The linked panes: which maps are shown, one crosshair for all of them, window, plane and labels.
(function (qsmdl) {
  const MAX_PANES = 14; // each has a WebGL context, of which browsers allow sixteen
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const state = { scan: 0, methods: new Set(), differences: true, labels: false, view: "all", window_ppm: data.window_ppm };
  let panes = [], sliders = [], decoded = new Map(), busy = Promise.resolve(), moving = false;

  function hasWebGL2() {
    if (typeof DecompressionStream === "undefined") return false;
    const gl = document.createElement("canvas").getContext("webgl2");
    const loss = gl && gl.getExtension("WEBGL_lose_context");
    if (loss) loss.loseContext();
    return Boolean(gl);
  }

  function element(tag, properties, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  async function volume(id) {
    if (!decoded.has(id)) decoded.set(id, await qsmdl.volumes.decode(id));
    return decoded.get(id);
  }

  const scan = () => data.scans[state.scan];
  const perMethod = () => (scan().truth && state.differences ? 2 : 1);
  const limit = () => Math.floor((MAX_PANES - (scan().truth ? 1 : 0)) / perMethod());

  // Tasks run one after the other: a second click must not meet half-open panes.
  function queue(task) {
    busy = busy.then(task).catch((error) => {
      byId("viewer-status").textContent = `The panes stopped: ${error.message}. The montages under Figures show the same maps.`;
    });
    return busy;
  }

  function voxelAt(mm) {
    return scan().mm_to_voxel.map((row) => Math.round(row[0] * mm[0] + row[1] * mm[1] + row[2] * mm[2] + row[3]));
  }

  function follow(source) {
    if (moving) return; // the others answer with events of their own
    moving = true;
    const position = source.nv.scene.crosshairPos, mm = source.nv.frac2mm(position), voxel = voxelAt(mm);
    for (const pane of panes) {
      if (pane !== source) pane.moveTo(position);
      pane.say(voxel);
    }
    const size = source.nv.volumes[0].dimsRAS;
    sliders.forEach(({ input, output }, axis) => {
      input.max = size[axis + 1] - 1;
      input.value = Math.floor(position[axis] * size[axis + 1]);
      output.textContent = `${mm[axis].toFixed(1)} mm`;
    });
    moving = false;
  }

  function moveTo(position) {
    if (!panes.length) return;
    panes[0].moveTo(position.map((p) => Math.min(Math.max(p, 0), 0.999999)));
    follow(panes[0]);
  }

  function step(axis, n) {
    const pane = panes[0], size = pane.nv.volumes[0].dimsRAS[axis + 1], position = [...pane.nv.scene.crosshairPos];
    position[axis] = (Math.min(Math.max(Math.floor(position[axis] * size) + n, 0), size - 1) + 0.5) / size;
    moveTo(position);
  }

  async function addPane(column, title, isDifference, content) {
    const pane = new qsmdl.Pane(title, isDifference);
    column.append(pane.figure);
    await pane.open(data, follow);
    await pane.show(content, state.window_ppm);
    if (state.labels && !isDifference) await pane.setLabels(await volume(scan().labels), data.labels);
    pane.setView(state.view);
    panes.push(pane);
  }

  function addColumn(title, subtitle) {
    const column = element("div", { className: "column" }, element("h3", { textContent: title }), element("p", { className: "quiet", textContent: subtitle }));
    byId("panes").append(column);
    return column;
  }

  async function rebuild() {
    const position = panes.length ? [...panes[0].nv.scene.crosshairPos] : null;
    panes.forEach((pane) => pane.close());
    panes = [];
    byId("panes").replaceChildren();
    const { name, truth, mask, maps, centre_mm } = scan();
    const shown = maps.filter((map) => state.methods.has(map.name));
    const say = (text) => { byId("viewer-status").textContent = text; };
    if (truth) {
      say(`Opening ${name}: truth`);
      await addPane(addColumn("Truth", name), `truth, ${name}`, false, await volume(truth));
    }
    for (const map of shown) {
      say(`Opening ${name}: ${map.name}`);
      const column = addColumn(map.name, map.nrmse === null ? name : `${name}, NRMSE ${map.nrmse.toFixed(1)} %`);
      await addPane(column, `${map.name}, ${name}`, false, await volume(map.volume));
      if (!truth || !state.differences) continue;
      const difference = qsmdl.volumes.difference(await volume(map.volume), await volume(truth), await volume(mask));
      await addPane(column, `difference of ${map.name}, ${name}`, true, difference);
    }
    const left = maps.length - shown.length;
    say(left ? `${left} of ${maps.length} methods not shown; at most ${limit()} at once.` : "");
    if (panes.length) moveTo(position && state.kept === state.scan ? position : panes[0].nv.mm2frac(centre_mm));
    state.kept = state.scan;
    byId("panes").dataset.ready = String(panes.length);
  }

  function trim() {
    const names = scan().maps.map((map) => map.name);
    state.methods = new Set(names.filter((name) => state.methods.has(name)).slice(0, limit()));
    if (!state.methods.size) state.methods = new Set(names.slice(0, limit()));
    for (const box of document.querySelectorAll("#method-choice input")) {
      box.checked = state.methods.has(box.value);
      box.disabled = !names.includes(box.value) || (!box.checked && state.methods.size >= limit());
    }
  }

  function refresh() {
    trim();
    byId("panes").dataset.ready = "";
    return queue(rebuild);
  }

  function choice(legend, entries, onChange) {
    const select = element("select", {}, ...entries.map(([value, text]) => element("option", { value, textContent: text })));
    select.addEventListener("change", () => onChange(select.value));
    return element("label", {}, `${legend} `, select);
  }

  function checkbox(text, checked, onChange, value = "") {
    const box = element("input", { type: "checkbox", checked, value });
    box.addEventListener("change", () => onChange(box.checked));
    return element("label", {}, box, text);
  }

  function group(legend, id, ...children) {
    return element("fieldset", { id }, element("legend", { textContent: legend }), ...children);
  }

  function makeSliders() {
    const names = ["left\u2013right", "posterior\u2013anterior", "inferior\u2013superior"];
    return names.map((name, axis) => {
      const input = element("input", { type: "range", min: 0, max: 1, step: 1 }), output = element("output", {});
      input.addEventListener("input", () => {
        const position = [...panes[0].nv.scene.crosshairPos];
        position[axis] = (Number(input.value) + 0.5) / (Number(input.max) + 1);
        moveTo(position);
      });
      sliders.push({ input, output });
      return element("label", {}, `${name} `, input, output);
    });
  }

  function setWindow(text) {
    state.window_ppm = Number(text);
    for (const node of document.querySelectorAll("[data-window]")) node.textContent = `${node.dataset.window === "low" ? "\u2212" : "+"}${state.window_ppm}`;
    queue(async () => panes.forEach((pane) => pane.setWindow(state.window_ppm)));
  }

  function setLabels(checked) {
    state.labels = checked;
    byId("label-legend").hidden = !checked;
    queue(async () => {
      for (const pane of panes) if (!pane.isDifference) await pane.setLabels(checked ? await volume(scan().labels) : null, data.labels);
    });
  }

  function makeControls() {
    const names = [...new Set(data.scans.flatMap((one) => one.maps.map((map) => map.name)))];
    const window_ppm = data.window_ppm;
    const shown = [
      choice("scan", data.scans.map((one, index) => [index, one.name]), (value) => { state.scan = Number(value); decoded = new Map(); refresh(); }),
      choice("planes", [["all", "all three"], ["axial", "axial"], ["coronal", "coronal"], ["sagittal", "sagittal"]], (value) => {
        state.view = value;
        queue(async () => panes.forEach((pane) => pane.setView(value)));
      }),
      choice("window", [window_ppm, window_ppm / 2, 2 * window_ppm, 5 * window_ppm].map((value) => [value, `\u00b1${value} ppm`]), setWindow),
    ];
    if (data.scans.some((one) => one.truth)) {
      shown.push(checkbox("differences", true, (checked) => { state.differences = checked; byId("error-bar-row").hidden = !checked; refresh(); }));
      shown.push(checkbox("labels on maps", false, setLabels));
    } else byId("error-bar-row").hidden = true;
    const boxes = names.map((name) => checkbox(name, true, (checked) => { state.methods[checked ? "add" : "delete"](name); refresh(); }, name));
    byId("viewer-controls").append(group("Show", "show-choice", ...shown), group("Methods", "method-choice", ...boxes), group("Crosshair", "crosshair", ...makeSliders()));
    state.methods = new Set(names);
  }

  function makeLegends() {
    const stops = data.error_colours.map(([position, r, g, b]) => `rgb(${r} ${g} ${b}) ${100 * position}%`);
    byId("error-bar").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const { R, G, B, labels } = qsmdl.labelColours(data.labels);
    for (let i = 1; i < labels.length; i++) {
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = `rgb(${R[i]} ${G[i]} ${B[i]})`;
      byId("label-legend").append(element("li", {}, swatch, labels[i]));
    }
  }

  function onKey(event) {
    // radiological: the patient's right is on the left
    const moves = { ArrowLeft: [0, 1], ArrowRight: [0, -1], ArrowUp: [1, 1], ArrowDown: [1, -1], PageUp: [2, 1], PageDown: [2, -1] };
    if (event.target.tagName !== "CANVAS") return;
    event.stopPropagation(); // NiiVue has keys of its own
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    step(...moves[event.key]);
  }

  function start() {
    if (!hasWebGL2()) {
      byId("viewer-note").textContent = "This browser has no WebGL2 (or no DecompressionStream), so there are no linked panes. The montages under Figures show the same maps.";
      byId("viewer-note").classList.add("warning");
      return;
    }
    byId("viewer-note").hidden = true;
    byId("viewer").hidden = false;
    makeControls();
    makeLegends();
    setWindow(String(data.window_ppm));
    byId("panes").addEventListener("keydown", onKey, true);
    qsmdl.panes = () => panes;
    qsmdl.step = step;
    refresh();
  }

  if (byId("report").hidden) document.addEventListener("qsmdl-results", start, { once: true }); // panes need a size
  else start();
})(window.qsmdl);
