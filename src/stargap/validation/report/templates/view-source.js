// What the viewer's explorer shows, from the local server of `stargap view`; filters, and the list of marked stars.
"use strict";
window.stargapView = (function () {
  const byId = (name) => document.getElementById(name);
  const NAMES = {"-1,0": "left", "1,0": "right", "0,-1": "up", "0,1": "down"};
  let meta = null, filter = "", marks = new Map(), early = null;

  async function ask(path, query = {}) {
    const answer = await fetch(path + "?" + new URLSearchParams(query));
    return read(answer);
  }

  async function read(answer) {
    if (answer.ok) return answer.json();
    let reason = "stargap view answered " + answer.status;
    try { reason = (await answer.json()).error || reason; } catch { /* it was no JSON */ }
    throw new Error(reason);
  }

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  function shown(diagram) { return view(diagram.name, diagram.view, diagram.size); }

  function view(name, {x, y}, [width, height]) {
    return {name, x0: x[0], x1: x[1], y0: y[0], y1: y[1], width: Math.round(width), height: Math.round(height), filter};
  }

  async function start() {
    meta = await ask("start");
    filter = byId("filter").value = meta.filter;
    byId("syntax").textContent = meta.syntax;
    if (meta.marks) list(meta.marks);
    return meta;
  }

  async function diagram(name, colour, seen, size) {
    const content = await ask("diagram", {...view(name, seen, size), colour});
    const values = new Float32Array(bytes(content.values));
    if (content.counts) {
      const across = content.width * content.cell / Math.round(size[0]), down = content.height * content.cell / Math.round(size[1]);
      const {x, y} = seen, wide = (x[1] - x[0]) * across, deep = (y[1] - y[0]) * down;
      const area = {x: name === "kiel" ? [x[1] - wide, x[1]] : [x[0], x[0] + wide], y: [y[0], y[0] + deep]};
      return {...content, counts: new Uint32Array(bytes(content.counts)), values, view: area};
    }
    return {...content, x: new Float32Array(bytes(content.x)), y: new Float32Array(bytes(content.y)), values};
  }

  async function star(row) {
    early = ask("observed", {row});  // beside the row, not after it
    early.catch(() => {});  // which is said where the spectrum is shown
    const found = await ask("star", {row});
    for (const place of Object.values(found.places)) place.forEach((value, i) => { if (value === null) place[i] = NaN; });
    return found;
  }

  // as observed at once; with its model when that has been fitted again
  async function spectrum(row, show) {
    let first = null;
    try {
      first = await early;
    } catch (error) { show(null, "No spectrum: " + error.message); return; }
    const measured = first.rv[0] !== null;
    show(window.stargapSpectrum.unpack(first, 0), measured ? "The model is being fitted …"
      : "This spectrum was not measured: it is not shifted to the rest frame, and has no model.");
    byId("explorer").dataset.observed = String(row);
    if (!measured) return;
    ask("fitted", {row}).then(
      (second) => show(window.stargapSpectrum.unpack(second, 0), ""),
      (error) => show(window.stargapSpectrum.unpack(first, 0), "No model: " + error.message),
    ).finally(() => { byId("explorer").dataset.fitted = String(row); });
  }

  // ---- filters

  async function refilter(text) {
    const before = filter;
    filter = text;
    byId("filter-error").textContent = "";
    const explorer = window.stargapExplorer;
    try {
      await ask("neighbour", {row: -1, way: 1, filter});
    } catch (error) {
      filter = before;
      byId("filter-error").textContent = error.message;
      return;
    }
    byId("filter").value = filter;
    await explorer.redrawAll();
  }

  // the ranges of the diagrams that are zoomed, as conditions
  function inView() {
    const {diagrams} = window.stargapExplorer, parts = filter ? [filter] : [];
    for (const diagram of Object.values(diagrams)) {
      if (!diagram.zoomed) continue;
      for (const axis of ["x", "y"]) parts.push(diagram[axis] + " " + diagram.view[axis].map((end) => end.toPrecision(6)).join(".."));
    }
    return parts.join("; ");
  }

  // ---- marks

  function list(rows) {
    marks = new Map(rows.map((row) => [row.spectrum_id, row]));
    if (!byId("marked-rows")) return;
    byId("marked-rows").replaceChildren(...rows.slice().reverse().map((row) => {
      const line = document.createElement("tr"), open = document.createElement("button");
      open.type = "button";
      open.textContent = row.spectrum_id;
      open.addEventListener("click", async () => {
        try { await window.stargapExplorer.select(await source.find(row.spectrum_id)); } catch (error) { window.stargapExplorer.say(error.message); }
      });
      line.insertCell().append(open);
      line.insertCell().textContent = row.mark;
      line.insertCell().textContent = row.note;
      return line;
    }));
    pressed();
  }

  function pressed() {
    const star = window.stargapExplorer && window.stargapExplorer.chosen(), known = star && marks.get(star.id);
    document.querySelectorAll("#mark-form button").forEach((button) => {
      button.setAttribute("aria-pressed", String(Boolean(known) && button.value === known.mark));
    });
  }

  async function mark(value) {
    const star = window.stargapExplorer.chosen();
    if (!star) return;
    const body = JSON.stringify({row: star.key, mark: value, note: byId("note").value});
    try {
      list(await read(await fetch("marks", {method: "POST", headers: {"content-type": "application/json"}, body})));
      byId("explorer").dataset.marked = star.id + " " + value;
    } catch (error) { window.stargapExplorer.say(error.message); }
  }

  function listen() {
    byId("filter-form").addEventListener("submit", (event) => { event.preventDefault(); refilter(byId("filter").value.trim()); });
    byId("keep-view").addEventListener("click", () => refilter(inView()));
    byId("clear").addEventListener("click", () => refilter(""));
    document.addEventListener("stargap-star", ({detail}) => {
      const known = marks.get(detail.id);
      if (byId("note")) byId("note").value = known ? known.note : "";
      pressed();
    });
    if (byId("mark-form")) {
      byId("mark-form").addEventListener("submit", (event) => {
        event.preventDefault();
        mark(event.submitter.value);
      });
      // Enter would press the first button: a note leaves the mark as it is
      byId("note").addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.isComposing) return;
        event.preventDefault();
        const star = window.stargapExplorer.chosen(), known = star && marks.get(star.id);
        mark(known ? known.mark : "look");
      });
    }
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
      const value = {k: "keep", r: "reject", l: "look"}[event.key], button = {n: "next", p: "previous"}[event.key];
      if (value && byId("mark-form")) mark(value);
      else if (button) byId(button).click();
    });
  }

  const source = {
    start, diagram, star, spectrum,
    whole: (name) => meta.whole[name],
    pick: (diagram, at) => ask("pick", {...shown(diagram), ...at}),
    step: (diagram, row, direction) => ask("step", {...shown(diagram), row, direction: NAMES[direction.join()]}),
    cells: (row) => ask("cells", {row}),
    neighbour: (row, way) => ask("neighbour", {row, way, filter}),
    find: (text) => ask("find", {text}),
  };
  return {source, listen, pressed};
})();

window.stargapView.listen();
window.stargapExplore(window.stargapView.source).then(
  window.stargapView.pressed,
  (error) => { document.getElementById("status").textContent = "The viewer cannot start: " + error.message; });
