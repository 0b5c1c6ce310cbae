// What a report's explorer shows, from files beside the page.
"use strict";
window.stargapReport = (function () {
  const {DIAGRAMS} = window.stargapDiagrams;
  const byId = (name) => document.getElementById(name);
  const waiting = new Map(), loaded = new Map();
  let points = null;

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
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  async function start() {
    const content = await load("points", 0, "explorer/points.js");
    const columns = {};
    for (const [name, packed] of Object.entries(content.columns)) columns[name] = new Float32Array(bytes(packed));
    points = {...content, columns, final: new Uint8Array(bytes(content.final))};
    byId("only").checked = points.shown > 0;
    byId("only").parentElement.hidden = points.shown === 0 || points.shown === points.count;
    return points;
  }

  // ---- points

  const visible = (i) => points.final[i] === 1 || byId("removed").checked;
  const pickable = (i) => visible(i) && (i < points.shown || !byId("only").checked);
  const xs = (name) => points.columns[DIAGRAMS[name].x], ys = (name) => points.columns[DIAGRAMS[name].y];
  const drawn = (name, i) => visible(i) && Number.isFinite(xs(name)[i]) && Number.isFinite(ys(name)[i]);

  function whole(name) {
    const none = !points.final.includes(1), range = (values) => {
      let low = Infinity, high = -Infinity;
      for (let i = 0; i < points.count; i++) {
        if ((points.final[i] || none) && Number.isFinite(values[i])) { low = Math.min(low, values[i]); high = Math.max(high, values[i]); }
      }
      if (low > high) return [0, 1];
      const margin = 0.03 * (high - low) || 0.5;
      return [low - margin, high + margin];
    };
    return {x: range(xs(name)), y: range(ys(name))};
  }

  async function diagram(name, colour) {
    const all = points.columns[colour], known = all.filter((value, i) => visible(i) && Number.isFinite(value)).sort();
    const at = (part) => (known.length ? known[Math.round(part * (known.length - 1))] : 0);
    const rows = [];
    for (let i = 0; i < points.count; i++) if (drawn(name, i)) rows.push(i);
    const pick = (values) => rows.map((i) => values[i]);
    return {
      x: pick(xs(name)), y: pick(ys(name)), values: pick(all), crosses: rows.map((i) => !points.final[i]),
      scale: {title: points.colours[colour], low: at(0.02), high: at(0.98)},
    };
  }

  function nearest(diagram, [x, y], use) {
    const {name, plot} = diagram;
    let best = null, least = Infinity;
    for (let i = 0; i < points.count; i++) {
      if (!drawn(name, i) || !pickable(i)) continue;
      const across = plot.valToPos(xs(name)[i], "x") - x, down = plot.valToPos(ys(name)[i], "y") - y;
      const far = across * across + down * down;
      if (far < least && use(across, down, i)) { best = i; least = far; }
    }
    return best;
  }

  const pixel = ({plot}, x, y) => [plot.valToPos(x, "x"), plot.valToPos(y, "y")];

  async function step(diagram, chosen, direction) {
    const {name, size} = diagram, known = chosen !== null && drawn(name, chosen);
    const from = known ? pixel(diagram, xs(name)[chosen], ys(name)[chosen]) : [size[0] / 2, size[1] / 2];
    return nearest(diagram, from, (across, down, i) => {
      const along = across * direction[0] + down * direction[1];
      return i !== chosen && (!known || (along > 0 && 2 * along * along >= across * across + down * down));
    });
  }

  async function neighbour(chosen, way) {
    for (let i = (chosen === null ? -1 : chosen) + way; i >= 0 && i < points.count; i += way) if (pickable(i)) return i;
    return null;
  }

  async function find(wanted) {
    for (const [name, ids] of Object.entries(points.ids)) {
      const i = wanted === "" || wanted === "-9999" ? -1 : ids.indexOf(wanted);
      if (i < 0) continue;
      if (!points.final[i] && !byId("removed").checked) {
        byId("removed").checked = true;
        byId("removed").dispatchEvent(new Event("change"));
      }
      return i;
    }
    throw new Error(wanted + ": no spectrum in the explorer has this identifier or designation.");
  }

  // ---- the chosen star

  async function row(i) {
    const number = Math.floor(i / points.rowsAFile);
    return (await load("rows", number, "rows/" + fileName(number)))[i % points.rowsAFile];
  }

  async function star(i) {
    const [, summary] = await row(i);
    const known = (kind) => (points.ids[kind][i] === "-9999" ? "unknown" : points.ids[kind][i]);
    const gaia = points.ids.gaia_source_id[i], repeats = [];
    for (let k = 0; gaia !== "-9999" && k < points.count; k++) {
      if (points.ids.gaia_source_id[k] === gaia && visible(k)) repeats.push(k);
    }
    return {
      key: i, id: points.ids.spectrum_id[i], summary,
      places: Object.fromEntries(Object.keys(DIAGRAMS).map((name) => [name, [xs(name)[i], ys(name)[i]]])),
      repeats: repeats.map((key) => ({key, label: "S/N " + points.columns.snr_r[key].toFixed(0)})),
      names: "spectrum_id " + points.ids.spectrum_id[i] + ", obsid " + known("obsid") + ", gaia_source_id " +
        known("gaia_source_id") + (points.final[i] ? "" : ", not in the final catalogue"),
    };
  }

  async function spectrum(i, show) {
    if (i >= points.shown) { show(null, "The report has no spectrum of this star: stargap view shows every one."); return; }
    const part = Math.floor(i / points.spectraAFile);
    const content = await load("spectra", part, "spectra/" + fileName(part));
    show(window.stargapSpectrum.unpack(content, i % points.spectraAFile), "");
  }

  return {
    start, whole, diagram, step, neighbour, find, star, spectrum, cells: async (i) => (await row(i))[0],
    pick: async (diagram, at) => nearest(diagram, pixel(diagram, at.x, at.y), () => true),
    index: (id) => points.ids.spectrum_id.indexOf(id),
    values: (name, i) => [xs(name)[i], ys(name)[i]],
  };
})();

if (document.getElementById("explorer-ready")) {
  window.stargapExplore(window.stargapReport).then(
    (points) => {
      document.getElementById("counts").textContent = points.count.toLocaleString("en") + " spectra, " +
        points.shown.toLocaleString("en") + " of them with their spectrum here.";
    },
    (error) => { document.getElementById("status").textContent = "The explorer cannot start: " + error.message; });
}
