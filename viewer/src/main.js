/** The page: what is shown, the controls, and the card of a spot. */

import "./viewer.css";
import { difference, errorOf, Genes, levelsOf, NONE, unpacked, valueOf } from "./data.js";
import { cssColor, Painter2D } from "./paint2d.js";
import { PainterGL } from "./paintgl.js";
import { Places } from "./places.js";
import { number, Search } from "./search.js";
import { barLength, Slide } from "./slide.js";

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const options = new URLSearchParams(location.hash.slice(1));
const genes = new Genes(facts);
const state = { gene: 0, layer: facts.choices[0].key, opacity: 0.9, image: 1, doubts: true, outlines: true, chosen: -1 };

const MISSING = [0xd9, 0xd9, 0xd9];
const FLAT = 0.01;
const FEW_OUTLINES = 12;

function palette(name) {
  const rgb = Uint8Array.from(atob(facts.maps[name]), (letter) => letter.charCodeAt(0));
  return (share) => rgb.subarray(3 * Math.round(255 * share), 3 * Math.round(255 * share) + 3);
}

function colorTable(colorOf) {
  const colors = new Uint8Array(4 * (NONE + 1)).fill(255);
  for (let level = 0; level < NONE; level++) colors.set(colorOf(level), 4 * level);
  return colors;
}

/** Levels, colors and legend of what is shown. */
async function picture() {
  const { gene, layer: key } = state;
  if (key === "groups") {
    const { labels, colors } = facts.groups;
    const rgb = colors.map((color) => [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16)));
    return { levels: await groupLevels, colors: colorTable((level) => rgb[level] ?? MISSING), labels, doubts: false };
  }
  if (key === "ood") {
    const { scores, high } = await doubt;
    const map = palette("doubt");
    const scale = { low: 0, high, unit: "unlike the training tissue (limit: 1)", map, span: false };
    return { levels: levelsOf(scores, 0, high), colors: colorTable((level) => map(level / (NONE - 1))), scale, doubts: true };
  }
  const levels = await genes.levels(gene);
  if (key === "difference") {
    const high = facts.difference[gene];
    if (high === null) return absent("This gene was not measured, or not predicted.");
    const map = palette("difference");
    const unit = "predicted − measured, log units. Red: predicted higher. It contains the noise of the measurement";
    const scale = { low: -high, high, unit, map, span: false };
    const values = difference(facts, levels, gene);
    return { levels: levelsOf(values, -high, high), colors: colorTable((level) => map(level / (NONE - 1))), scale, doubts: true };
  }
  const layer = facts.layers.find((each) => each.key === key);
  const doubts = key !== "measured";
  if (!levels[key]) return absent(`This gene was not ${key}.`);
  if (layer.high[gene] - layer.low[gene] < FLAT) {
    const note = `Constant: ${number(layer.low[gene])} in every ${facts.noun.one}. The gene has no pattern to draw.`;
    return { levels: levels[key], colors: colorTable(() => MISSING), note, doubts };
  }
  const [low, high] = layer.limits[gene];
  const map = palette("expression");
  const share = (level) => Math.min(1, Math.max(0, (valueOf(level, layer, gene) - low) / (high - low)));
  const scale = { low, high, unit: layer.unit, map, span: layer.span[gene], below: layer.low[gene] < low, above: layer.high[gene] > high };
  return { levels: levels[key], colors: colorTable((level) => map(share(level))), scale, doubts };
}

function absent(note) {
  return { levels: null, colors: null, note, doubts: false };
}

const read = (id, kind) => unpacked(id).then((buffer) => buffer && new kind(buffer));
const groupLevels = facts.groups ? read("groups", Uint8Array) : null;
const doubt = facts.ood
  ? Promise.all([read("ood-scores", Float32Array), read("ood", Uint8Array)]).then(([scores, marks]) => ({ scores, marks, high: facts.ood.high }))
  : Promise.resolve(null);

async function start() {
  const slide = new Slide($("map"), facts.image);
  slide.onIncomplete = () => {
    const finest = facts.image.levels.findLast((level) => !level.files).factor * facts.image.mpp;
    $("absent").textContent = `The image is coarser than the slide (${number(finest)} µm per pixel): the folder “${facts.image.folder}” is not beside this page, or incomplete.`;
    $("absent").hidden = false;
  };
  const places = new Places(await read("centers", Float32Array), facts.shapes.diameter);
  // Above the image and below the buttons: OpenSeadragon has a container of its own.
  const container = slide.viewer.canvas;
  const [fills, marks] = ["fills", "marks"].map((name) => {
    const canvas = document.createElement("canvas");
    canvas.className = "overlay";
    canvas.setAttribute("aria-hidden", "true");
    canvas.dataset.overlay = name;
    container.append(canvas);
    return canvas;
  });
  let painter = null;
  if (options.get("painter") !== "2d") {
    painter = PainterGL.create(fills, places, { software: options.get("painter") === "webgl" });
  }
  painter ??= new Painter2D(fills, places);
  document.body.dataset.painter = painter.name;
  const strokes = marks.getContext("2d");
  const outlines = (facts.groups?.outlines ?? []).map((rings) => {
    const path = new Path2D();
    for (const ring of rings) {
      ring.forEach(([x, y], k) => (k ? path.lineTo(x, y) : path.moveTo(x, y)));
      path.closePath();
    }
    return path;
  });
  // Clusters are scattered: their lines would cover the tissue, until they are wanted.
  state.outlines = (facts.groups?.outlines ?? []).flat().length <= FEW_OUTLINES;
  $("outline-toggle").checked = state.outlines;
  const ood = await doubt;
  let shown = absent("");
  let [frames, tiles] = [0, 0];

  function draw() {
    const camera = slide.camera();
    const { x: width, y: height } = slide.viewer.viewport.getContainerSize();
    for (const canvas of [fills, marks]) {
      const [w, h] = [Math.round(width * camera.ratio), Math.round(height * camera.ratio)];
      if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    }
    const marked = state.doubts && shown.doubts && ood ? ood.marks : null;
    fills.hidden = Boolean(state.hidden);
    painter.draw(camera, { levels: shown.levels, colors: shown.colors, opacity: state.opacity, marked });
    drawMarks(camera);
    scaleBar(camera.scale, width);
    document.body.dataset.frames = ++frames;
    if (shown.levels && tiles > 0) document.body.dataset.first ??= String(Math.round(performance.now()));
  }

  function drawMarks(camera) {
    const scale = camera.scale * camera.ratio;
    const lines = state.outlines && outlines.length > 0;
    marks.hidden = !lines && state.chosen < 0;
    if (marks.hidden) return;
    strokes.setTransform(1, 0, 0, 1, 0, 0);
    strokes.clearRect(0, 0, marks.width, marks.height);
    strokes.setTransform(scale, 0, 0, scale, -camera.left * scale, -camera.top * scale);
    strokes.lineJoin = "round";
    const line = (path, color, width) => {
      strokes.strokeStyle = color;
      strokes.lineWidth = (width * camera.ratio) / scale;
      strokes.stroke(path);
    };
    if (lines) {
      // Not in the colors of the groups: orange is for places in doubt.
      for (const path of outlines) line(path, "white", 4.5);
      for (const path of outlines) line(path, "#1d2733", 2);
    }
    if (state.chosen >= 0) {
      const path = new Path2D();
      places.trace(path, state.chosen, 2 / camera.scale);
      line(path, "white", 5);
      line(path, "black", 2.5);
    }
    if (lines) names(camera); // in another transformation
  }

  /** Writes the name of each group where its largest part is, as long as there is room for it. */
  function names(camera) {
    strokes.setTransform(camera.ratio, 0, 0, camera.ratio, 0, 0);
    strokes.font = "600 13px system-ui, sans-serif";
    [strokes.textAlign, strokes.textBaseline, strokes.lineWidth] = ["center", "middle", 4];
    facts.groups.anchors.forEach((anchor, k) => {
      if (!anchor || 2 * anchor[2] * camera.scale < strokes.measureText(facts.groups.labels[k]).width) return;
      const at = [(anchor[0] - camera.left) * camera.scale, (anchor[1] - camera.top) * camera.scale];
      strokes.strokeStyle = "white";
      strokes.strokeText(facts.groups.labels[k], ...at);
      strokes.fillStyle = "#1d2733";
      strokes.fillText(facts.groups.labels[k], ...at);
    });
  }

  function scaleBar(scale, width) {
    const perMicron = scale / facts.image.mpp;
    const length = barLength(Math.min(width, 900) / perMicron);
    $("bar").style.width = `${length * perMicron}px`;
    $("bar-text").textContent = length >= 1000 ? `${+(length / 1000).toPrecision(3)} mm` : `${+length.toPrecision(3)} µm`;
  }

  let wanted = 0;
  async function update() {
    const turn = ++wanted;
    const next = await picture();
    if (turn !== wanted) return; // another gene was chosen meanwhile
    shown = next;
    describe(shown);
    draw();
    if (state.chosen >= 0) card(state.chosen);
    document.body.dataset.shown = `${facts.genes[state.gene]} ${state.layer}`;
  }

  // The image is moved and drawn by OpenSeadragon; the overlay is drawn in the same frame.
  slide.viewer.addHandler("tile-loaded", () => tiles++);
  slide.viewer.addHandler("update-viewport", draw);
  slide.viewer.addHandler("canvas-click", (event) => {
    if (!event.quick) return;
    const [x, y] = slide.position(event.position);
    choose(places.at(x, y, 6 / slide.camera().scale));
  });
  slide.viewer.addHandler("canvas-key", (event) => {
    if (event.originalEvent.key === "Enter") {
      const { x, y } = slide.viewer.viewport.getContainerSize();
      choose(places.at(...slide.position({ x: x / 2, y: y / 2 }), Math.min(x, y) / 2 / slide.camera().scale));
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") choose(-1);
    if (event.key.toLowerCase() === "h" && document.activeElement !== $("gene") && !event.ctrlKey && !event.metaKey) {
      state.hidden = !state.hidden;
      draw();
    }
    if (event.key === "/" && document.activeElement !== $("gene")) {
      $("gene").focus();
      event.preventDefault();
    }
  });

  function choose(place) {
    state.chosen = place;
    $("card").hidden = place < 0;
    if (place >= 0) card(place);
    draw();
  }

  async function card(place) {
    const { gene } = state;
    const levels = await genes.levels(gene);
    const names = await read("names", Uint8Array).then((packed) => JSON.parse(new TextDecoder().decode(packed)));
    if (place !== state.chosen) return;
    $("card-title").textContent = `${capital(facts.noun.one)} ${names[place]}`;
    const rows = [];
    for (const layer of facts.layers) {
      const value = levels[layer.key] ? valueOf(levels[layer.key][place], layer, gene) : NaN;
      const error = levels[layer.key] ? errorOf(layer, gene) : 0;
      rows.push([`${facts.genes[gene]} ${layer.key}`, Number.isNaN(value) ? "–" : number(value, error < 0.05 ? 2 : 1)]);
    }
    const r = facts.expected_r?.[gene];
    if (facts.expected_r) rows.push([`Expected r of ${facts.genes[gene]}`, expected(gene)]);
    if (ood) {
      const score = ood.scores[place];
      const text = Number.isNaN(score) ? (ood.marks[place] ? "" : "no") : number(score);
      rows.push(["Out-of-distribution score", ood.marks[place] ? `${text} (above 1: unlike the training tissue)` : text]);
    }
    if (facts.groups) {
      const level = (await groupLevels)[place];
      rows.push([capital(facts.groups.name), level === NONE ? "none" : facts.groups.labels[level]]);
    }
    const [x, y] = [places.xy[2 * place], places.xy[2 * place + 1]];
    rows.push(["Position", `${Math.round(x * facts.image.mpp).toLocaleString("en")}, ${Math.round(y * facts.image.mpp).toLocaleString("en")} µm`]);
    $("card-facts").replaceChildren(
      ...rows.flatMap(([name, value]) => {
        const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
        [term.textContent, detail.textContent] = [name, value];
        return [term, detail];
      }),
    );
    $("card-facts").classList.toggle("doubt", Boolean(ood?.marks[place]));
    const canvas = $("card-tile");
    $("card-size").textContent = `${+facts.tile_um.toPrecision(3)} µm`;
    await slide.crop(canvas, x, y, facts.tile_um / facts.image.mpp);
    canvas.setAttribute("aria-label", `Image of the tissue, ${+facts.tile_um.toPrecision(3)} µm wide`);
  }

  const expected = (gene) => {
    const [r, low, high] = ["expected_r", "expected_r_low", "expected_r_high"].map((key) => facts[key]?.[gene]);
    if (r === null || r === undefined) return "unknown";
    return low === null || low === undefined || high === null || high === undefined ? number(r) : `${number(r)} (${number(low)} to ${number(high)})`;
  };

  function describe(shown) {
    const { gene, layer } = state;
    const isGene = !["groups", "ood"].includes(layer);
    const notes = [];
    if (isGene) {
      if (facts.expected_r) notes.push(`Expected r ${expected(gene)}`);
      const r = facts.agreement?.[gene];
      if (r !== null && r !== undefined) notes.push(`r with the measurement on this slide ${number(r)}${facts.trained ? " (training slide)" : ""}`);
      const weight = facts.weight?.[gene];
      if (layer === "corrected" && weight !== null && weight !== undefined) notes.push(`${Math.round(100 * weight)} % measured`);
    }
    $("gene-note").textContent = notes.join(" · ");
    $("legend").hidden = false;
    $("legend-title").textContent = isGene ? `${facts.genes[gene]} ${layer}` : facts.choices.find((each) => each.key === layer).name;
    $("legend-note").textContent = shown.note ?? "";
    $("scale").hidden = !shown.scale;
    $("labels").hidden = !shown.labels;
    if (shown.scale) {
      const { low, high, unit, map, span, below, above } = shown.scale;
      const context = $("scale-colors").getContext("2d");
      for (let k = 0; k < 256; k++) {
        context.fillStyle = `rgb(${map(k / 255).join(" ")})`;
        context.fillRect(k, 0, 1, 1);
      }
      $("scale-low").textContent = `${below ? "≤ " : ""}${number(low)}`;
      $("scale-high").textContent = `${above ? "≥ " : ""}${number(high)}`;
      const spanned = span === false ? "" : ` Span of the values ${number(span)}, from the 1 to the 99 % quantile.`;
      $("scale-unit").textContent = `${capital(unit)}.${spanned}`;
    }
    if (shown.labels) {
      $("labels").replaceChildren(
        ...shown.labels.map((label, k) => {
          const [item, box] = [document.createElement("li"), document.createElement("span")];
          box.style.background = cssColor(shown.colors, k);
          item.append(box, `${label} (${facts.groups.counts[k].toLocaleString("en")})`);
          return item;
        }),
      );
    }
    $("ood-row").hidden = !ood || !shown.doubts;
    $("status").textContent = `${$("legend-title").textContent}. ${$("gene-note").textContent} ${shown.note ?? ""}`;
  }

  // Controls
  const search = new Search($("gene"), $("gene-list"), facts, (gene) => {
    state.gene = gene;
    if (["groups", "ood"].includes(state.layer)) pick(facts.choices[0].key);
    update();
  });
  search.value = state.gene;
  const pick = (key) => {
    state.layer = key;
    for (const input of $("layers").querySelectorAll("input")) input.checked = input.value === key;
  };
  for (const { key, name } of facts.choices) {
    const [label, input] = [document.createElement("label"), document.createElement("input")];
    Object.assign(input, { type: "radio", name: "layer", value: key });
    input.addEventListener("change", () => { pick(key); update(); });
    label.append(input, name);
    $("layers").append(label);
  }
  pick(state.layer);
  const slider = (id, change) => $(id).addEventListener("input", () => {
    $(`${id}-value`).textContent = `${$(id).value} %`;
    change($(id).value / 100);
  });
  slider("opacity", (share) => { state.opacity = share; draw(); });
  slider("fade", (share) => slide.viewer.world.getItemAt(0)?.setOpacity(share));
  $("ood-toggle").addEventListener("change", (event) => { state.doubts = event.target.checked; draw(); });
  $("outline-toggle").addEventListener("change", (event) => { state.outlines = event.target.checked; draw(); });
  $("outline-row").hidden = !outlines.length;
  $("zoom-in").addEventListener("click", () => slide.zoomBy(1.6));
  $("zoom-out").addEventListener("click", () => slide.zoomBy(1 / 1.6));
  const home = (at_once) => {
    const { left, top, right, bottom } = places.extent;
    const margin = Math.max(0.05 * Math.max(right - left, bottom - top), 1.5 * places.diameter);
    slide.show({ left: left - margin, top: top - margin, right: right + margin, bottom: bottom + margin }, at_once);
  };
  $("home").addEventListener("click", () => home(false));
  $("card-close").addEventListener("click", () => { choose(-1); slide.viewer.canvas.focus(); });
  addEventListener("resize", () => requestAnimationFrame(draw));

  const opened = new Promise((resolve) => {
    if (slide.viewer.isOpen()) resolve();
    else slide.viewer.addOnceHandler("open", resolve);
  });
  await opened;
  home(true);
  await update();
  const tiled = slide.viewer.world.getItemAt(0);
  const ready = () => {
    document.body.dataset.ready ??= String(Math.round(performance.now()));
  };
  if (tiled.getFullyLoaded()) ready();
  else tiled.addOnceHandler("fully-loaded-change", ready);
  if (facts.shapes.kind === "polygon") {
    const [owner, counts, steps] = await Promise.all([
      read("ring-owners", Uint32Array), read("ring-counts", Uint16Array), read("ring-steps", Int16Array),
    ]);
    places.addRings({ owner, counts, steps, unit: facts.shapes.unit });
    painter.addRings?.();
    draw();
  }
  document.body.dataset.complete = String(Math.round(performance.now()));
  // For measurements and tests.
  window.deepspotViewer = { slide, places, state, draw, choose, painter, facts };
}

function capital(text) {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

start().catch((error) => {
  $("failure").hidden = false;
  $("failure").textContent = `The viewer cannot show this page: ${error.message}. A current version of Firefox, Chrome, Edge or Safari is needed.`;
  throw error;
});
