/** Data of the page: gzip, as base64 in elements that are parsed while the page is already in use. */

const parsed = new Promise((resolve) => {
  if (document.readyState !== "loading") resolve();
  else document.addEventListener("DOMContentLoaded", () => resolve(), { once: true });
});

/** Level 255 of a value: there is none. Values have the levels 0 to 254. */
export const NONE = 255;
const STEPS = 254;

/** Text of an element of the page, also if the parser has not reached its end yet. */
async function text(id) {
  let element = document.getElementById(id);
  // The parser can pause inside of an element: it is complete once something follows it.
  if (!element?.nextSibling) {
    await parsed;
    element = document.getElementById(id);
  }
  return element?.textContent ?? null;
}

/** Bytes of an element with base64, or null if the page has no such element. */
export async function bytes(id) {
  const code = await text(id);
  return code === null ? null : Uint8Array.from(atob(code), (letter) => letter.charCodeAt(0));
}

/** Uncompressed bytes of an element, or null if the page has no such element. */
export async function unpacked(id) {
  const packed = await bytes(id);
  if (packed === null) return null;
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** Value of a level of a gene in a layer. */
export function valueOf(level, layer, gene) {
  if (level === NONE) return NaN;
  return layer.low[gene] + (level / STEPS) * (layer.high[gene] - layer.low[gene]);
}

/** Half of the step between two levels: the largest error of a value. */
export function errorOf(layer, gene) {
  return (layer.high[gene] - layer.low[gene]) / STEPS / 2;
}

/** Levels of values between two limits, such as those of a difference; values beyond them get the nearest level. */
export function levelsOf(values, low, high) {
  const levels = new Uint8Array(values.length);
  for (let k = 0; k < values.length; k++) {
    const share = Math.min(1, Math.max(0, (values[k] - low) / (high - low)));
    levels[k] = Number.isNaN(values[k]) ? NONE : Math.round(share * STEPS);
  }
  return levels;
}

const CACHED = 50;

/** Levels of genes: a Uint8Array by the key of a layer. */
export class Genes {
  constructor(facts) {
    this.facts = facts;
    this.cache = new Map();
  }

  async levels(gene) {
    if (!this.cache.has(gene)) {
      this.cache.set(gene, this.#read(gene));
      if (this.cache.size > CACHED) this.cache.delete(this.cache.keys().next().value);
    }
    return this.cache.get(gene);
  }

  async #read(gene) {
    const all = new Uint8Array(await unpacked(`gene-${gene}`));
    const n = this.facts.n;
    const present = this.facts.layers.filter((layer) => layer.low[gene] !== null);
    return Object.fromEntries(present.map((layer, k) => [layer.key, all.subarray(k * n, (k + 1) * n)]));
  }
}

/** Predicted minus measured values. */
export function difference(facts, levels, gene) {
  const [measured, predicted] = ["measured", "predicted"].map((key) => facts.layers.find((each) => each.key === key));
  const values = new Float32Array(facts.n);
  for (let k = 0; k < facts.n; k++) {
    values[k] = valueOf(levels.predicted[k], predicted, gene) - valueOf(levels.measured[k], measured, gene);
  }
  return values;
}
