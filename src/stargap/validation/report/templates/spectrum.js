// The chosen star's spectrum in a stargap explorer: flux with pseudo-continuum, fit, residuals and H-alpha, by uPlot.
"use strict";
window.stargapSpectrum = (function () {
  const {axis, ink, movable, PAN} = window.stargapDiagrams;
  const MARKS = window.stargapMarks, C = 299792.458, NEAR_HALPHA = 45, NO_PIXEL = -32768;
  const byId = (name) => document.getElementById(name);
  const PANELS = ["flux", "fit", "residual", "halpha"];
  const plots = {};
  let shown = null, linked = false;

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  function row(block, place, number = 0, lines = 1) {
    const whole = new Int16Array(bytes(block.data)), line = lines * place + number, unit = block.scale[line];
    return Array.from(whole.subarray(line * block.pixels, (line + 1) * block.pixels),
      (value) => (value === NO_PIXEL ? null : value * unit));
  }

  // One spectrum of a file: wavelengths in the star's rest frame, null where there is no pixel.
  function unpack(content, place) {
    const velocity = content.rv[place], toRest = 1 / (1 + (velocity === null ? 0 : velocity) / C);
    const flux = row(content.flux, place), continuum = row(content.continuum, place);
    const native = flux.map((_, i) => 10 ** (content.native.step * (content.native.first + i)) * toRest);
    const wave = Array.from({length: content.fit.pixels}, (_, i) => content.start + i * content.step);
    const [observed, model, residual] = [0, 1, 2].map((number) => row(content.fit, place, number, 3));
    const smooth = native.map((wavelength) => between(continuum, content.continuum, wavelength));
    return {wave, observed, model, residual, native, flux, continuum: smooth, velocity};
  }

  // linear between the nodes of the pseudo-continuum; none beyond them
  function between(values, {start, step}, at) {
    const place = (at - start) / step, i = Math.floor(place), t = place - i;
    const [a, b] = [values[i], values[i + 1]];
    return a === undefined || a === null ? null : (b === undefined || b === null ? (t < 1e-6 ? a : null) : a + t * (b - a));
  }

  function quantiles(lists, low, high) {
    const known = Float64Array.from(lists.flat().filter((value) => value !== null)).sort();
    return known.length ? [low, high].map((part) => known[Math.round(part * (known.length - 1))]) : [0, 1];
  }

  function roof([low, high], below, above) {
    const extent = (high - low) || 1;
    return [low - below * extent, high + above * extent];
  }

  function ranges(spectrum) {
    const reach = Math.max(3, 1.3 * Math.max(...quantiles([spectrum.residual], 0.005, 0.995).map(Math.abs)));
    const [low, high] = quantiles([spectrum.flux], 0.002, 0.998);
    return {
      flux: roof([Math.min(0, low), high], 0.02, 0.3),
      fit: roof(quantiles([spectrum.observed, spectrum.model], 0.003, 0.997), 0.1, 0.3),
      residual: [-reach, reach],
      halpha: roof(quantiles([nearHalpha(spectrum)[1]], 0, 1), 0.1, 0.2),
    };
  }

  function nearHalpha(spectrum) {
    const centre = MARKS.halpha, x = [], y = [];
    spectrum.native.forEach((wavelength, i) => {
      if (Math.abs(wavelength - centre) > NEAR_HALPHA) return;
      const [flux, level] = [spectrum.flux[i], spectrum.continuum[i]];
      x.push(wavelength);
      y.push(flux === null || level === null || level <= 0 ? null : flux / level);
    });
    return x.length ? [x, y] : [[centre - NEAR_HALPHA, centre + NEAR_HALPHA], [null, null]];
  }

  // ---- marks of lines and bands, and the windows that fits leave out

  function shade(plot) {
    const {ctx, bbox} = plot, shift = shown && shown.velocity !== null ? 1 + shown.velocity / C : 1;
    ctx.save();
    ctx.fillStyle = ink("--ex-window");
    for (const [low, high, frame] of MARKS.windows) {
      const ends = [low, high].map((edge) => plot.valToPos(frame === "rest" ? edge : edge / shift, "x", true));
      const left = Math.max(ends[0], bbox.left), right = Math.min(ends[1], bbox.left + bbox.width);
      if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
    }
    ctx.restore();
  }

  function label(plot) {
    const {ctx, bbox} = plot, ratio = devicePixelRatio || 1, {min, max} = plot.scales.x;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = ctx.strokeStyle = ink("--ex-quiet");
    ctx.font = 11 * ratio + "px system-ui, sans-serif";
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    ctx.lineWidth = ratio;
    const place = (wavelength) => plot.valToPos(wavelength, "x", true), top = bbox.top + 4 * ratio;
    const write = (name, at, level) => {
      const half = ctx.measureText(name).width / 2 + 2 * ratio, right = bbox.left + bbox.width;
      ctx.fillText(name, Math.min(Math.max(at, bbox.left + half), right - half), top + 13 * ratio * level);
    };
    for (const [name, lines, level] of MARKS.lines) {
      const seen = lines.filter((line) => line > min && line < max).map(place);
      if (!seen.length) continue;
      write(name, seen.reduce((sum, value) => sum + value, 0) / seen.length, level);
      ctx.beginPath();
      for (const at of seen) { ctx.moveTo(at, top + 28 * ratio); ctx.lineTo(at, top + 40 * ratio); }
      ctx.stroke();
    }
    for (const [name, low, high, level] of MARKS.bands) {
      if (high < min || low > max) continue;
      write(name, (place(low) + place(high)) / 2, level);
      ctx.fillRect(place(low), top + 30 * ratio, Math.max(place(high) - place(low), ratio), 5 * ratio);
    }
    ctx.restore();
  }

  function centre(plot) {
    const {ctx, bbox} = plot, at = plot.valToPos(MARKS.halpha, "x", true);
    ctx.save();
    ctx.strokeStyle = ink("--ex-quiet");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }

  // ---- panels

  const number = (digits, unit = "") => (plot, value) => (value === null || value === undefined ? "–" : value.toFixed(digits) + unit);
  const line = (name, colour, width, digits, dash) => ({
    label: name, stroke: () => ink(colour), width, dash, points: {show: false}, value: number(digits), spanGaps: false,
  });

  function options(name, series, title, hooks) {
    const element = byId(name), alone = name === "halpha";
    return {
      width: element.clientWidth, height: Number(element.dataset.height),
      scales: {x: {time: false, range: (plot, low, high) => (plot.begun ? [low, high] : wholeOf(name))},
               y: {range: (plot, low, high) => (plot.begun && low !== null && zoomed(plot, name) ? seen(name, low, high) : ranges(shown)[name])}},
      axes: [{...axis(alone ? "wavelength (Å)" : name === "residual" ? "rest-frame wavelength (Å, vacuum)" : "", 0), labelSize: name === "residual" || alone ? 22 : 0,
              size: name === "residual" || alone ? 36 : 22}, axis(title, 1)],
      series: [{label: "Å", value: number(1)}, ...series],
      legend: {live: true},
      cursor: {drag: {x: true, y: false, dist: 6}, points: {size: 5}, sync: alone ? undefined : {key: "stargap", scales: ["x", null]}},
      hooks: {...hooks, ready: [(plot) => { plot.begun = true; }], setScale: [(plot, scale) => { if (scale === "x" && !alone) follow(plot); }]},
    };
  }

  // the three panels of the whole range show the same wavelengths
  function follow(plot) {
    if (linked) return;
    linked = true;
    const {min, max} = plot.scales.x;
    for (const name of ["flux", "fit", "residual"]) {
      if (plots[name] && plots[name] !== plot) plots[name].setScale("x", {min, max});
    }
    linked = false;
  }

  function lists() {
    const {wave, observed, model, residual, native, flux, continuum} = shown;
    return {
      flux: [native, flux, continuum], fit: [wave, observed, model], residual: [wave, residual], halpha: nearHalpha(shown),
    };
  }

  function build() {
    const data = lists();
    const panels = {
      flux: [[line("flux", "--ex-ink", 1, 3), line("pseudo-continuum", "--ex-smooth", 2, 3)], "flux (as in the file)",
             {drawClear: [shade], draw: [label]}],
      fit: [[line("observed", "--ex-ink", 1, 4), line("model", "--ex-model", 1.5, 4, [6, 3])], "normalised flux",
            {drawClear: [shade]}],
      residual: [[line("residual / σ", "--ex-ink", 1, 2)], "residual / σ", {drawClear: [shade]}],
      halpha: [[line("Hα", "--ex-ink", 1.2, 3)], "Hα: flux / pseudo-continuum", {draw: [centre]}],
    };
    for (const name of PANELS) {
      const [series, title, hooks] = panels[name], element = byId(name);
      element.replaceChildren();
      plots[name] = new uPlot(options(name, series, title, hooks), data[name], element);
      const keys = movable(plots[name], ["x"], () => reset(name));
      element.onkeydown = (event) => {
        const {min, max} = plots[name].scales.x, by = PAN * (max - min);
        const way = {ArrowLeft: -by, ArrowRight: by}[event.key];
        if (way) plots[name].setScale("x", {min: min + way, max: max + way});
        else if (!keys(event.key)) return;
        event.preventDefault();
      };
    }
  }

  function wholeOf(name) { return name === "halpha" ? [MARKS.halpha - NEAR_HALPHA, MARKS.halpha + NEAR_HALPHA] : MARKS.range; }

  function zoomed(plot, name) {
    const {min, max} = plot.scales.x, [low, high] = wholeOf(name);
    return max - min < 0.98 * (high - low);
  }

  // the range of what is in view of a zoomed panel
  function seen(name, low, high) {
    const reach = Math.max(3, 1.1 * Math.abs(low), 1.1 * Math.abs(high));
    return name === "residual" ? [-reach, reach] : roof([low, high], 0.08, name === "flux" ? 0.45 : 0.1);
  }

  function reset(name) {
    const [min, max] = wholeOf(name);
    plots[name].setScale("x", {min, max});
  }

  // A zoom is kept from star to star: one looks at the same line in many.
  function show(spectrum) {
    shown = spectrum;
    byId("spectra").hidden = spectrum === null;
    if (spectrum === null) return;
    if (!plots.flux) { build(); return; }
    const data = lists();
    linked = true;
    for (const name of PANELS) {
      const {min, max} = plots[name].scales.x;
      plots[name].batch(() => {
        plots[name].setData(data[name], false);
        plots[name].setScale("x", {min, max});
      });
    }
    linked = false;
  }

  function rebuild() { if (shown) build(); }

  function resize() {
    for (const name of PANELS) {
      if (plots[name]) plots[name].setSize({width: byId(name).clientWidth, height: Number(byId(name).dataset.height)});
    }
  }

  function csv() {
    const lines = ["wavelength,observed,model,residual"], {wave, observed, model, residual} = shown;
    wave.forEach((wavelength, i) => {
      if (observed[i] === null) return;
      const cells = [observed[i], model[i], residual[i]].map((value) => (value === null ? "" : value.toFixed(5)));
      lines.push([wavelength.toFixed(1), ...cells].join(","));
    });
    return lines.join("\n") + "\n";
  }

  return {unpack, show, rebuild, resize, csv, current: () => shown, plots};
})();
