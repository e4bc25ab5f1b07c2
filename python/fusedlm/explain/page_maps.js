"use strict";
// ---- attention maps ----

const colours = () => {
  const probe = make("span", { style: "display: none" });
  document.body.append(probe);
  const read = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  };
  const found = { low: read("panel"), high: read("accent"), text: read("text"), dim: read("dim"),
    line: read("line") };
  probe.remove();
  return found;
};
const rgb = (c) => `rgb(${c.map(Math.round).join(",")})`;
const blend = (low, high, part) => low.map((c, i) => c + (high[i] - c) * part);

function drawMaps(s) {
  const weightOf = (t) => s.weights[s.here(chosen.head, t)];
  const sees = s.columns.map((label, t) => [label, weightOf(t)]).filter(([, w]) => w > 0)
    .sort((a, b) => b[1] - a[1]).slice(0, 5);
  const line = make("p", {}, make("b", {}, s.rows[s.at]), ` (layer ${s.layer}, head ` +
    `${chosen.head}) looks at ${sees.map(([label, w]) => `${label} ${share(w)}`).join(", ")}`);
  const said = make("div", { class: "said" }, ...s.columns.map((label, t) =>
    make("span", { style: `background: color-mix(in srgb, var(--accent) ` +
      `${Math.round(70 * weightOf(t))}%, transparent)`, title: share(weightOf(t)) }, label)));
  return [line, said, make("div", { class: "maps" }, bigMap(s),
    make("div", {}, make("h3", {}, "All layers and heads: choose one"), smallMaps(s)))];
}

function bigMap(s) {
  const ink = colours(), ratio = window.devicePixelRatio || 1;
  const font = "13px system-ui, sans-serif";
  const canvas = make("canvas", { class: "big", id: `${s.prefix}big`, role: "img",
    "aria-label": `Attention map of layer ${s.layer}, head ${chosen.head}` });
  const pen = canvas.getContext("2d");
  pen.font = font;
  const widthOf = (texts) => Math.max(...texts.map((text) => pen.measureText(text).width));
  const roomFor = (texts) => Math.max(26, Math.min(110, widthOf(texts) + 10));
  const room = roomFor(s.rows); // for the labels at the left
  const free = Math.min(at("walk").clientWidth - 60, 480) - room;
  const side = Math.max(6, Math.min(52, Math.floor(free / s.columns.length)));
  const upright = widthOf(s.columns) >= side, top = upright ? roomFor(s.columns) : 26;
  const width = room + side * s.columns.length + 2, height = top + side * s.rows.length + 2;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  Object.assign(canvas.dataset, { room, top, side });
  pen.scale(ratio, ratio);
  pen.font = font;
  pen.textBaseline = "middle";
  const every = Math.ceil(14 / side); // where rows are narrower than letters, some are named
  s.rows.forEach((label, t) => {
    if (t % every) return;
    pen.fillStyle = rgb(t === s.at ? ink.high : ink.text);
    pen.textAlign = "right";
    pen.fillText(label, room - 6, top + side * (t + 0.5), room - 8);
  });
  s.columns.forEach((label, t) => {
    if (t % every) return;
    pen.save();
    pen.translate(room + side * (t + 0.5), top - (upright ? 6 : 12));
    if (upright) pen.rotate(-Math.PI / 2);
    pen.textAlign = upright ? "left" : "center";
    pen.fillStyle = rgb(ink.text);
    pen.fillText(label, 0, 0, upright ? top - 8 : side);
    pen.restore();
  });
  const gap = side >= 12 ? 1 : 0;
  for (let row = 0; row < s.rows.length; row++) {
    for (let column = 0; column < s.columns.length; column++) {
      const x = room + side * column, y = top + side * row;
      const weight = s.weights[s.place(s.layer, chosen.head, row, column)];
      if (s.seen(s.layer, chosen.head, row, column)) {
        pen.fillStyle = rgb(blend(blend(ink.low, ink.line, 0.5), ink.high, weight));
        pen.fillRect(x, y, side - gap, side - gap);
        if (side >= 34) {
          pen.fillStyle = rgb(weight > 0.55 ? ink.low : ink.text);
          pen.textAlign = "center";
          pen.font = "11px system-ui, sans-serif";
          pen.fillText(weight.toFixed(2), x + side / 2, y + side / 2);
        }
      }
    }
  }
  pen.strokeStyle = rgb(ink.high);
  pen.lineWidth = 1.5;
  pen.strokeRect(room - 1, top + side * s.at - 1, side * s.columns.length + 1, side + 1);
  const under = (event) => {
    const box = canvas.getBoundingClientRect(), scale = width / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale - room) / side);
    const row = Math.floor(((event.clientY - box.top) * scale - top) / side);
    return row >= 0 && row < s.rows.length && column >= 0 && column < s.columns.length
      ? [row, column] : null;
  };
  const point = (event) => {
    const found = under(event);
    if (!found) return tip(null);
    const [row, column] = found, i = s.place(s.layer, chosen.head, row, column);
    const [looks, there] = [s.rows[row], s.columns[column]];
    tip(event, s.seen(s.layer, chosen.head, row, column)
      ? `${looks} looks at ${there}\nweight ${s.weights[i].toFixed(4)}, score ${s.scores[i].toFixed(3)}`
      : `${looks} does not see ${there}`);
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => tip(null));
  canvas.addEventListener("click", (event) => {
    const found = under(event);
    if (found) choose({ [s.by]: found[0] });
  });
  return canvas;
}

function smallMaps(s) {
  const ink = colours(), low = blend(ink.low, ink.line, 0.5);
  const side = Math.max(30, Math.min(64, Math.floor(430 / H)));
  const grid = make("div", { class: "small", id: `${s.prefix}small`,
    style: `grid-template-columns: auto repeat(${H}, ${side + 2}px)` });
  grid.append(make("span", {}, "layer, head"),
    ...Array.from({ length: H }, (_, h) => make("span", {}, String(h))));
  const T = s.rows.length, S = s.columns.length;
  const [wide, high] = [side * Math.min(1, S / T), side * Math.min(1, T / S)];
  for (let layer = 0; layer < s.layers.length; layer++) {
    grid.append(make("span", {}, String(layer)));
    for (let head = 0; head < H; head++) {
      const canvas = make("canvas", { width: S, height: T, style: `width: ${wide}px; height: ${high}px`,
        title: `layer ${layer}, head ${head}`, class: layer === s.layer && head === chosen.head
          ? "chosen" : "", onclick: () => choose({ layer, head }) });
      const pen = canvas.getContext("2d"), image = pen.createImageData(S, T);
      for (let i = 0; i < S * T; i++) {
        const value = s.weights[s.place(layer, head, 0, i)];
        const hidden = s.scores[s.place(layer, head, 0, i)] === -Infinity;
        image.data.set([...(hidden ? ink.low : blend(low, ink.high, value)), 255], 4 * i);
      }
      pen.putImageData(image, 0, 0);
      grid.append(canvas);
    }
  }
  return grid;
}

function tip(event, text) {
  const box = at("tip");
  box.hidden = !event;
  if (!event) return;
  box.textContent = text;
  const { offsetWidth: w, offsetHeight: h } = box;
  box.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - w - 4))}px`;
  box.style.top = `${event.clientY + 18 + h > innerHeight ? event.clientY - h - 12 : event.clientY + 18}px`;
}
