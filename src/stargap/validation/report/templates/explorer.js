// The explorer of a stargap page: diagrams, search, and the summary, spectrum and row of the chosen star.
// A source gives the data: files beside a report (report-source.js), or a local server (view-source.js).
"use strict";
window.stargapExplore = async function (source) {
  const {DIAGRAMS, Diagram} = window.stargapDiagrams, spectra = window.stargapSpectrum;
  const QUANTITIES = ["rv", "teff", "logg", "m_h"];
  const byId = (name) => document.getElementById(name);
  const diagrams = {}, contents = {};
  let meta = null, chosen = null, star = null, rgb = [], redraws = {};

  const say = (text) => { byId("status").textContent = text; };

  // ---- colours

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const ramp = () => (dark.matches ? meta.palette.slice(6) : meta.palette);  // the darkest are not seen on a dark page

  const bin = (value, low, high) =>
    Math.max(0, Math.min(rgb.length - 1, Math.round((value - low) / (high - low || 1) * (rgb.length - 1))));

  function showScale({title, low, high}) {
    const bar = byId("colour-bar");
    bar.style.background = "linear-gradient(to right, " + ramp().join(", ") + ")";
    bar.setAttribute("aria-label", "Colour bar: " + title + " from " + low.toPrecision(3) + " to " + high.toPrecision(3));
    const middle = (low + high) / 2;
    [["colour-low", low], ["colour-middle", middle], ["colour-high", high]].forEach(
      ([name, value]) => { byId(name).textContent = Number(value.toPrecision(3)).toLocaleString("en"); });
    byId("colour-title").textContent = title;
  }

  // What the source gave of a diagram, with its colours: `points` have x, y, values, crosses; `bins` counts and means.
  function coloured(content, {low, high}) {
    const {values} = content, colours = ramp();
    rgb = colours.map((hex) => [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16)));
    if (content.counts) {
      const {counts, width, height, view} = content;
      const rgba = (i) => (counts[i] ? [...(Number.isFinite(values[i]) ? rgb[bin(values[i], low, high)] : [136, 136, 136]), 255] : null);
      return {bins: rgba, width, height, view};
    }
    const colour = (i) => (Number.isFinite(values[i]) ? colours[bin(values[i], low, high)] : "#888");
    return {x: content.x, y: content.y, crosses: content.crosses, colour};
  }

  // both diagrams have the scale that is shown: counts of one reach higher than those of the other
  function showColoured(content) {
    const alike = Object.entries(contents).filter(([, {scale}]) => scale.title === content.scale.title);
    const [low, high] = [["low", Math.min], ["high", Math.max]].map(([end, pick]) => pick(...alike.map(([, {scale}]) => scale[end])));
    for (const [name, one] of alike) {
      if (one !== content && one.drawn === low + " " + high) continue;
      one.drawn = low + " " + high;
      diagrams[name].show(coloured(one, {low, high}));
    }
    showScale({...content.scale, low, high});
  }

  async function redraw(diagram) {
    const turn = redraws[diagram.name] = (redraws[diagram.name] || 0) + 1;
    try {
      const content = await source.diagram(diagram.name, byId("colour").value, diagram.view, diagram.size);
      if (redraws[diagram.name] !== turn) return;
      contents[diagram.name] = content;
      showColoured(content);
      byId("explorer").dataset[diagram.name] = String(turn);
      if (content.text) byId("counts").textContent = content.text;
      byId(diagram.name + "-seen").textContent = content.seen || "";
    } catch (error) { say(error.message); }
  }

  const redrawAll = () => Promise.all(Object.values(diagrams).map(redraw));

  // ---- the chosen star

  function text(kind, content, className) {
    const element = document.createElement(kind);
    element.textContent = content;
    if (className) element.className = className;
    return element;
  }

  function showSummary({name, quantities, flags, links}) {
    byId("summary").replaceChildren(text("strong", name));
    for (const [label, value, state, why] of quantities) {
      const part = text("span", (label ? label + " " : "") + value + {ok: "", care: " !", bad: " ✗"}[state], "quantity " + state);
      if (why) part.title = why;
      byId("summary").append(part);
    }
    byId("flags").textContent = flags;
    byId("links").replaceChildren(...links.map(([label, address]) => {
      const link = text("a", label);
      Object.assign(link, {href: address, target: "_blank", rel: "noopener noreferrer"});
      return link;
    }));
  }

  function showRow(cells) {
    const table = byId("row"), nulls = [];
    table.replaceChildren();
    const unusable = new Set(QUANTITIES.filter(
      (quantity) => cells[meta.schema.findIndex(([name]) => name === "use_" + quantity)] === "0"));
    meta.schema.forEach(([name, unit, about], place) => {
      if (cells[place] === "") { nulls.push(name); return; }
      const line = table.insertRow(), head = text("th", name);
      head.scope = "row";
      line.append(head);
      const spoilt = unusable.has(name.replace(/^(e|limit)_/, "").replace(/_(sys|fit|paper)$/, ""));
      line.className = spoilt ? "unusable" : "";
      for (const cell of [cells[place], unit, spoilt ? "cannot be used. " + about : about]) line.insertCell().textContent = cell;
      line.cells[1].className = /^-?[\d.]+$/.test(cells[place]) ? "number" : "";
    });
    byId("nulls").textContent = nulls.length ? "null: " + nulls.join(", ") : "";
  }

  // the row's columns, which nobody sees before they are opened
  async function showColumns() {
    const key = chosen;
    if (!byId("columns").open) return;
    try {
      const cells = await source.cells(key);
      if (chosen !== key) return;
      showRow(cells);
      byId("row").dataset.shown = star.id;
    } catch (error) { say(error.message); }
  }

  function showRepeats(repeats) {
    const list = byId("repeats");
    list.replaceChildren();
    if (repeats.length < 2) return;
    list.append(text("span", repeats.length + " spectra of this star:"));
    for (const {key, label} of repeats) {
      const button = text("button", label);
      button.type = "button";
      button.disabled = key === chosen;
      button.addEventListener("click", () => select(key));
      list.append(button);
    }
  }

  function showSpectrum(found) {
    spectra.show(found);
    byId("download").hidden = found === null || !found.observed.some((value) => value !== null);
  }

  async function select(key) {
    chosen = key;
    const {dataset} = byId("explorer");
    delete dataset.ready;
    try {
      const found = await source.star(key);
      if (chosen !== key) return;
      star = found;
      dataset.chosen = found.id;
      for (const diagram of Object.values(diagrams)) diagram.mark(found.places[diagram.name]);
      showSummary(found.summary);
      showColumns();
      showRepeats(found.repeats);
      say(found.names);
      document.dispatchEvent(new CustomEvent("stargap-star", {detail: found}));
      await source.spectrum(key, (content, note) => {
        if (chosen !== key) return;
        showSpectrum(content);
        byId("spectrum-note").textContent = note;
      });
      if (chosen !== key) return;
      dataset.ready = found.id;
    } catch (error) {
      if (chosen === key) { showSpectrum(null); say("The star cannot be shown: " + error.message); }
    }
  }

  async function to(promise, nothing) {
    try {
      const key = await promise;
      if (key !== null && key !== undefined) await select(key);
      else if (nothing) say(nothing);
    } catch (error) { say(error.message); }
  }

  // ---- what a person does

  function onKey(diagram, event) {
    const direction = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (direction) to(source.step(diagram, chosen, direction), "No star further on that way.");
    else if (!diagram.keys(event.key)) return;
    event.preventDefault();
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([spectra.csv()], {type: "text/csv"}));
    link.download = "spectrum-" + star.id + ".csv";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function listen() {
    for (const name of ["colour", "removed", "only"]) if (byId(name)) byId(name).addEventListener("change", redrawAll);
    byId("find-form").addEventListener("submit", (event) => {
      event.preventDefault();
      to(source.find(byId("find").value.trim()));
    });
    byId("previous").addEventListener("click", () => to(source.neighbour(chosen, -1), "This is the first."));
    byId("next").addEventListener("click", () => to(source.neighbour(chosen, 1), "This is the last."));
    byId("whole").addEventListener("click", () => {
      for (const diagram of Object.values(diagrams)) diagram.reset();
      spectra.rebuild();
    });
    byId("download").addEventListener("click", download);
    byId("columns").addEventListener("toggle", showColumns);
    let waiting;
    addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        Object.values(diagrams).forEach((diagram) => { diagram.resize(); redraw(diagram); });
        spectra.resize();
      }, 100);
    });
    dark.addEventListener("change", () => { redrawAll(); spectra.rebuild(); });
  }

  meta = await source.start();
  for (const [name, title] of Object.entries(meta.colours)) byId("colour").add(new Option(title, name));
  for (const name of Object.keys(DIAGRAMS)) {
    diagrams[name] = new Diagram(name, byId(name), source.whole(name), {
      onView: redraw,
      onPick: (diagram, at) => to(source.pick(diagram, at), "No star here."),
    });
    byId(name).addEventListener("keydown", (event) => onKey(diagrams[name], event));
  }
  listen();
  await Promise.all(Object.values(diagrams).map(({ready}) => ready));
  await redrawAll();
  byId("explorer").dataset.loaded = String(meta.count);
  // what a script or a test needs to know where a star is drawn and what is shown of it
  window.stargapExplorer = {place: (name, x, y) => diagrams[name].place(x, y), spectrum: spectra.current, select, diagrams, redrawAll,
                            chosen: () => star, say};
  if (meta.first !== null) await select(meta.first);
  else say("No star with labels.");
  return meta;
};
