/* What `chart.js` stands on: elements, how numbers read, scales, ticks, paths.  Nothing of a figure. */
"use strict";
const SVG = document.createElement("template");
SVG.innerHTML = "<svg></svg>";
const NAMESPACE = SVG.content.firstChild.namespaceURI;

function add(parent, name, attributes, text) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function element(parent, name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  parent.append(made);
  return made;
}

const number = v => v === null || v === undefined ? "–"
  : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(4));
const short = v => Math.abs(v) >= 1e4 ? +(v / 1000).toPrecision(4) + "k" : String(+v.toPrecision(6));
const percentile = x => "p" + +(100 - 100 / x).toFixed(Math.max(0, Math.ceil(Math.log10(x)) - 1));
const named = (axis, x) => axis.percentile ? percentile(x)
  : axis.unit === "connections" ? `${x} connection${x === 1 ? "" : "s"}`
  : `${number(x)} ${axis.unit}`.trim();

function scale(log, low, high, from, to) {
  const f = log ? Math.log : v => v, back = log ? Math.exp : v => v;
  const per = (to - from) / (f(high) - f(low) || 1);
  return {low, high, log, at: v => from + (f(v) - f(low)) * per,
          of: pixel => back(f(low) + (pixel - from) / per)};
}

function ticks(axis, s, room) {
  if (axis.ticks.length) return axis.ticks.filter(([v]) => v >= s.low * 0.999 && v <= s.high * 1.001);
  const found = [];
  if (s.log) {
    const decades = Math.log10(s.high / s.low);
    if (decades >= 1) {
      const steps = decades > 3 ? [1] : decades > 1.6 ? [1, 3] : [1, 2, 5];
      for (let e = Math.floor(Math.log10(s.low)); e <= Math.log10(s.high); e++)
        for (const m of steps) found.push(m * 10 ** e);
      return found.filter(v => v >= s.low && v <= s.high).map(v => [v, short(v)]);
    }
  }
  const raw = (s.high - s.low) / room, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find(m => m * power >= raw);
  for (let k = Math.ceil(s.low / step - 1e-9); k * step <= s.high * (1 + 1e-9); k++)
    found.push([k * step, short(k * step)]);
  return found;
}

function padded([low, high], axis, room) {
  if (!(high >= low)) return axis.log ? [1, 10] : [0, 1];
  if (axis.log) return [low / room, high * room];
  const bottom = axis.low === null ? Math.min(0, low) : Math.min(axis.low, low);
  const top = axis.high === null ? high : Math.max(axis.high, high);
  return [bottom, top + (top - bottom || 1) * 0.04];
}

/* Where values follow each other without a gap: lists of their indexes, two at least. */
function runs(values) {
  const found = [[]];
  values.forEach((v, i) => v === null ? found.push([]) : found.at(-1).push(i));
  return found.filter(at => at.length > 1);
}

/* A path through points, broken where a value is missing. */
function path(xs, ys, sx, sy, step) {
  let d = "", pen = "M", before = 0;
  xs.forEach((x, i) => {
    if (ys[i] === null) { pen = "M"; return; }
    const px = sx.at(x).toFixed(1), py = sy.at(ys[i]).toFixed(1);
    d += step && pen === "L" ? `L${px} ${before}L${px} ${py}` : `${pen}${px} ${py}`;
    pen = "L";
    before = py;
  });
  return d;
}
