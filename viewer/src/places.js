/** Spots, cells or bins: centers in pixels of the full-resolution image, outlines, and which one is at a point. */

export class Places {
  /** @param {Float32Array} xy centers @param {number} diameter in pixels */
  constructor(xy, diameter) {
    this.xy = xy;
    this.n = xy.length / 2;
    this.diameter = diameter;
    this.rings = null;
    this.#index();
  }

  /** Adds outlines: the number of corners and the place of each ring, and the corners as steps from each other. */
  addRings({ owner, counts, steps, unit }) {
    const corners = new Float32Array(steps.length);
    const first = new Uint32Array(counts.length + 1);
    const ringOf = new Uint32Array(this.n + 1);
    for (const place of owner) ringOf[place + 1]++;
    for (let k = 0; k < this.n; k++) ringOf[k + 1] += ringOf[k];
    let at = 0;
    for (let ring = 0; ring < counts.length; ring++) {
      let x = this.xy[2 * owner[ring]];
      let y = this.xy[2 * owner[ring] + 1];
      for (let k = 0; k < counts[ring]; k++, at++) {
        corners[2 * at] = x += steps[2 * at] * unit;
        corners[2 * at + 1] = y += steps[2 * at + 1] * unit;
      }
      first[ring + 1] = at;
    }
    // Rings are in the order of their places: those of place k are ringOf[k] to ringOf[k + 1].
    this.rings = { corners, first, owner, ringOf };
  }

  #index() {
    const { xy, n } = this;
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let k = 0; k < n; k++) {
      left = Math.min(left, xy[2 * k]);
      right = Math.max(right, xy[2 * k]);
      top = Math.min(top, xy[2 * k + 1]);
      bottom = Math.max(bottom, xy[2 * k + 1]);
    }
    // About four places in a square of the grid.
    const side = Math.max(this.diameter, Math.sqrt((4 * (right - left + 1) * (bottom - top + 1)) / n));
    const columns = Math.floor((right - left) / side) + 1;
    const rows = Math.floor((bottom - top) / side) + 1;
    const start = new Uint32Array(columns * rows + 1);
    const square = new Uint32Array(n);
    for (let k = 0; k < n; k++) {
      square[k] = Math.floor((xy[2 * k + 1] - top) / side) * columns + Math.floor((xy[2 * k] - left) / side);
      start[square[k] + 1]++;
    }
    for (let k = 0; k < columns * rows; k++) start[k + 1] += start[k];
    const order = new Uint32Array(n);
    const next = start.slice();
    for (let k = 0; k < n; k++) order[next[square[k]]++] = k;
    this.extent = { left, top, right, bottom };
    this.grid = { side, columns, rows, start, order };
  }

  /** Places with a center in a rectangle, and some around it; the array is used again by the next call. */
  within(left, top, right, bottom) {
    const { side, columns, rows, start, order } = this.grid;
    const column = (x) => Math.min(columns - 1, Math.max(0, Math.floor((x - this.extent.left) / side)));
    const row = (y) => Math.min(rows - 1, Math.max(0, Math.floor((y - this.extent.top) / side)));
    const margin = this.diameter;
    const [c0, c1] = [column(left - margin), column(right + margin)];
    let count = 0;
    const found = (this.found ??= new Uint32Array(this.n));
    for (let r = row(top - margin); r <= row(bottom + margin); r++) {
      const some = order.subarray(start[r * columns + c0], start[r * columns + c1 + 1]);
      found.set(some, count);
      count += some.length;
    }
    return found.subarray(0, count);
  }

  /** The place at a point, or the nearest one within a distance; -1 if there is none. */
  at(x, y, distance = 0) {
    const reach = Math.max(this.diameter, distance);
    let [best, least] = [-1, Infinity];
    for (const k of this.within(x - reach, y - reach, x + reach, y + reach)) {
      const far = Math.hypot(this.xy[2 * k] - x, this.xy[2 * k + 1] - y);
      if (this.rings && this.#inside(k, x, y)) return k;
      if (far < least && far <= Math.max(this.rings ? 0 : this.diameter / 2, distance)) [best, least] = [k, far];
    }
    return best;
  }

  #inside(place, x, y) {
    const { corners, first, ringOf } = this.rings;
    let inside = false;
    for (let ring = ringOf[place]; ring < ringOf[place + 1]; ring++) {
      for (let k = first[ring], before = first[ring + 1] - 1; k < first[ring + 1]; before = k++) {
        const [x0, y0, x1, y1] = [corners[2 * k], corners[2 * k + 1], corners[2 * before], corners[2 * before + 1]];
        if (y0 > y !== y1 > y && x < ((x1 - x0) * (y - y0)) / (y1 - y0) + x0) inside = !inside;
      }
    }
    return inside;
  }

  /** Adds the outline of a place to a path, in pixels of the image, for a circle with this much more radius. */
  trace(path, place, more = 0) {
    if (!this.rings) {
      const [x, y, radius] = [this.xy[2 * place], this.xy[2 * place + 1], this.diameter / 2 + more];
      path.moveTo(x + radius, y);
      path.arc(x, y, radius, 0, 2 * Math.PI);
      return;
    }
    const { corners, first, ringOf } = this.rings;
    for (let ring = ringOf[place]; ring < ringOf[place + 1]; ring++) {
      path.moveTo(corners[2 * first[ring]], corners[2 * first[ring] + 1]);
      for (let k = first[ring] + 1; k < first[ring + 1]; k++) path.lineTo(corners[2 * k], corners[2 * k + 1]);
      path.closePath();
    }
  }
}
