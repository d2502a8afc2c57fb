/** The image: OpenSeadragon with tiles that are part of the page, or files in a folder beside it. */

import OpenSeadragon from "openseadragon";
import { bytes } from "./data.js";

/** Picture of a tile, to be drawn: a page from disk can show image files, and not read their pixels. */
async function pictureOf({ folder, levels }, level, column, row) {
  const { files } = levels[level];
  if (files) {
    const picture = new Image();
    picture.src = `${encodeURIComponent(folder)}/${files}/${column}-${row}.jpg`;
    await picture.decode();
    return picture;
  }
  const jpeg = await bytes(`tile-${level}-${column}-${row}`);
  if (jpeg === null) throw new Error(`The page has no tile ${level}-${column}-${row}.`);
  return createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
}

export class Slide {
  /** @param element where the image goes @param image size, µm per pixel and levels of the image, coarsest first */
  constructor(element, image) {
    this.image = image;
    this.isIncomplete = false;
    const source = new OpenSeadragon.TileSource({
      width: image.width,
      height: image.height,
      tileSize: image.tile,
      minLevel: 0,
      maxLevel: image.levels.length - 1,
    });
    source.getLevelScale = (level) => 1 / image.levels[level].factor;
    source.getNumTiles = (level) => new OpenSeadragon.Point(image.levels[level].columns, image.levels[level].rows);
    source.getTileUrl = (level, column, row) => `tile-${level}-${column}-${row}`;
    source.downloadTileStart = (job) => {
      const [level, column, row] = job.src.split("-").slice(1).map(Number);
      pictureOf(image, level, column, row).then(
        (picture) => {
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [picture.width, picture.height];
          const context = canvas.getContext("2d");
          context.drawImage(picture, 0, 0);
          picture.close?.();
          job.finish(context, null, "context2d");
        },
        (error) => {
          if (image.levels[level].files) this.#incomplete();
          job.fail(String(error), null);
        },
      );
    };
    source.downloadTileAbort = () => {};
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.viewer = new OpenSeadragon.Viewer({
      element,
      tileSources: source,
      drawer: "canvas",
      showNavigationControl: false,
      animationTime: still ? 0 : 0.4,
      blendTime: 0,
      immediateRender: true,
      // A large page is still being read when the first tiles are wanted.
      timeout: 600_000,
      imageLoaderLimit: 4,
      maxZoomPixelRatio: 8,
      minZoomImageRatio: 0.7,
      visibilityRatio: 0.3,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true, pinchRotate: false },
      gestureSettingsPen: { clickToZoom: false, dblClickToZoom: true },
    });
    // Arrows, plus, minus and 0 move the image; a tissue is neither turned nor mirrored by accident.
    this.viewer.addHandler("canvas-key", (event) => {
      if (["r", "R", "f", "F", "j", "k"].includes(event.originalEvent.key)) event.preventDefaultAction = true;
    });
    this.viewer.canvas.setAttribute("role", "application");
    this.viewer.canvas.setAttribute("aria-label", "Slide. Arrow keys move, plus and minus zoom, 0 shows all, Enter selects what is in the center.");
    for (const canvas of element.querySelectorAll("canvas")) canvas.setAttribute("aria-hidden", "true");
  }

  /** What of the image is seen: left and top edge in pixels of the image, and pixels of the screen per pixel. */
  camera() {
    const { viewport } = this.viewer;
    const bounds = viewport.getBoundsNoRotate(true);
    const scale = viewport.getContainerSize().x / bounds.width / this.image.width;
    return { left: bounds.x * this.image.width, top: bounds.y * this.image.width, scale, ratio: devicePixelRatio || 1 };
  }

  /** Shows a rectangle in pixels of the image, at once or as a movement. */
  show({ left, top, right, bottom }, at_once = true) {
    const width = this.image.width;
    const rectangle = new OpenSeadragon.Rect(left / width, top / width, (right - left) / width, (bottom - top) / width);
    this.viewer.viewport.fitBounds(rectangle, at_once);
  }

  zoomBy(factor) {
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  /** Position of a point of the window in pixels of the image. */
  position(point) {
    const { left, top, scale } = this.camera();
    return [left + point.x / scale, top + point.y / scale];
  }

  /** Draws a square of the image into a canvas, from the coarsest level that has as many pixels, or the finest one. */
  async crop(canvas, x, y, side) {
    const { tile } = this.image;
    const levels = this.image.levels.filter((level) => !level.files || !this.isIncomplete);
    const enough = levels.findIndex((level) => side / level.factor >= canvas.width);
    const index = enough < 0 ? levels.length - 1 : enough;
    const { factor, columns, rows } = levels[index];
    const [left, top, shown] = [(x - side / 2) / factor, (y - side / 2) / factor, side / factor];
    const last = (value, count) => Math.min(count - 1, Math.floor(value / tile));
    const wanted = [];
    for (let row = Math.max(0, Math.floor(top / tile)); row <= last(top + shown, rows); row++) {
      for (let column = Math.max(0, Math.floor(left / tile)); column <= last(left + shown, columns); column++) {
        wanted.push([column, row]);
      }
    }
    let pictures;
    try {
      pictures = await Promise.all(wanted.map(([column, row]) => pictureOf(this.image, index, column, row)));
    } catch (error) {
      if (!levels[index].files) throw error;
      this.#incomplete();
      return this.crop(canvas, x, y, side);
    }
    const context = canvas.getContext("2d");
    const zoom = canvas.width / shown;
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    wanted.forEach(([column, row], k) => {
      const picture = pictures[k];
      context.drawImage(
        picture, (column * tile - left) * zoom, (row * tile - top) * zoom, picture.width * zoom, picture.height * zoom,
      );
      picture.close?.();
    });
  }

  /** The folder is not there: what is in the page is shown, coarser than the slide. */
  #incomplete() {
    if (!this.isIncomplete) this.onIncomplete?.();
    this.isIncomplete = true;
  }
}

/** Length of a scale bar: the largest of 1, 2, 5, 10, … µm that is at most a quarter of the width. */
export function barLength(width) {
  let best = width / 4;
  for (let power = -3; power < 7; power++) {
    for (const mantissa of [1, 2, 5]) if (mantissa * 10 ** power <= width / 4) best = mantissa * 10 ** power;
  }
  return best;
}
