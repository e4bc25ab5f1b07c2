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

function drawMaps() {
  const sees = labels.map((label, t) => [label, weights[place(chosen.layer, chosen.head,
    chosen.position, t)]]).filter(([, w]) => w > 0).sort((a, b) => b[1] - a[1]).slice(0, 5);
  const line = make("p", {}, make("b", {}, labels[chosen.position]), ` (layer ${chosen.layer}, head ` +
    `${chosen.head}) looks at ${sees.map(([label, w]) => `${label} ${share(w)}`).join(", ")}`);
  const said = make("div", { class: "said" }, ...labels.map((label, t) => {
    const weight = weights[place(chosen.layer, chosen.head, chosen.position, t)];
    return make("span", { style: `background: color-mix(in srgb, var(--accent) ` +
      `${Math.round(70 * weight)}%, transparent)`, title: share(weight) }, label);
  }));
  return [line, said, make("div", { id: "maps" }, bigMap(),
    make("div", {}, make("h3", {}, "All layers and heads: choose one"), smallMaps()))];
}

function bigMap() {
  const ink = colours(), ratio = window.devicePixelRatio || 1;
  const font = "13px system-ui, sans-serif";
  const canvas = make("canvas", { id: "big", role: "img",
    "aria-label": `Attention map of layer ${chosen.layer}, head ${chosen.head}` });
  const pen = canvas.getContext("2d");
  pen.font = font;
  const widest = Math.max(...labels.map((l) => pen.measureText(l).width));
  const room = Math.max(26, Math.min(110, widest + 10)); // for the labels at the left
  const free = Math.min(at("walk").clientWidth - 60, 480) - room;
  const side = Math.max(6, Math.min(52, Math.floor(free / T)));
  const upright = widest >= side, top = upright ? room : 26;
  const width = room + side * T + 2, height = top + side * T + 2;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  Object.assign(canvas.dataset, { room, top, side });
  pen.scale(ratio, ratio);
  pen.font = font;
  pen.textBaseline = "middle";
  const every = Math.ceil(14 / side); // where rows are narrower than letters, some are named
  labels.forEach((label, t) => {
    if (t % every) return;
    pen.fillStyle = rgb(t === chosen.position ? ink.high : ink.text);
    pen.textAlign = "right";
    pen.fillText(label, room - 6, top + side * (t + 0.5), room - 8);
    pen.save();
    pen.translate(room + side * (t + 0.5), top - (upright ? 6 : 12));
    if (upright) pen.rotate(-Math.PI / 2);
    pen.textAlign = upright ? "left" : "center";
    pen.fillStyle = rgb(ink.text);
    pen.fillText(label, 0, 0, upright ? room - 8 : side);
    pen.restore();
  });
  const gap = side >= 12 ? 1 : 0;
  for (let row = 0; row < T; row++) {
    for (let column = 0; column < T; column++) {
      const x = room + side * column, y = top + side * row;
      const weight = weights[place(chosen.layer, chosen.head, row, column)];
      if (seen(chosen.layer, chosen.head, row, column)) {
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
  pen.strokeRect(room - 1, top + side * chosen.position - 1, side * T + 1, side + 1);
  const under = (event) => {
    const box = canvas.getBoundingClientRect(), scale = width / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale - room) / side);
    const row = Math.floor(((event.clientY - box.top) * scale - top) / side);
    return row >= 0 && row < T && column >= 0 && column < T ? [row, column] : null;
  };
  const point = (event) => {
    const found = under(event);
    if (!found) return tip(null);
    const [row, column] = found, i = place(chosen.layer, chosen.head, row, column);
    tip(event, seen(chosen.layer, chosen.head, row, column)
      ? `${labels[row]} looks at ${labels[column]}\nweight ${weights[i].toFixed(4)}, ` +
        `score ${scores[i].toFixed(3)}`
      : `${labels[row]} does not see ${labels[column]}`);
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => tip(null));
  canvas.addEventListener("click", (event) => {
    const found = under(event);
    if (found) choose({ position: found[0] });
  });
  return canvas;
}

function smallMaps() {
  const ink = colours(), low = blend(ink.low, ink.line, 0.5);
  const side = Math.max(30, Math.min(64, Math.floor(430 / H)));
  const grid = make("div", { id: "small",
    style: `grid-template-columns: auto repeat(${H}, ${side + 2}px)` });
  grid.append(make("span", {}, "layer, head"),
    ...Array.from({ length: H }, (_, h) => make("span", {}, String(h))));
  for (let layer = 0; layer < L; layer++) {
    grid.append(make("span", {}, String(layer)));
    for (let head = 0; head < H; head++) {
      const canvas = make("canvas", { width: T, height: T, style: `width: ${side}px; height: ${side}px`,
        title: `layer ${layer}, head ${head}`, class: layer === chosen.layer && head === chosen.head
          ? "chosen" : "", onclick: () => choose({ layer, head }) });
      const pen = canvas.getContext("2d"), image = pen.createImageData(T, T);
      for (let i = 0; i < T * T; i++) {
        const value = weights[(layer * H + head) * T * T + i];
        const hidden = scores[(layer * H + head) * T * T + i] === -Infinity;
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
