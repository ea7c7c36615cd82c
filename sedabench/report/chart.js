/* Draws the figures of the page: data (see charts.py) as SVG, with values under the pointer.
   No library and no network.  A panel is drawn anew for its width, its zoom and what is hidden;
   all marks are plain SVG coloured by class, so that style and print are the style sheet's. */
"use strict";
const HEIGHT = 290, TOP = 10, RIGHT = 14, BOTTOM = 40;
const DASHES = ["", "7 3", "2 2.5", "7 3 2 3", "10 3", "4 2", "7 2 2 2 2 2"];
const MARKERS = [
  r => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  r => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  r => `M0 ${-1.2 * r}L${1.2 * r} ${r}H${-1.2 * r}z`,
  r => `M0 ${-1.4 * r}L${1.4 * r} 0L0 ${1.4 * r}L${-1.4 * r} 0z`,
  r => `M0 ${1.2 * r}L${1.2 * r} ${-r}H${-1.2 * r}z`,
  r => `M${-r / 2} ${-1.3 * r}h${r}v${0.8 * r}h${0.8 * r}v${r}h${-0.8 * r}v${0.8 * r}h${-r}` +
       `v${-0.8 * r}h${-0.8 * r}v${-r}h${0.8 * r}z`,
];

/* The values that an axis has to show: [lowest, highest] of the visible series within `zoom`. */
function extent(panel, visible, zoom) {
  const y = [], x = [], inside = v => !zoom || (v >= zoom[0] && v <= zoom[1]);
  for (const s of panel.series) {
    for (const v of s.x) x.push(v);
    for (const p of s.points) x.push(p.x);
    if (!visible(s)) continue;
    for (const list of [s.y, s.low, s.high])
      list.forEach((v, i) => { if (v !== null && inside(s.x[i])) y.push(v); });
    for (const p of s.points) if (inside(p.x)) y.push(p.y);
  }
  if (panel.y.log) for (const m of panel.marks) if (m.y !== null) y.push(m.y);
  const ends = list => list.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  return {x: zoom || ends(x), y: ends(y)};
}

function Plot(holder, panel, figure, id) {
  const box = holder.querySelector(".plot");
  const tip = element(box, "div", undefined, "tip");
  const svg = add(box, "svg", {tabindex: "0", role: "img", "aria-label":
    `${holder.querySelector("h4").textContent}: ${panel.y.label} against ${panel.x.label}. Arrow keys read values.`});
  const said = element(box, "div", undefined, "said");
  said.setAttribute("aria-live", "polite");
  tip.hidden = true;
  const slots = Object.fromEntries(figure.data.legend.map(e => [e.key, e]));
  const visible = s => !figure.hidden.has(s.key);
  let zoom = null, at = null, chosen = null, drag = null, sx, sy, cross, levels = [];

  function draw() {
    const width = Math.max(240, box.clientWidth), view = extent(panel, visible, zoom);
    const y = padded(figure.shared(panel, view.y), panel.y, 1.15);
    sy = scale(panel.y.log, y[0], y[1], HEIGHT - BOTTOM, TOP);
    const yTicks = ticks(panel.y, sy, 5);
    const left = 26 + 6.6 * Math.max(2, ...yTicks.map(([, text]) => text.length));
    let x = zoom || (panel.x.log ? padded(view.x, panel.x, panel.x.percentile ? 1 : 1.2) : view.x);
    if (!zoom && panel.x.low !== null) x = [panel.x.low, x[1] * 1.03];
    if (!(x[1] > x[0])) x = panel.x.log ? [x[0] / 2, x[0] * 2] : [x[0] - 1, x[0] + 1];
    sx = scale(panel.x.log, x[0], x[1], left, width - RIGHT);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    add(add(add(svg, "defs", {}), "clipPath", {id}), "rect",
        {x: left - 6, y: 0, width: width - RIGHT - left + 12, height: HEIGHT - BOTTOM + 6});
    axes(width, left, yTicks);
    const inside = add(svg, "g", {"clip-path": `url(#${id})`});
    marks(inside, width, left);
    const drawn = panel.series.filter(visible);
    for (const s of drawn) curve(inside, s);
    for (const s of drawn) points(inside, s);
    cross = add(svg, "line", {class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden"});
    levels = [...new Set(drawn.flatMap(s => s.x.concat(s.points.map(p => p.x))))]
      .filter(v => v >= sx.low && v <= sx.high).sort((a, b) => a - b);
    if (at !== null) show(at, chosen);
  }

  function axes(width, left, yTicks) {
    const floor = HEIGHT - BOTTOM;
    for (const [v, text] of yTicks) {
      add(svg, "line", {class: "grid", x1: left, x2: width - RIGHT, y1: sy.at(v), y2: sy.at(v)});
      add(svg, "text", {class: "tick", x: left - 7, y: sy.at(v) + 4, "text-anchor": "end"}, text);
    }
    add(svg, "line", {class: "axis", x1: left, x2: width - RIGHT, y1: floor, y2: floor});
    let free = -Infinity;
    for (const [v, text] of ticks(panel.x, sx, Math.max(3, width / 80))) {
      const px = sx.at(v), half = 3.3 * text.length;
      add(svg, "line", {class: "axis", x1: px, x2: px, y1: floor, y2: floor + 4});
      if (px - half < free) continue;
      add(svg, "text", {class: "tick", x: px, y: floor + 17, "text-anchor": "middle"}, text);
      free = px + half + 6;
    }
    add(svg, "text", {class: "label", x: (left + width - RIGHT) / 2, y: HEIGHT - 5, "text-anchor": "middle"}, panel.x.label);
    add(svg, "text", {class: "label", transform: `translate(11 ${floor / 2 + 5}) rotate(-90)`, "text-anchor": "middle"}, panel.y.label);
  }

  function marks(inside, width, left) {
    for (const m of panel.marks) {
      if (m.to_x !== null) {
        add(inside, "rect", {class: "shade", x: sx.at(m.x), width: sx.at(m.to_x) - sx.at(m.x), y: TOP, height: HEIGHT - BOTTOM - TOP});
      } else if (m.slope !== null) {
        add(inside, "path", {class: "mark solid", d: `M${sx.at(0)} ${sy.at(0)}L${sx.at(sx.high)} ${sy.at(sx.high * m.slope)}`});
      } else if (m.y !== null) {
        add(inside, "line", {class: "mark", x1: left, x2: width - RIGHT, y1: sy.at(m.y), y2: sy.at(m.y)});
        add(inside, "text", {class: "tick halo", x: left + 5, y: sy.at(m.y) - 5}, m.text);
      } else if (m.x >= sx.low && m.x <= sx.high) {
        const px = sx.at(m.x), end = px > width / 2;
        add(inside, "line", {class: "mark", x1: px, x2: px, y1: TOP, y2: HEIGHT - BOTTOM});
        add(inside, "text", {class: "tick halo", x: px + (end ? -5 : 5), y: HEIGHT - BOTTOM - 7, "text-anchor": end ? "end" : "start"}, m.text);
      }
    }
  }

  function curve(inside, s) {
    const group = add(inside, "g", {class: `s${slots[s.key].slot % 8}`});
    const line = path(s.x, s.y, sx, sy, s.style === "step");
    const band = runs(s.low).map(at => {
      const x = at.map(i => s.x[i]), high = at.map(i => s.high[i]), low = at.map(i => s.low[i]);
      return path(x, high, sx, sy) + path(x.reverse(), low.reverse(), sx, sy).replace("M", "L") + "z";
    });
    if (band.length) add(group, "path", {class: "band", d: band.join("")});
    if (s.style === "area" && s.x.length)
      add(group, "path", {class: "area", d: `${line}L${sx.at(s.x.at(-1))} ${sy.at(0)}L${sx.at(s.x[0])} ${sy.at(0)}z`});
    else add(group, "path", {class: "line", d: line, "stroke-dasharray": DASHES[slots[s.key].dashes % 7]});
  }

  /* Servers stand side by side within a level: equal values must not hide each other. */
  const shift = s => (panel.series.indexOf(s) - (panel.series.length - 1) / 2) * 3.5;
  function points(inside, s) {
    const group = add(inside, "g", {class: `s${slots[s.key].slot % 8}`});
    for (const p of s.points)
      add(group, "path", {class: p.valid ? "point" : "point hollow", d: MARKERS[slots[s.key].slot % 6](p.valid ? 2.6 : 3.6),
                          transform: `translate(${(sx.at(p.x) + shift(s)).toFixed(1)} ${sy.at(p.y).toFixed(1)})`});
  }

  /* What there is to read at level `x`; `chosen` is a trial under the pointer, [series, point]. */
  function show(x, trial) {
    at = x;
    chosen = trial;
    tip.replaceChildren();
    element(tip, "b", named(panel.x, x));
    const table = element(tip, "table"), curves = panel.series.some(s => s.trials.length);
    let starred = false;
    for (const s of panel.series.filter(visible)) {
      const i = s.x.indexOf(x);
      if (i < 0 && !s.points.some(p => p.x === x)) continue;
      const row = element(table, "tr", undefined, `s${slots[s.key].slot % 8}`);
      element(row, "th", slots[s.key].marker ? s.key : slots[s.key].title);   // a server's title is long
      element(row, "td", i < 0 ? "–" : number(s.y[i]), "n");
      if (!curves) continue;
      const limits = i < 0 || s.y[i] === null || s.valid[i] < 2 ? "" : `[${number(s.low[i])}, ${number(s.high[i])}]${s.ranged[i] ? "*" : ""}`;
      starred ||= limits.endsWith("*");
      element(row, "td", limits, "n");
      const all = s.points.filter(p => p.x === x).length;
      element(row, "td", i < 0 ? `0/${all} valid` : `${s.valid[i]}/${s.trials[i]} valid`, "n soft");
    }
    element(tip, "div", [panel.y.unit, curves ? "median and " + (starred ? "interval (*: range)" : "95 % interval") : ""]
      .filter(Boolean).join(", "), "soft");
    if (trial) {
      const [s, p] = trial;
      element(tip, "div", `trial ${p.trial} of ${s.key}: ${number(p.y)} ${panel.y.unit}${p.valid ? "" : `, invalid: ${p.reason}`}`);
    }
    tip.hidden = false;
    const px = sx.at(x), wide = svg.clientWidth / svg.viewBox.baseVal.width || 1;
    cross.setAttribute("x1", px);
    cross.setAttribute("x2", px);
    cross.setAttribute("visibility", "visible");
    const room = box.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, px * wide > box.clientWidth / 2 ? px * wide - tip.offsetWidth - 14 : px * wide + 14))}px`;
  }

  function hide() {
    at = chosen = null;
    tip.hidden = true;
    cross?.setAttribute("visibility", "hidden");
  }

  function place(event) {
    const bounds = svg.getBoundingClientRect(), k = svg.viewBox.baseVal.width / bounds.width;
    return [(event.clientX - bounds.left) * k, (event.clientY - bounds.top) * k];
  }

  function point(event) {
    const [px, py] = place(event);
    if (drag) {
      drag.to = px;
      drag.rect.setAttribute("x", Math.min(drag.from, px));
      drag.rect.setAttribute("width", Math.abs(px - drag.from));
    }
    if (!levels.length) return;
    let best = null, near = 12;
    for (const s of panel.series.filter(visible)) for (const p of s.points) {
      const far = Math.hypot(sx.at(p.x) + shift(s) - px, sy.at(p.y) - py);
      if (far < near) { near = far; best = [s, p]; }
    }
    const nearest = levels.reduce((a, b) => Math.abs(sx.at(b) - px) < Math.abs(sx.at(a) - px) ? b : a);
    show(best ? best[1].x : nearest, best);
  }

  function zoomTo(range) { zoom = range; hide(); draw(); }

  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerleave", () => { if (!drag) hide(); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("dblclick", () => zoomTo(null));
  svg.addEventListener("pointerdown", event => {
    point(event);
    if (event.pointerType !== "mouse" || event.button) return;
    const [from] = place(event);
    drag = {from, to: from, rect: add(svg, "rect", {class: "drag", y: TOP, height: HEIGHT - BOTTOM - TOP, x: from, width: 0})};
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointerup", () => {
    if (!drag) return;
    const [a, b] = [drag.from, drag.to].sort((p, q) => p - q);
    drag.rect.remove();
    drag = null;
    if (b - a > 12) zoomTo([Math.max(sx.low, sx.of(a)), Math.min(sx.high, sx.of(b))]);
  });
  svg.addEventListener("pointercancel", () => { drag?.rect.remove(); drag = null; });
  svg.addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1, Home: -levels.length, End: levels.length}[event.key];
    if (event.key === "Escape") zoomTo(null);
    if (step === undefined || !levels.length) return;
    event.preventDefault();
    const now = at === null ? (step > 0 ? -1 : levels.length) : levels.indexOf(at);
    show(levels[Math.max(0, Math.min(levels.length - 1, now + step))], null);
    said.textContent = tip.innerText;
  });
  return {draw, panel, values: () => extent(panel, visible, zoom).y};
}

function Figure(holder, number) {
  const figure = {data: JSON.parse(holder.querySelector("script").textContent), hidden: new Set()};
  const plots = [];
  /* Panels with the same y axis are read side by side, so they have the same limits. */
  figure.shared = panel => plots.filter(p => p.panel.y.label === panel.y.label)
    .map(p => p.values()).reduce(([a, b], [c, d]) => [Math.min(a, c), Math.max(b, d)]);
  holder.querySelectorAll(".panel").forEach((box, i) =>
    plots.push(Plot(box, figure.data.panels[i], figure, `clip-${number}-${i}`)));
  const draw = () => plots.forEach(p => p.draw());
  for (const button of holder.querySelectorAll(".legend button"))
    button.addEventListener("click", () => {
      const on = figure.hidden.delete(button.dataset.key) || !figure.hidden.add(button.dataset.key);
      button.setAttribute("aria-pressed", on);
      draw();
    });
  draw();
  let width = holder.clientWidth;
  new ResizeObserver(() => {
    if (holder.clientWidth !== width) { width = holder.clientWidth; draw(); }
  }).observe(holder);
}

for (const swatch of document.querySelectorAll(".swatch")) {
  const slot = +swatch.dataset.slot;
  add(swatch, "path", {class: "line", d: "M0 6H30", "stroke-dasharray": DASHES[+swatch.dataset.dash % 7]});
  if (+swatch.dataset.marker)
    add(swatch, "path", {class: "point", d: MARKERS[slot % 6](3.4), transform: "translate(15 6)"});
}
document.querySelectorAll("figure.chart").forEach(Figure);
document.documentElement.classList.add("drawn");
