// The explorer of a stargap report: two diagrams, and the spectrum, model, residual and row of the chosen star.
"use strict";
(function () {
  const NO_PIXEL = -32768, PAD = {left: 58, right: 12, top: 10, bottom: 44}, INK = "#222", MODEL = "#b34700";
  const DIAGRAMS = {
    kiel: {x: "teff", y: "logg", xTitle: "Teff (K)", yTitle: "log g (dex)", xDown: true},
    hr: {x: "bp_rp", y: "m_g", xTitle: "BP − RP (mag)", yTitle: "M_G (mag)", xDown: false},
  };
  const QUANTITIES = ["rv", "teff", "logg", "m_h"];
  const byId = (name) => document.getElementById(name);
  const waiting = new Map(), loaded = new Map();
  let points = null, chosen = -1, spectrum = null;

  // ---- files, loaded as scripts: a page opened from a disk may not fetch

  window.stargapLoaded = (kind, number, content) => { loaded.set(kind + number, content); };

  function load(kind, number, path) {
    const name = kind + number;
    if (!waiting.has(name)) {
      waiting.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = path;
        script.onload = () => (loaded.has(name) ? resolve(loaded.get(name)) : reject(new Error(path + " is damaged")));
        script.onerror = () => { waiting.delete(name); reject(new Error(path + " is missing")); };
        document.head.append(script);
      }));
    }
    return waiting.get(name);
  }

  const fileName = (number) => String(number).padStart(3, "0") + ".js";

  function bytes(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  }

  // ---- points

  function unpack(content) {
    const ids = {};
    for (const [name, text] of Object.entries(content.ids)) ids[name] = text ? text.split(" ") : [];
    const columns = {};
    for (const [name, text] of Object.entries(content.columns)) columns[name] = new Float32Array(bytes(text));
    return {...content, ids, columns, final: new Uint8Array(bytes(content.final))};
  }

  const visible = (i) => points.final[i] === 1 || byId("removed").checked;
  const pickable = (i) => visible(i) && (i < points.shown || !byId("only").checked);

  function drawn(diagram, i) {
    return visible(i) && Number.isFinite(points.columns[diagram.x][i]) && Number.isFinite(points.columns[diagram.y][i]);
  }

  function range(values, use) {
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < values.length; i++) {
      if (use(i) && Number.isFinite(values[i])) { low = Math.min(low, values[i]); high = Math.max(high, values[i]); }
    }
    if (low > high) return [0, 1];
    const margin = 0.03 * (high - low) || 0.5;
    return [low - margin, high + margin];
  }

  // ---- drawing

  function prepare(canvas) {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    return {pen, width, height};
  }

  function scale(low, high, from, to) {
    const place = (value) => from + (value - low) / (high - low) * (to - from);
    place.back = (pixel) => low + (pixel - from) / (to - from) * (high - low);
    place.low = low;
    place.high = high;
    return place;
  }

  function ticks(low, high, count) {
    const rough = (high - low) / Math.max(2, Math.min(6, count)), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= 0.75 * rough);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let n = Math.ceil(low / step); n * step <= high; n++) found.push([n * step, (n * step).toFixed(digits)]);
    return found;
  }

  function axes(pen, x, y, box, xTitle, yTitle) {
    pen.strokeStyle = pen.fillStyle = INK;
    pen.lineWidth = 1;
    pen.strokeRect(box.left, box.top, box.right - box.left, box.bottom - box.top);
    pen.textAlign = "center";
    pen.textBaseline = "top";
    if (xTitle) {
      for (const [value, text] of ticks(x.low, x.high, (box.right - box.left) / 70)) {
        pen.fillRect(x(value), box.bottom - 5, 1, 5);
        pen.fillText(text, x(value), box.bottom + 5);
      }
      pen.fillText(xTitle, (box.left + box.right) / 2, box.bottom + 24);
    }
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const [value, text] of ticks(y.low, y.high, (box.bottom - box.top) / 32)) {
      pen.fillRect(box.left, y(value), 5, 1);
      pen.fillText(text, box.left - 5, y(value));
    }
    pen.save();
    pen.translate(12, (box.top + box.bottom) / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText(yTitle, 0, 0);
    pen.restore();
  }

  function colourScale() {
    const name = byId("colour").value, values = points.columns[name];
    const known = values.filter((value, i) => visible(i) && Number.isFinite(value)).sort();
    const at = (part) => (known.length ? known[Math.round(part * (known.length - 1))] : 0);
    const low = at(0.02), high = at(0.98), last = points.palette.length - 1;
    byId("colours").textContent = points.colours[name] + ": from " + low.toPrecision(3) + " (dark) to " +
      high.toPrecision(3) + " (light)";
    return (i) => (Number.isFinite(values[i])
      ? Math.max(0, Math.min(last, Math.round((values[i] - low) / (high - low || 1) * last))) : -1);
  }

  function drawDiagram(name, bin) {
    const diagram = DIAGRAMS[name], canvas = byId(name), {pen, width, height} = prepare(canvas);
    const box = {left: PAD.left, right: width - PAD.right, top: PAD.top, bottom: height - PAD.bottom};
    const use = (i) => drawn(diagram, i);
    const [x0, x1] = range(points.columns[diagram.x], use), [y0, y1] = range(points.columns[diagram.y], use);
    diagram.px = diagram.xDown ? scale(x0, x1, box.right, box.left) : scale(x0, x1, box.left, box.right);
    diagram.py = scale(y0, y1, box.top, box.bottom);
    const size = points.count > 5000 ? 2 : 4;
    const [xs, ys] = [points.columns[diagram.x], points.columns[diagram.y]];
    // one by one in the points' random order: drawn colour by colour, the last would hide the others
    for (let i = points.count - 1; i >= 0; i--) {
      if (!points.final[i] || !use(i)) continue;
      pen.fillStyle = points.palette[bin(i)] || "#888";
      pen.fillRect(diagram.px(xs[i]) - size / 2, diagram.py(ys[i]) - size / 2, size, size);
    }
    pen.strokeStyle = "#555";
    pen.lineWidth = 1;
    pen.beginPath();
    for (let i = 0; i < points.count; i++) {
      if (points.final[i] || !use(i)) continue;
      const [x, y] = [diagram.px(xs[i]), diagram.py(ys[i])];
      pen.moveTo(x - 3, y - 3); pen.lineTo(x + 3, y + 3);
      pen.moveTo(x - 3, y + 3); pen.lineTo(x + 3, y - 3);
    }
    pen.stroke();
    axes(pen, diagram.px, diagram.py, box, diagram.xTitle, diagram.yTitle);
    diagram.base = document.createElement("canvas");
    diagram.base.width = canvas.width;
    diagram.base.height = canvas.height;
    diagram.base.getContext("2d").drawImage(canvas, 0, 0);
  }

  function mark() {
    for (const [name, diagram] of Object.entries(DIAGRAMS)) {
      const canvas = byId(name), pen = canvas.getContext("2d");
      pen.save();
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.drawImage(diagram.base, 0, 0);
      pen.restore();
      if (chosen < 0 || !drawn(diagram, chosen)) continue;
      const [x, y] = [diagram.px(points.columns[diagram.x][chosen]), diagram.py(points.columns[diagram.y][chosen])];
      for (const [width, colour] of [[5, "#fff"], [2, "#000"]]) {
        pen.lineWidth = width;
        pen.strokeStyle = colour;
        pen.beginPath();
        pen.arc(x, y, 8, 0, 2 * Math.PI);
        pen.stroke();
      }
    }
  }

  function redraw() {
    const bin = colourScale();
    for (const name of Object.keys(DIAGRAMS)) drawDiagram(name, bin);
    mark();
    drawSpectrum();
  }

  function quantiles(values, low, high) {
    const known = values.filter(Number.isFinite).sort();
    return known.length ? [low, high].map((part) => known[Math.round(part * (known.length - 1))]) : [0, 1];
  }

  function line(pen, x, y, values, box, dash) {
    pen.save();
    pen.beginPath();
    pen.rect(box.left, box.top, box.right - box.left, box.bottom - box.top);
    pen.clip();
    pen.setLineDash(dash);
    pen.beginPath();
    let down = false;
    for (let i = 0; i < values.length; i++) {
      if (!Number.isFinite(values[i])) { down = false; continue; }
      pen[down ? "lineTo" : "moveTo"](x(spectrum.start + i * spectrum.step), y(values[i]));
      down = true;
    }
    pen.stroke();
    pen.restore();
  }

  function drawSpectrum() {
    const {pen, width, height} = prepare(byId("spectrum"));
    pen.textBaseline = "top";
    if (spectrum === null) {
      pen.fillStyle = INK;
      pen.fillText(chosen < 0 ? "Choose a star in a diagram." : "No spectrum of this star in the report.", 20, 20);
      return;
    }
    const split = PAD.top + 0.68 * (height - PAD.top - PAD.bottom);
    const top = {left: PAD.left, right: width - PAD.right, top: PAD.top, bottom: split};
    const low = {left: PAD.left, right: width - PAD.right, top: split, bottom: height - PAD.bottom};
    const end = spectrum.start + spectrum.step * (spectrum.observed.length - 1);
    const x = scale(spectrum.start, end, top.left, top.right);
    spectrum.px = x;
    const [a, b] = quantiles(spectrum.observed, 0.003, 0.997), [c, d] = quantiles(spectrum.model, 0.003, 0.997);
    const [floor, roof] = [Math.min(a, c), Math.max(b, d)], extent = (roof - floor) || 1;
    const y = scale(floor - 0.1 * extent, roof + 0.25 * extent, top.bottom, top.top);
    const reach = Math.max(3, 1.3 * Math.max(...quantiles(spectrum.residual, 0.005, 0.995).map(Math.abs)));
    const r = scale(-reach, reach, low.bottom, low.top);
    pen.strokeStyle = INK;
    pen.lineWidth = 1;
    line(pen, x, y, spectrum.observed, top, []);
    pen.strokeStyle = MODEL;
    pen.lineWidth = 1.6;
    line(pen, x, y, spectrum.model, top, [5, 2]);
    pen.strokeStyle = "#999";
    pen.lineWidth = 1;
    pen.strokeRect(low.left, r(0), low.right - low.left, 0);
    pen.strokeStyle = INK;
    line(pen, x, r, spectrum.residual, low, []);
    axes(pen, x, y, top, "", "normalised flux");
    axes(pen, x, r, low, "rest-frame wavelength (Å, vacuum)", "residual / σ");
    pen.textAlign = "left";
    pen.textBaseline = "top";
    pen.fillText("solid: observed", top.left + 10, top.top + 8);
    pen.fillStyle = MODEL;
    pen.fillText("dashed: model", top.left + 110, top.top + 8);
  }

  // ---- the chosen star

  function unpackSpectrum(content, place) {
    const whole = new Int16Array(bytes(content.data)), result = {start: content.start, step: content.step};
    ["observed", "model", "residual"].forEach((name, number) => {
      const row = 3 * place + number, unit = content.scale[row];
      result[name] = Float64Array.from(whole.subarray(row * content.pixels, (row + 1) * content.pixels),
        (value) => (value === NO_PIXEL ? NaN : value * unit));
    });
    return result;
  }

  function showRow(cells) {
    const table = byId("row");
    table.replaceChildren();
    const nulls = [];
    const unusable = new Set(QUANTITIES.filter(
      (quantity) => cells[points.schema.findIndex(([name]) => name === "use_" + quantity)] === "0"));
    points.schema.forEach(([name, unit, about], place) => {
      if (cells[place] === "") { nulls.push(name); return; }
      const line = table.insertRow(), head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      line.append(head);
      const spoilt = unusable.has(name.replace(/^(e|limit)_/, "").replace(/_(sys|fit|paper)$/, ""));
      line.className = spoilt ? "unusable" : "";
      for (const text of [cells[place], unit, spoilt ? "cannot be used. " + about : about]) line.insertCell().textContent = text;
      line.cells[1].className = /^-?[\d.]+$/.test(cells[place]) ? "number" : "";
    });
    byId("nulls").textContent = nulls.length ? "null: " + nulls.join(", ") : "";
  }

  async function select(i) {
    chosen = i;
    spectrum = null;
    mark();
    const id = points.ids.spectrum_id[i];
    byId("explorer").dataset.chosen = id;
    byId("status").textContent = "Loading spectrum " + id + " …";
    try {
      const number = Math.floor(i / points.rowsAFile);
      const rows = await load("rows", number, "rows/" + fileName(number));
      let found = null;
      if (i < points.shown) {
        const part = Math.floor(i / points.spectraAFile);
        found = unpackSpectrum(await load("spectra", part, "spectra/" + fileName(part)), i % points.spectraAFile);
      }
      if (chosen !== i) return;
      spectrum = found;
      showRow(rows[i % points.rowsAFile]);
      byId("download").hidden = found === null;
      const name = (kind) => (points.ids[kind][i] === "-9999" ? "unknown" : points.ids[kind][i]);
      byId("status").textContent = "spectrum_id " + id + ", obsid " + name("obsid") + ", gaia_source_id " +
        name("gaia_source_id") + (points.final[i] ? "" : ", not in the final catalogue");
      byId("explorer").dataset.ready = id;
    } catch (error) {
      if (chosen === i) byId("status").textContent = "Spectrum " + id + " cannot be shown: " + error.message;
    }
    drawSpectrum();
  }

  function nearest(name, x, y, use) {
    const diagram = DIAGRAMS[name], [xs, ys] = [points.columns[diagram.x], points.columns[diagram.y]];
    let best = -1, least = Infinity;
    for (let i = 0; i < points.count; i++) {
      if (!drawn(diagram, i) || !pickable(i)) continue;
      const across = diagram.px(xs[i]) - x, down = diagram.py(ys[i]) - y;
      const far = across * across + down * down;
      if (far < least && use(across, down, i)) { best = i; least = far; }
    }
    return best;
  }

  function step(name, event) {
    const direction = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (!direction) return;
    event.preventDefault();
    const canvas = byId(name), diagram = DIAGRAMS[name];
    const known = chosen >= 0 && drawn(diagram, chosen);
    const x = known ? diagram.px(points.columns[diagram.x][chosen]) : canvas.clientWidth / 2;
    const y = known ? diagram.py(points.columns[diagram.y][chosen]) : canvas.clientHeight / 2;
    const next = nearest(name, x, y, (across, down, i) => {
      const along = across * direction[0] + down * direction[1];
      return i !== chosen && (!known || (along > 0 && 2 * along * along >= across * across + down * down));
    });
    if (next >= 0) select(next);
  }

  function find(text) {
    for (const [name, ids] of Object.entries(points.ids)) {
      const i = text === "-9999" ? -1 : ids.indexOf(text);
      if (i >= 0) {
        if (!points.final[i] && !byId("removed").checked) { byId("removed").checked = true; redraw(); }
        select(i);
        return;
      }
    }
    byId("status").textContent = text + ": no spectrum in the explorer has this identifier.";
  }

  function download() {
    const lines = ["wavelength,observed,model,residual"];
    spectrum.observed.forEach((value, i) => {
      if (Number.isFinite(value)) {
        const cells = [spectrum.start + i * spectrum.step, value, spectrum.model[i], spectrum.residual[i]];
        lines.push(cells.map((cell, place) => cell.toFixed(place ? 5 : 1)).join(","));
      }
    });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "text/csv"}));
    link.download = "spectrum-" + points.ids.spectrum_id[chosen] + ".csv";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function readout(event) {
    if (spectrum === null) return;
    const i = Math.round((spectrum.px.back(event.offsetX) - spectrum.start) / spectrum.step);
    const wave = (spectrum.start + i * spectrum.step).toFixed(1) + " Å: ";
    byId("readout").textContent = Number.isFinite(spectrum.observed[i])
      ? wave + "observed " + spectrum.observed[i].toFixed(4) + ", model " + spectrum.model[i].toFixed(4) +
        ", residual " + spectrum.residual[i].toFixed(2) + " σ"
      : wave + "not fitted";
  }

  async function start() {
    points = unpack(await load("points", 0, "explorer/points.js"));
    for (const [name, title] of Object.entries(points.colours)) byId("colour").add(new Option(title, name));
    byId("only").checked = points.shown > 0;
    byId("only").parentElement.hidden = points.shown === 0 || points.shown === points.count;
    for (const name of Object.keys(DIAGRAMS)) {
      byId(name).addEventListener("click", (event) => {
        const i = nearest(name, event.offsetX, event.offsetY, () => true);
        if (i >= 0) select(i);
      });
      byId(name).addEventListener("keydown", (event) => step(name, event));
    }
    for (const name of ["colour", "removed"]) byId(name).addEventListener("change", redraw);
    byId("find-form").addEventListener("submit", (event) => { event.preventDefault(); find(byId("find").value.trim()); });
    byId("spectrum").addEventListener("pointermove", readout);
    byId("download").addEventListener("click", download);
    window.addEventListener("resize", redraw);
    redraw();
    byId("explorer").dataset.loaded = String(points.count);
    byId("status").textContent = points.count.toLocaleString("en") + " spectra, " +
      points.shown.toLocaleString("en") + " of them with their spectrum here.";
  }

  // what a script or a test needs to know where a star is drawn and what is shown of it
  window.stargapExplorer = {
    place: (name, i) => {
      const diagram = DIAGRAMS[name];
      return [diagram.px(points.columns[diagram.x][i]), diagram.py(points.columns[diagram.y][i])];
    },
    index: (id) => points.ids.spectrum_id.indexOf(id),
    spectrum: () => spectrum,
  };

  if (byId("explorer-ready")) {
    start().catch((error) => { byId("status").textContent = "The explorer cannot start: " + error.message; });
  }
})();
