/** Painter without a graphics card: many small places as pixels, few large ones as shapes. */

import { NONE } from "./data.js";

export const ORANGE = "#D55E00";
/** More places than this are drawn as discs of pixels: they are at most about 20 pixels wide on a large screen. */
const MANY = 4000;
const THINNEST = 1.3;
const WIDEST = 3;

/** Width of the line around a place in doubt, in pixels of the screen, by the diameter of the place. */
export function outlineWidth(size) {
  return Math.min(WIDEST, Math.max(THINNEST, 0.12 * size));
}

export class Painter2D {
  constructor(canvas, places) {
    this.name = "2d";
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.places = places;
    this.sprites = new Map();
  }

  /** @param {{left, top, scale, ratio}} camera @param {{levels, colors, opacity, marked}} what */
  draw(camera, what) {
    const { canvas, context, places } = this;
    const { width, height } = canvas;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!what.levels) return;
    const scale = camera.scale * camera.ratio;
    const seen = places.within(camera.left, camera.top, camera.left + width / scale, camera.top + height / scale);
    const shown = seen.filter((k) => what.levels[k] !== NONE);
    if (shown.length > MANY) return this.#pixels(shown, camera, scale, what);
    const marked = what.marked ? shown.filter((k) => what.marked[k]) : [];
    const plain = marked.length ? shown.filter((k) => !what.marked[k]) : shown;
    const draw = places.rings || places.diameter * scale > 80 ? this.#shapes : this.#stamps;
    draw.call(this, plain, camera, scale, what);
    if (!marked.length) return;
    // The line is behind the places in doubt: it covers no value, and where they touch, it runs around all of them.
    const path = new Path2D();
    for (const k of marked) places.trace(path, k);
    this.#place(camera, scale);
    context.lineWidth = (2 * outlineWidth(places.diameter * scale)) / scale;
    context.lineJoin = "round";
    context.strokeStyle = ORANGE;
    context.stroke(path);
    context.globalCompositeOperation = "destination-out";
    context.fill(path);
    context.globalCompositeOperation = "source-over";
    draw.call(this, marked, camera, scale, what);
  }

  #place(camera, scale) {
    this.context.setTransform(scale, 0, 0, scale, -camera.left * scale, -camera.top * scale);
  }

  #shapes(shown, camera, scale, { levels, colors, opacity }) {
    const { context, places } = this;
    const byLevel = new Map();
    for (const k of shown) {
      if (!byLevel.has(levels[k])) byLevel.set(levels[k], new Path2D());
      places.trace(byLevel.get(levels[k]), k);
    }
    this.#place(camera, scale);
    context.globalAlpha = opacity;
    for (const [level, path] of byLevel) {
      context.fillStyle = cssColor(colors, level);
      context.fill(path);
    }
    context.globalAlpha = 1;
  }

  #stamps(shown, camera, scale, { levels, colors, opacity }) {
    const { context, places } = this;
    const radius = (places.diameter * scale) / 2;
    const side = Math.ceil(2 * radius) + 2;
    const name = `${radius} ${side}`;
    if (this.stamped !== name || this.stampedColors !== colors) {
      this.sprites.clear();
      [this.stamped, this.stampedColors] = [name, colors];
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = opacity;
    for (const k of shown) {
      let sprite = this.sprites.get(levels[k]);
      if (!sprite) {
        sprite = new OffscreenCanvas(side, side);
        const own = sprite.getContext("2d");
        own.fillStyle = cssColor(colors, levels[k]);
        own.beginPath();
        own.arc(side / 2, side / 2, radius, 0, 2 * Math.PI);
        own.fill();
        this.sprites.set(levels[k], sprite);
      }
      const x = (places.xy[2 * k] - camera.left) * scale - side / 2;
      const y = (places.xy[2 * k + 1] - camera.top) * scale - side / 2;
      context.drawImage(sprite, Math.round(x), Math.round(y));
    }
    context.globalAlpha = 1;
  }

  #pixels(shown, camera, scale, { levels, colors, opacity, marked }) {
    const { canvas, context, places } = this;
    const { width, height } = canvas;
    if (this.image?.width !== width || this.image?.height !== height) {
      this.image = new ImageData(width, height);
      this.words = new Uint32Array(this.image.data.buffer);
    }
    const { words } = this;
    words.fill(0);
    const palette = new Uint32Array(256);
    const alpha = Math.round(255 * opacity);
    for (let k = 0; k < 256; k++) {
      palette[k] = ((alpha << 24) | (colors[4 * k + 2] << 16) | (colors[4 * k + 1] << 8) | colors[4 * k]) >>> 0;
    }
    const size = places.diameter * scale;
    const line = Math.max(1, Math.round(outlineWidth(size)));
    const around = (255 << 24) | (0x00 << 16) | (0x5e << 8) | 0xd5;
    // Small places are a pixel larger: with lines or tissue in the gaps between them, they would have another color.
    const disc = spans(size < 6 ? size + 1 : size);
    const wider = spans(disc.length + 2 * line);
    const stamp = (k, shape, word) => {
      const x = Math.round((places.xy[2 * k] - camera.left) * scale - shape.length / 2);
      const y = Math.round((places.xy[2 * k + 1] - camera.top) * scale - shape.length / 2);
      const last = Math.min(shape.length, height - y);
      for (let row = Math.max(0, -y); row < last; row++) {
        const first = (y + row) * width;
        const to = first + Math.min(width, x + shape[row][1]);
        // Faster than `fill` for some pixels.
        for (let at = first + Math.max(0, x + shape[row][0]); at < to; at++) words[at] = word;
      }
    };
    if (marked) {
      for (const k of shown) if (!marked[k]) stamp(k, disc, palette[levels[k]]);
      for (const k of shown) if (marked[k]) stamp(k, wider, around >>> 0);
      for (const k of shown) if (marked[k]) stamp(k, disc, palette[levels[k]]);
    } else {
      for (const k of shown) stamp(k, disc, palette[levels[k]]);
    }
    context.putImageData(this.image, 0, 0);
  }
}

/** First and last pixel of each row of a disc of this diameter. */
function spans(size) {
  const side = Math.max(1, Math.round(size));
  return Array.from({ length: side }, (_, row) => {
    const half = Math.sqrt(Math.max(0, (side / 2) ** 2 - (row + 0.5 - side / 2) ** 2));
    return side < 4 ? [0, side] : [Math.round(side / 2 - half), Math.round(side / 2 + half)];
  });
}

export function cssColor(colors, level) {
  return `rgb(${colors[4 * level]} ${colors[4 * level + 1]} ${colors[4 * level + 2]})`;
}
