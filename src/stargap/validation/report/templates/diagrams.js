// Two scatter diagrams of a stargap explorer, drawn by uPlot's axes: points one by one, or means in bins.
"use strict";
window.stargapDiagrams = (function () {
  const DIAGRAMS = {
    kiel: {x: "teff", y: "logg", xTitle: "Teff (K)", yTitle: "log g (dex)", xDown: true},
    hr: {x: "bp_rp", y: "m_g", xTitle: "BP − RP (mag)", yTitle: "M_G (mag)", xDown: false},
  };
  const ZOOM = 1.25, PAN = 0.15;

  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function axis(label, side) {
    return {
      label, labelSize: 22, labelGap: 0, labelFont: "13px system-ui, sans-serif", font: "12px system-ui, sans-serif",
      stroke: () => ink("--ex-ink"), size: side ? 52 : 36, space: side ? 28 : 55,
      grid: {stroke: () => ink("--ex-grid"), width: 1}, ticks: {stroke: () => ink("--ex-grid"), width: 1, size: 5},
      values: (plot, splits) => splits.map((value) => String(Number(value.toPrecision(8)))),
    };
  }

  // Zoom with the wheel and with + and -, pan with shift and the mouse, all back with a double click or 0.
  function movable(plot, scales, reset) {
    const over = plot.over;
    const zoom = (name, factor, around) => {
      const {min, max} = plot.scales[name], middle = around === undefined ? (min + max) / 2 : around;
      plot.setScale(name, {min: middle - (middle - min) * factor, max: middle + (max - middle) * factor});
    };
    const shift = (name, part) => {
      const {min, max} = plot.scales[name], by = part * (max - min);
      plot.setScale(name, {min: min + by, max: max + by});
    };
    over.addEventListener("wheel", (event) => {
      event.preventDefault();
      const factor = event.deltaY < 0 ? 1 / ZOOM : ZOOM;
      const at = {x: plot.posToVal(event.offsetX, "x"), y: plot.posToVal(event.offsetY, "y")};
      plot.batch(() => scales.forEach((name) => zoom(name, factor, at[name])));
    }, {passive: false});
    over.addEventListener("mousedown", (event) => {
      if (!event.shiftKey && event.button !== 1) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      let last = [event.clientX, event.clientY];
      const move = (now) => {
        const by = {x: now.clientX - last[0], y: now.clientY - last[1]};
        last = [now.clientX, now.clientY];
        plot.batch(() => scales.forEach((name) => {
          const scale = plot.scales[name], size = name === "x" ? over.clientWidth : over.clientHeight;
          const way = (name === "x") === (scale.dir === 1) ? -1 : 1;
          shift(name, way * by[name] / size);
        }));
      };
      const end = () => { removeEventListener("mousemove", move); removeEventListener("mouseup", end); };
      addEventListener("mousemove", move);
      addEventListener("mouseup", end);
    }, true);
    over.addEventListener("dblclick", (event) => { event.stopImmediatePropagation(); reset(); }, true);
    return (key) => {
      if (key === "+" || key === "=") plot.batch(() => scales.forEach((name) => zoom(name, 1 / ZOOM)));
      else if (key === "-") plot.batch(() => scales.forEach((name) => zoom(name, ZOOM)));
      else if (key === "0") reset();
      else return false;
      return true;
    };
  }

  class Diagram {
    // whole: {x: [low, high], y: [low, high]}; onView is called after each zoom, onPick with data coordinates.
    constructor(name, element, whole, calls) {
      Object.assign(this, {name, element, whole, calls, ...DIAGRAMS[name], content: null, chosen: null, image: null});
      this.build();
    }

    build() {
      const {element, whole} = this;
      element.replaceChildren();
      this.ready = new Promise((resolve) => { this.isReady = resolve; });
      // uPlot asks for the range of x at every zoom, of y only where it looks for one itself
      const x = {time: false, dir: this.xDown ? -1 : 1, range: (plot, low, high) => [low, high]};
      this.plot = new uPlot({
        width: element.clientWidth, height: element.clientHeight,
        scales: {x, y: {dir: -1, range: () => whole.y}},
        axes: [axis(this.xTitle, 0), axis(this.yTitle, 1)],
        series: [{}, {paths: () => null, points: {show: false}}],
        legend: {show: false},
        cursor: {points: {show: false}, drag: {x: true, y: true, uni: 24, dist: 6}},
        hooks: {
          draw: [() => this.paint()],
          setScale: [() => { if (this.begun) this.moved(); }],
          ready: [() => { this.begun = true; this.isReady(); }],
        },
      }, [whole.x, whole.y], element);
      this.keys = movable(this.plot, ["x", "y"], () => this.reset());
      this.plot.over.addEventListener("click", (event) => {
        const at = {x: this.plot.posToVal(event.offsetX, "x"), y: this.plot.posToVal(event.offsetY, "y")};
        this.calls.onPick(this, at);
      });
    }

    reset() {
      const {x, y} = this.whole;
      this.plot.batch(() => {
        this.plot.setScale("x", {min: x[0], max: x[1]});
        this.plot.setScale("y", {min: y[0], max: y[1]});
      });
    }

    moved() {
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => this.calls.onView(this), 60);
    }

    get view() {
      const {x, y} = this.plot.scales;
      return {x: [x.min, x.max], y: [y.min, y.max]};
    }

    get zoomed() {
      const {x, y} = this.view;
      return x[1] - x[0] < 0.999 * (this.whole.x[1] - this.whole.x[0]) || y[1] - y[0] < 0.999 * (this.whole.y[1] - this.whole.y[0]);
    }

    // pixels of the plotted area, in the page's units
    get size() { return [this.plot.over.clientWidth, this.plot.over.clientHeight]; }

    place(x, y) {
      const box = this.element.getBoundingClientRect(), over = this.plot.over.getBoundingClientRect();
      return [over.left - box.left + this.plot.valToPos(x, "x"), over.top - box.top + this.plot.valToPos(y, "y")];
    }

    show(content) { this.content = content; this.image = null; this.plot.redraw(false); }

    mark(point) { this.chosen = point; this.plot.redraw(false); }

    resize() { this.plot.setSize({width: this.element.clientWidth, height: this.element.clientHeight}); }

    paint() {
      const {ctx, bbox} = this.plot;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      if (this.content && this.content.bins) this.paintBins(ctx);
      else if (this.content) this.paintPoints(ctx);
      if (this.chosen) this.paintChosen(ctx);
      ctx.restore();
    }

    paintPoints(ctx) {
      const {x, y, colour, crosses} = this.content, ratio = devicePixelRatio || 1;
      const size = ratio * (x.length > 5000 ? 2 : 4), half = size / 2, cross = 3 * ratio;
      const across = (value) => this.plot.valToPos(value, "x", true), down = (value) => this.plot.valToPos(value, "y", true);
      // last to first in the points' random order: drawn colour by colour, the last would hide the others
      for (let i = x.length - 1; i >= 0; i--) {
        if (crosses && crosses[i]) continue;
        ctx.fillStyle = colour(i);
        ctx.fillRect(across(x[i]) - half, down(y[i]) - half, size, size);
      }
      if (!crosses) return;
      ctx.strokeStyle = ink("--ex-quiet");
      ctx.lineWidth = ratio;
      ctx.beginPath();
      for (let i = 0; i < x.length; i++) {
        if (!crosses[i]) continue;
        const [h, v] = [across(x[i]), down(y[i])];
        ctx.moveTo(h - cross, v - cross); ctx.lineTo(h + cross, v + cross);
        ctx.moveTo(h - cross, v + cross); ctx.lineTo(h + cross, v - cross);
      }
      ctx.stroke();
    }

    // one pixel of an image for each bin, stretched without smoothing
    paintBins(ctx) {
      const {bins, width, height, view} = this.content;
      if (!this.image) {
        this.image = new OffscreenCanvas(width, height);
        const pen = this.image.getContext("2d"), pixels = pen.createImageData(width, height);
        for (let i = 0; i < width * height; i++) {
          const rgb = bins(i);
          if (rgb) pixels.data.set(rgb, 4 * i);
        }
        pen.putImageData(pixels, 0, 0);
      }
      const left = this.plot.valToPos(view.x[this.xDown ? 1 : 0], "x", true);
      const right = this.plot.valToPos(view.x[this.xDown ? 0 : 1], "x", true);
      const top = this.plot.valToPos(view.y[0], "y", true), bottom = this.plot.valToPos(view.y[1], "y", true);
      ctx.imageSmoothingEnabled = false;
      ctx.drawImage(this.image, left, top, right - left, bottom - top);
    }

    paintChosen(ctx) {
      const ratio = devicePixelRatio || 1, [x, y] = this.chosen;
      if (!Number.isFinite(x) || !Number.isFinite(y)) return;
      for (const [width, colour] of [[5, ink("--ex-paper")], [2, ink("--ex-ink")]]) {
        ctx.lineWidth = width * ratio;
        ctx.strokeStyle = colour;
        ctx.beginPath();
        ctx.arc(this.plot.valToPos(x, "x", true), this.plot.valToPos(y, "y", true), 8 * ratio, 0, 2 * Math.PI);
        ctx.stroke();
      }
    }
  }

  return {DIAGRAMS, Diagram, axis, ink, movable, PAN};
})();
