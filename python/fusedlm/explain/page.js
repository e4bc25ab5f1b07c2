const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const { model } = data;
const textsOf = (tokens) => tokens.map((token) => token.text);
const labels = textsOf(data.tokens), sourceLabels = data.source ? textsOf(data.source.tokens) : [];
const H = model.heads, L = Math.max(model.layers, model.source_layers ?? 0);
const shared = H / model.kv_heads; // query heads that look at the same keys
const chosen = { ...data.view };

function floats(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

// Layers of one kind, whose tokens `rows` look at `columns`; `by` is the choice that is one of the rows.
function stack(prefix, layers, maps, rows, columns, by) {
  const weights = floats(maps.weights), scores = floats(maps.scores);
  const place = (layer, head, row, column) =>
    ((layer * H + head) * rows.length + row) * columns.length + column;
  return { prefix, layers, rows, columns, by, weights, scores, place,
    get layer() { return Math.min(chosen.layer, layers.length - 1); },
    get now() { return layers[this.layer]; },
    get at() { return chosen[by]; },
    here(head, column) { return place(this.layer, head, this.at, column); },
    seen: (layer, head, row, column) => scores[place(layer, head, row, column)] !== -Infinity };
}
const main = stack("", data.layers, data.maps, labels, labels, "position");
const stacks = [main];
if (data.source) {
  stacks.push(stack("source-", data.source.layers, data.source_maps, sourceLabels, sourceLabels, "source"),
    stack("cross-", data.layers.map((layer) => layer.cross), data.cross_maps, labels, sourceLabels,
      "position"));
}

// ---- elements ----

function make(kind, fields = {}, ...children) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(fields)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const digits = (x, n = 3) => (Math.abs(x) >= 10000 || (x !== 0 && Math.abs(x) < 0.5 * 10 ** -n)
  ? x.toExponential(1) : x.toFixed(n));
const share = (p) => `${(100 * p).toFixed(1)} %`;
const cell = (content, kind = "") => make("td", { class: kind }, content);
const number = (x, n) => cell(digits(x, n), "number");

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", {}, text)));
  return make("div", { class: "scroll" },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

// Numbers as coloured cells; the row is [length, numbers ...], the first of `size`.
function strip(row, size) {
  const values = row.slice(1), most = Math.max(...values.map(Math.abs), 1e-30);
  const cells = values.map((x) => {
    const strength = Math.round(55 * Math.abs(x) / most);
    const colour = x < 0 ? "minus" : "plus";
    return make("span", { title: String(x),
      style: `background: color-mix(in srgb, var(--${colour}) ${strength}%, transparent)` },
      digits(x));
  });
  if (size > values.length) cells.push(make("span", { class: "more", title: `${size} in all` }, "…"));
  return make("div", { class: "strip" }, ...cells);
}

// Lines of [name, vector, size, anything more ...].
function vectors(lines, heads = []) {
  return table(["", ...heads, "length", "numbers"], lines.map(([name, row, size, ...more]) =>
    make("tr", {}, cell(name), ...more, number(row[0], 2), cell(strip(row, size)))));
}

function gauge(part, kind = "") {
  return cell(make("span", { class: `gauge ${kind}`, style: `width: ${Math.max(0, 9 * part)}rem` }));
}

// ---- what stands in each section ----

const C = model.width, D = model.head_width, F = model.ffn_width;
function tokenTable(title, tokens, by) {
  return table(["position", "id", title], tokens.map((token, t) => mark(t, make("tr", {},
    cell(String(t)), cell(String(token.id), "number"), cell(token.text)), by)));
}

function embeddingParts(embedding, at) {
  const names = { token: "token row", position: "position row", type: "type row",
    part: "row of the part", sum: "sum", normed: "normed" };
  let parts = Object.entries(embedding);
  if (parts.length === 2) parts = parts.slice(0, 1); // the sum is the row itself
  return vectors(parts.map(([name, rows]) => [names[name], rows[at], C]));
}

// Of a stack of layers.
const drawLayer = {
  attention_norm(s) {
    const { input, attention_in } = s.now;
    return [vectors([["before", input[s.at], C], ["normed", attention_in[s.at], C]])];
  },
  qkv(s) { return headVectors(s, ["query", "key", "value"]); },
  used(s) { return headVectors(s, ["query_used", "key_used"]); },
  scores(s) {
    const layer = s.now, own = Math.floor(chosen.head / shared);
    const query = (layer.query_used ?? layer.query)[chosen.head][s.at];
    const keys = (layer.key_used ?? layer.key)[own];
    return [vectors([[`query of ${s.rows[s.at]}`, query, D]]),
      vectors(s.columns.map((label, t) => {
        const score = s.scores[s.here(chosen.head, t)];
        return [`key of ${label}`, keys[t], D,
          score === -Infinity ? cell("hidden", "dim") : number(score, 2)];
      }), ["score"])];
  },
  weights: drawMaps,
  mixed(s) {
    const layer = s.now, own = Math.floor(chosen.head / shared);
    const lines = [];
    s.columns.forEach((label, t) => {
      const weight = s.weights[s.here(chosen.head, t)];
      if (s.seen(s.layer, chosen.head, s.at, t))
        lines.push([`${weight.toFixed(3)} · value of ${label}`, layer.value[own][t], D]);
    });
    lines.push(["sum", layer.mixed[chosen.head][s.at], D]);
    return [vectors(lines)];
  },
  out(s) {
    const layer = s.now, t = s.at;
    return [vectors([["before", layer.input[t], C], ["attention adds", layer.out[t], C],
      ["sum", layer.middle[t], C]])];
  },
  ffn(s) {
    const layer = s.now, t = s.at;
    const lines = [["normed", layer.ffn_in[t], C], ["up", layer.up[t], F]];
    if (layer.gate) lines.push(["gate", layer.gate[t], F]);
    lines.push(["hidden", layer.hidden[t], F], ["down", layer.ffn_out[t], C],
      ["the layer's output", layer.output[t], C]);
    return [vectors(lines)];
  },
  layers(s) {
    const t = s.at, adds = (layer) => [["attention", layer.out], ...(layer.cross
      ? [["source", layer.cross.out]] : []), ["feed-forward", layer.ffn_out]];
    const most = Math.max(...s.layers.flatMap((layer) => adds(layer).map(([, rows]) => rows[t][0])));
    return [table(["layer", "length before", ...adds(s.layers[0]).flatMap(([name]) => [`${name} adds`, ""]),
      "tokens a head looks at"],
      s.layers.map((layer, n) => make("tr", { class: n === s.layer ? "choosable chosen" : "choosable",
        onclick: () => choose({ layer: n }) },
        cell(String(n)), number(layer.input[t][0], 2),
        ...adds(layer).flatMap(([, rows]) => [number(rows[t][0], 2), gauge(rows[t][0] / most / 2)]),
        cell(layer.spread.map((x) => x.toFixed(1)).join("  ")))))];
  },
};

const draw = {
  tokens() {
    if (!data.source) return [tokenTable("token", data.tokens, "position")];
    return [make("div", { class: "beside" }, tokenTable("source", data.source.tokens, "source"),
      tokenTable("target", data.tokens, "position"))];
  },
  embedding() {
    const own = embeddingParts(data.embedding, chosen.position);
    if (!data.source) return [own];
    return [make("h3", {}, `${sourceLabels[chosen.source]}, of the source`),
      embeddingParts(data.source.embedding, chosen.source),
      make("h3", {}, `${labels[chosen.position]}, of the target`), own];
  },
  copying() {
    const { share: shares, weights } = data.copying, t = chosen.position;
    const most = Math.max(...weights[t]);
    return [make("p", {}, `After ${labels[t]}, ${share(shares[t])} is copied; of that`),
      table(["from the source", "share", ""], sourceLabels.map((label, s) => make("tr", {},
        cell(label), cell(share(weights[t][s]), "number"), gauge(weights[t][s] / most)))),
      make("h3", {}, "Every token"), table(["after", "is copied", ""], shares.map((x, n) =>
        mark(n, make("tr", {}, cell(labels[n]), cell(share(x), "number"), gauge(x)))))];
  },
  pooled() { return [vectors([["vector", data.pooled, C]])]; },
  logits() {
    const rows = data.predictions;
    const best = (title, guesses) => table([title, "logit", "probability", ""],
      guesses.map((guess) => make("tr", {}, cell(guess.text), number(guess.logit),
        cell(share(guess.p), "number"), gauge(guess.p))));
    if (data.rows) {
      const each = rows.map((guesses, n) => best(data.rows[n], guesses));
      if (!data.answers) return each;
      return [...each, make("h3", {}, "Answers"), table(["answer", "score", "probability", ""],
        data.answers.map(({ text, score, p }) => make("tr", {},
          text ? cell(text) : cell("(no answer)", "dim"), number(score), cell(share(p), "number"),
          gauge(p))))];
    }
    const all = table([model.task ? "token" : "after", "likeliest"],
      rows.map((row, t) => mark(t, make("tr", {}, cell(labels[t]),
        cell(row.map((g) => `${g.text} ${share(g.p)}`).join("   "))))));
    return [best(`at ${labels[chosen.position]}`, rows[chosen.position]),
      make("h3", {}, "Every token"), all];
  },
  lens: drawLens,
  loss() {
    const { each, mean, guessed } = data.loss;
    const parts = [table([model.task ? "" : "after", "comes", "p", "", "−log p", "p after the steps"],
      each.map((row) => mark(data.rows ? -1 : row.position, make("tr", {},
        cell((data.rows ?? labels)[row.position]), cell(row.target), number(row.p, 4),
        gauge(row.p), number(row.loss, 4), number(row.p_after, 4))))),
      make("p", {}, make("b", {}, `Mean: ${mean.toFixed(4)}`))];
    if (guessed) parts.push(make("p", { class: "dim" }, guessed));
    return parts;
  },
  gradients() {
    const { groups, norms } = data.learning;
    const most = Math.max(...groups.map((g) => g.gradient), 1e-30);
    const parts = table(["part", "weights", "their length", "gradient's length", ""],
      groups.map((g) => make("tr", {}, cell(g.name), cell(g.count.toLocaleString("en"), "number"),
        number(g.norm, 2), number(g.gradient), gauge(g.gradient / most))));
    const lines = parametersShown().map((p) => [
      `${p.name} ${p.shape.join("×")}${p.row.length ? `, row ${p.row}` : ""}`,
      [p.gradient_norm, ...p.gradients], p.shape[p.shape.length - 1]]);
    return [parts, make("p", {}, `All together: length ${digits(norms[0])}.`),
      make("h3", {}, `Some real ones, of layer ${chosen.layer} and outside of layers`), vectors(lines)];
  },
  adam: drawAdam,
  attribution() {
    const found = data.attribution, moved = data.source ? sourceLabels : labels;
    const most = Math.max(...found.scores.map(Math.abs), 1e-30);
    const colour = (s) => `background: color-mix(in srgb, var(--${s < 0 ? "minus" : "plus"}) ` +
      `${Math.round(70 * Math.abs(s) / most)}%, transparent)`;
    return [make("p", {}, `For ${found.target}${found.where}: log p is ${found.after.toFixed(3)}, of the average ` +
        `token in every place ${found.before.toFixed(3)}.`),
      make("div", { class: "said" }, ...found.scores.map((s, t) =>
        make("span", { style: colour(s), title: s.toFixed(3) }, moved[t]))),
      table(["token", "nats", ""], found.scores.map((s, t) => make("tr", {}, cell(moved[t]),
        number(s), gauge(Math.abs(s) / most, s < 0 ? "minus" : "plus")))),
      make("p", { class: "dim" }, `Completeness: the scores sum to ` +
        `${found.scores.reduce((a, b) => a + b, 0).toFixed(4)}, log p changes by ` +
        `${(found.after - found.before).toFixed(4)}; off by ${(100 * found.relative_gap).toFixed(2)} % ` +
        `after ${found.steps} gradients.`)];
  },
};

for (const s of stacks)
  for (const [name, content] of Object.entries(drawLayer)) draw[s.prefix + name] = () => content(s);

function mark(t, row, by = "position") {
  if (t < 0) return row;
  row.classList.add("choosable");
  row.classList.toggle("chosen", t === chosen[by]);
  row.addEventListener("click", () => choose({ [by]: t }));
  return row;
}

function headVectors(s, names) {
  return [vectors(names.map((name) => {
    const query = name.startsWith("query"), across = s.prefix === "cross-";
    const own = query ? chosen.head : Math.floor(chosen.head / shared);
    const [at, of] = query || !across ? [s.at, s.rows] : [chosen.source, s.columns];
    return [`${name.split("_")[0]}, head ${own}${across ? `, of ${of[at]}` : ""}`, s.now[name][own][at], D];
  }))];
}

function parametersShown() {
  return data.learning.parameters.filter((p) =>
    p.layer === null || (p.layer === chosen.layer && p.shape.length > 1));
}

const RISEN = "The loss has risen: the steps were too long for this model; give a smaller --lr.";
let weightShown = null;
function drawAdam() {
  const { settings: s, losses, norms, clips } = data.learning, shown = parametersShown();
  if (!shown.some((p) => p.name === weightShown))
    weightShown = (shown.find((p) => p.layer !== null) ?? shown[0]).name;
  const steps = norms.map((norm, n) => make("tr", {}, cell(String(n + 1)), number(losses[n], 4),
    number(norm), cell(`× ${digits(clips[n])}`, "number")));
  steps.push(make("tr", {}, cell("after"), number(losses[norms.length], 4)));
  const select = make("select", { "aria-label": "Parameter", id: "parameter",
    onchange: (event) => { weightShown = event.target.value; redraw("adam"); } },
    ...shown.map((p) => make("option", p.name === weightShown ? { selected: "" } : {}, p.name)));
  const parameter = shown.find((p) => p.name === weightShown);
  const small = (x) => cell(x.toExponential(3), "number");
  const entry = table(["step", "before", "g", "m", "v", "m̂", "v̂", "update", "after"],
    parameter.entry.map((e, n) => make("tr", {}, cell(String(n + 1)), number(e.before, 6),
      ...["gradient", "m", "v", "m_hat", "v_hat", "update"].map((name) => small(e[name])),
      number(e.after, 6))));
  const risen = losses[1] > losses[0] ? [make("p", { class: "bad" }, RISEN)] : [];
  return [make("p", { class: "dim" }, `lr ${s.lr}, β₁ ${s.beta1}, β₂ ${s.beta2}, ε ${s.eps}, decay ` +
      `${s.decay} of matrices, ${s.limit === null ? "no limit" : `limit ${s.limit}`}`),
    table(["step", "loss", "gradients' length", "made shorter by"], steps), ...risen,
    make("h3", {}, "One weight, step by step: that with the largest gradient of"),
    make("p", {}, select, ` [${parameter.index.join(", ")}]`), entry];
}

function drawLens() {
  const { tokens, p, rank, last } = data.lens, columns = data.rows ?? labels;
  const head = make("tr", {}, make("th", {}, ""), ...columns.map((label) => make("th", {}, label)));
  const rows = tokens.map((row, n) => make("tr", {},
    make("th", {}, n ? `layer ${n - 1}` : "embedding"),
    ...row.map((best, t) => {
      const text = `${n ? `After layer ${n - 1}` : "Embedding"}, at ${columns[t]}\n` +
        best.map((token, k) => `${token}  ${share(p[n][t][k])}`).join("\n") +
        `\nwhat is said in the end: ${share(last[n][t])}, rank ${rank[n][t]}`;
      const strength = Math.round(75 * p[n][t][0]);
      return make("td", { style: `background: color-mix(in srgb, var(--accent) ${strength}%, transparent)`,
        onpointermove: (event) => tip(event, text), onpointerleave: () => tip(null),
        onclick: () => { if (!data.rows) choose({ position: t }); } }, best[0]);
    })));
  return [make("p", { class: "dim" }, `Each cell is the likeliest ${model.task && model.task !== "span" ? "class" : "token"}; ` +
      "the stronger its colour, the likelier. Point at one to see the next ones."),
    make("div", { class: "scroll" }, make("table", { class: "lens" }, head, ...rows))];
}

// ---- the page ----

const PARTS = { tokens: "The text", [data.sections.attention_norm ? "attention_norm" : "qkv"]:
    data.source ? "In a layer of the decoder" : "In a layer",
  "source-attention_norm": "In a layer of the encoder", "source-layers": "The whole encoder",
  "cross-attention_norm": "In that layer: at the source",
  ffn: data.source ? "In that layer: each by itself" : null,
  layers: data.source ? "The whole decoder" : "The whole model", loss: "How it learns", attribution: "Looking back" };
const constant = new Set(["tokens", "lens", "pooled", "copying"]); // no choice of layer or head changes these

function redraw(name) {
  const box = at(`of-${name}`), scrolled = box.querySelector(".small")?.scrollTop ?? 0;
  box.replaceChildren(...draw[name]());
  if (scrolled) box.querySelector(".small").scrollTop = scrolled; // the list of maps stays where it was
}

function build() {
  at("sentence").textContent = data.text;
  const heads = `${H} head${H > 1 ? "s" : ""}` +
    (shared > 1 ? ` (${model.kv_heads} of keys and values)` : "");
  const counted = data.source ? `${model.source_layers} + ${model.layers}` : String(L);
  at("facts").textContent = `${model.name}: ${model.what} of ${counted} layers, ${heads}, width ${C}, ` +
    `vocabulary ${model.vocab_size.toLocaleString("en")}, ` +
    `${model.parameters.toLocaleString("en")} parameters`;
  at("note").textContent = model.note;
  if (data.source) at("asked").textContent = `Into: ${data.target}`;
  if (data.asked !== null) at("asked").textContent = `Asked: ${data.asked}`;
  document.title = `${data.text}: through ${model.name}`;
  at("source").hidden = !data.source;
  if (data.source) document.body.classList.add("pair");
  for (const [id, texts, by] of [["source", sourceLabels, "source"], ["chips", labels, "position"]])
    texts.forEach((label, t) => at(id).append(make("button",
      { type: "button", onclick: () => choose({ [by]: t }) }, label)));
  for (const [name, count] of [["layer", L], ["head", H]]) {
    at(name).append(...Array.from({ length: count }, (_, n) => make("option", { value: n }, String(n))));
    at(name).addEventListener("change", (event) => choose({ [name]: Number(event.target.value) }));
  }
  let count = 0;
  at("walk").replaceChildren();
  for (const [name, section] of Object.entries(data.sections)) {
    if (PARTS[name]) at("walk").append(make("div", { class: "part" }, PARTS[name]));
    count += 1;
    const parts = [make("h2", {}, `${count}. ${section.title}`), make("p", {}, section.text)];
    if (section.formula) parts.push(make("code", { class: "formula" }, section.formula));
    at("walk").append(make("section", { id: name }, ...parts, make("div", { id: `of-${name}` })));
  }
  const off = Object.entries(data.check).map(([name, x]) => `${name} ${x.toExponential(1)}`).join(", ");
  at("check").textContent = "The numbers are plain torch's, where everything in between can be seen. " +
    `The fused kernels differ from them, as a share of the largest, by: ${off}.`;
  choose({});
}

function choose(change) {
  const first = Object.keys(change).length === 0;
  const moved = ["position", "source"].some((by) => by in change && change[by] !== chosen[by]);
  Object.assign(chosen, change);
  at("layer").value = chosen.layer;
  at("head").value = chosen.head;
  for (const [id, by] of [["source", "source"], ["chips", "position"]])
    [...at(id).children].forEach((chip, t) =>
      chip.setAttribute("aria-pressed", String(t === chosen[by])));
  for (const name of Object.keys(data.sections))
    if (first || moved || !constant.has(name)) redraw(name);
}

build();
const redrawMaps = () => stacks.forEach((s) => redraw(`${s.prefix}weights`));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawMaps);
addEventListener("resize", redrawMaps);
