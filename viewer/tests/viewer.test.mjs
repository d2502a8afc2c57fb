// Tests of pages of ds.view in a browser. tests/view/test_browser.py makes the pages, in the folder PAGES, and runs this.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const folder = process.env.PAGES;
const truth = JSON.parse(readFileSync(join(folder, "truth.json"), "utf8"));
const executablePath = process.env.CHROMIUM;
// WebGL in software is slow: only the tests of its painter use it.
const FLAGS = { "2d": ["--disable-gpu"], webgl: ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"] };
const browsers = {};

before(async () => {
  for (const [name, flags] of Object.entries(FLAGS)) {
    browsers[name] = await chromium.launch({ executablePath, args: ["--no-sandbox", ...flags] });
  }
});
after(() => Promise.all(Object.values(browsers).map((browser) => browser.close())));

/** Opens a page, runs a check, and fails on errors, dialogs, and requests that leave the page and its folder of files. */
async function onPage(name, check, { hash = "", size = { width: 1000, height: 700 }, on = browsers["2d"], files = null, broken = null } = {}) {
  const page = await on.newPage({ viewport: size });
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("console", (message) => message.type() === "error" && !broken?.test(message.text()) && wrong.push(message.text()));
  page.on("dialog", (dialog) => { wrong.push(`dialog ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", (request) => /^(blob|data):/.test(request.url()) || request.isNavigationRequest() || (files && request.url().startsWith(pathToFileURL(join(folder, files)).href + "/")) || wrong.push(request.url()));
  try {
    await page.goto(pathToFileURL(join(folder, `${name}.html`)).href + hash);
    await page.waitForFunction(() => document.body.dataset.ready && document.body.dataset.complete && window.deepspotViewer, null, { timeout: 60_000 });
    await check(page);
    assert.deepEqual(wrong, []);
  } finally {
    await page.close();
  }
}

const shown = (page, text) => page.waitForFunction((wanted) => document.body.dataset.shown === wanted, text);
const text = (page, id) => page.locator(`#${id}`).textContent();
const scale = (page) => page.evaluate(() => window.deepspotViewer.slide.camera().scale);
const settled = (page) => page.waitForFunction(() => {
  const { viewport } = window.deepspotViewer.slide.viewer;
  return Math.abs(viewport.getZoom(true) / viewport.getZoom(false) - 1) < 1e-3;
});

/** Color of the overlay at a place, moved by some pixels of the screen. */
const colorAt = (page, place, dx = 0, dy = 0) => page.evaluate(([k, x, y]) => {
  const { slide, places, draw } = window.deepspotViewer;
  draw(); // WebGL keeps its pixels until the next frame only
  const { left, top, scale: s, ratio } = slide.camera();
  const canvas = document.querySelector("[data-overlay=fills]");
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0);
  const at = [(places.xy[2 * k] - left) * s * ratio + x, (places.xy[2 * k + 1] - top) * s * ratio + y];
  return [...context.getImageData(...at.map(Math.round), 1, 1).data];
}, [place, dx, dy]);
const opaque = (page) => page.evaluate(() => {
  document.getElementById("opacity").value = 100;
  document.getElementById("opacity").dispatchEvent(new Event("input"));
});
const alike = (a, b, most, note) => a.forEach((each, k) => assert.ok(Math.abs(each - b[k]) <= most, `${note}: ${a} and ${b}`));

for (const painter of ["2d", "webgl"]) {
  test(`spots have the colors of their values (${painter})`, () =>
    onPage("spots", async (page) => {
      assert.equal(await page.evaluate(() => document.body.dataset.painter), painter);
      await opaque(page);
      for (const [place, color] of Object.entries(truth.colors)) alike(await colorAt(page, +place), [...color, 255], 4, `spot ${place}`);
      // A spot without a value is not drawn.
      assert.equal((await colorAt(page, truth.missing))[3], 0);
    }, { hash: `#painter=${painter}`, on: browsers[painter] }));

  test(`spots out of distribution have an orange line (${painter})`, () =>
    onPage("spots", async (page) => {
      const radius = (await page.evaluate(() => window.deepspotViewer.places.diameter / 2)) * (await scale(page));
      const [doubt, sure] = [truth.ood, truth.sure];
      alike(await colorAt(page, doubt, radius + 1), [0xd5, 0x5e, 0, 255], 60, "line");
      assert.equal((await colorAt(page, sure, radius + 2))[3], 0);
      await page.uncheck("#ood-toggle");
      assert.equal((await colorAt(page, doubt, radius + 2))[3], 0);
      await page.check("#ood-toggle");
      await page.check("input[value=measured]");
      await shown(page, "UP measured");
      assert.equal((await colorAt(page, doubt, radius + 2))[3], 0); // measured values are not in doubt
    }, { hash: `#painter=${painter}`, on: browsers[painter] }));

  test(`cells are polygons, also when many are shown (${painter})`, () =>
    onPage("cells", async (page) => {
      await opaque(page);
      for (const [place, color] of Object.entries(truth.cell_colors)) alike(await colorAt(page, +place), [...color, 255], 4, `cell ${place}`);
      const half = (await page.evaluate(() => window.deepspotViewer.places.diameter / 2)) * (await scale(page));
      // Triangles that point upward: color at the lower corner, none at the same distance above it.
      assert.ok((await colorAt(page, 0, -0.8 * half, 0.55 * half))[3] > 200);
      assert.ok((await colorAt(page, 0, -0.9 * half, -0.55 * half))[3] < 50);
    }, { hash: `#painter=${painter}`, on: browsers[painter] }));
}

test("small cells in doubt keep their colors, and the line is around all of them", () =>
  onPage("cells", async (page) => {
    await opaque(page);
    const [pitch, size] = await page.evaluate(() => {
      const { places, slide } = window.deepspotViewer;
      const { scale: s } = slide.camera();
      return [(places.xy[2] - places.xy[0]) * s, places.diameter * s];
    });
    assert.ok(size < 6, `${size} px`);
    const orange = ([red, green, blue, alpha]) => alpha > 100 && red > 150 && red > 1.4 * green && blue < 90;
    const [inside, between] = [await colorAt(page, truth.cell_in_doubt), await colorAt(page, truth.cell_in_doubt, pitch / 2)];
    assert.ok(!orange(inside) && !orange(between) && between[3] > 150, `${inside}; ${between}`);
    const edge = await Promise.all([-3, -2, -1, 0].map((dx) => colorAt(page, 1100, -size / 2 + dx)));
    assert.ok(edge.some(orange), edge.join("; "));
  }, { hash: "#painter=webgl", on: browsers.webgl, size: { width: 280, height: 800 } }));

test("a browser without WebGL draws the spots", async () => {
  const plain = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-3d-apis"] });
  try {
    await onPage("spots", async (page) => {
      assert.equal(await page.evaluate(() => document.body.dataset.painter), "2d");
      await opaque(page);
      const [place, color] = Object.entries(truth.colors)[0];
      alike(await colorAt(page, +place), [...color, 255], 4, "spot");
    }, { on: plain });
  } finally {
    await plain.close();
  }
});

test("the image is behind the spots, with its tiles in place", () =>
  onPage("spots", async (page) => {
    // The card cuts its tile from other levels than the map: both show the color that the image has there.
    for (const [place, color] of Object.entries(truth.tissue)) {
      const seen = await page.evaluate(async (k) => {
        const { slide, places, facts } = window.deepspotViewer;
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 32;
        await slide.crop(canvas, places.xy[2 * k], places.xy[2 * k + 1], facts.tile_um / facts.image.mpp);
        const { data } = canvas.getContext("2d").getImageData(0, 0, 32, 32);
        return [0, 1, 2].map((c) => data.filter((_, at) => at % 4 === c).reduce((a, b) => a + b) / 1024);
      }, +place);
      alike(seen, color, 8, `tile of spot ${place}`);
      const drawn = await page.evaluate((k) => {
        const { slide, places, facts } = window.deepspotViewer;
        const canvas = [...document.querySelectorAll("#map canvas")].find((each) => !each.dataset.overlay);
        const { left, top, scale: s } = slide.camera();
        const ratio = canvas.width / canvas.clientWidth;
        const side = Math.max(1, Math.round((facts.tile_um / facts.image.mpp) * s * ratio));
        const at = [(places.xy[2 * k] - left) * s * ratio - side / 2, (places.xy[2 * k + 1] - top) * s * ratio - side / 2];
        const { data } = canvas.getContext("2d").getImageData(...at.map(Math.round), side, side);
        return [0, 1, 2].map((c) => data.filter((_, at) => at % 4 === c).reduce((a, b) => a + b) / side ** 2);
      }, +place);
      alike(drawn, color, 14, `image at spot ${place}`);
    }
  }));

/** Mean absolute difference of two screenshots; the browser does not let scripts read pixels of files. */
const apart = async (one, other) => {
  const page = await browsers["2d"].newPage();
  try {
    return await page.evaluate(async (shots) => {
      const [a, b] = await Promise.all(shots.map(async (shot) => {
        const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${shot}`)).blob());
        const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
        context.drawImage(bitmap, 0, 0);
        return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
      }));
      return a.reduce((sum, each, k) => sum + Math.abs(each - b[k]), 0) / a.length;
    }, [one, other].map((shot) => shot.toString("base64")));
  } finally {
    await page.close();
  }
};

/** The zoomed tissue, and the tile in the card of a spot. */
const looks = async (page) => {
  await page.evaluate((k) => {
    const { slide, places, choose, state, draw } = window.deepspotViewer;
    [state.hidden, state.outlines] = [true, false];
    draw();
    slide.show({ left: places.xy[2 * k] - 90, top: places.xy[2 * k + 1] - 60, right: places.xy[2 * k] + 90, bottom: places.xy[2 * k + 1] + 60 });
    choose(k);
  }, truth.clicked);
  await page.waitForFunction(() => window.deepspotViewer.slide.viewer.world.getItemAt(0).getFullyLoaded() && document.getElementById("card-facts").textContent);
  const tile = await page.locator("#card-tile").screenshot();
  await page.evaluate(() => window.deepspotViewer.choose(-1));
  return { tissue: await page.locator("#map").screenshot(), tile };
};

test("fine tiles are read from the folder, and without it the page says what it lacks", async () => {
  const seen = {};
  await onPage("spots", async (page) => { seen.page = await looks(page); });
  await onPage(truth.beside, async (page) => {
    seen.beside = await looks(page);
    assert.ok(await page.locator("#absent").isHidden());
  }, { files: `${truth.beside}_tiles` });
  await onPage(join("alone", truth.beside), async (page) => {
    await page.locator("#absent").waitFor();
    seen.alone = await looks(page);
    assert.match(await text(page, "absent"), /coarser than the slide \(\d.*tiles beside #1 50%_tiles/);
  }, { files: join("alone", `${truth.beside}_tiles`), broken: /ERR_FILE_NOT_FOUND|failed to load/ });
  for (const part of ["tissue", "tile"]) {
    const [beside, alone] = [await apart(seen.page[part], seen.beside[part]), await apart(seen.page[part], seen.alone[part])];
    assert.ok(beside < 2 && alone > 2 * beside, `${part}: ${beside} with the folder, ${alone} without it`);
  }
});

test("a click shows the values, the score and the group of a spot", () =>
  onPage("spots", async (page) => {
    const at = await page.evaluate((k) => {
      const { slide, places } = window.deepspotViewer;
      const { left, top, scale: s } = slide.camera();
      const box = document.getElementById("map").getBoundingClientRect();
      return [box.x + (places.xy[2 * k] - left) * s, box.y + (places.xy[2 * k + 1] - top) * s];
    }, truth.clicked);
    await page.mouse.click(...at);
    await page.waitForFunction(() => document.getElementById("card-facts").textContent);
    assert.equal(await text(page, "card-title"), `Spot ${truth.name}`);
    const rows = await page.locator("#card-facts").evaluate((list) => [...list.children].map((each) => each.textContent));
    const card = Object.fromEntries(rows.flatMap((row, k) => (k % 2 ? [] : [[row, rows[k + 1]]])));
    for (const [name, value] of Object.entries(truth.card)) assert.equal(card[name], value, name);
    await page.keyboard.press("Escape");
    assert.ok(await page.locator("#card").isHidden());
  }));

test("genes are found by keyboard", () =>
  onPage("spots", async (page) => {
    await page.locator("body").press("/");
    const box = page.locator("#gene");
    assert.ok(await box.evaluate((input) => input === document.activeElement));
    await box.fill("la");
    assert.equal(await box.getAttribute("aria-expanded"), "true");
    assert.equal(await page.locator("#gene-list [aria-selected=true]").textContent(), "FLATexpected r 0.02");
    assert.equal(await box.getAttribute("aria-activedescendant"), "gene-option-0");
    await box.press("Enter");
    await shown(page, "FLAT predicted");
    assert.equal(await box.getAttribute("aria-expanded"), "false");
    assert.match(await text(page, "legend-note"), /^Constant: 1\.50 in every spot/);
    await box.fill("nothing like it");
    assert.match(await text(page, "gene-list"), /No gene/);
    await box.press("Escape");
    assert.equal(await box.inputValue(), "FLAT");
    await box.press("ArrowDown");
    await box.press("ArrowDown");
    await box.press("Enter");
    await shown(page, "UP predicted");
  }));

test("layers have their colors and their legend", () =>
  onPage("spots", async (page) => {
    assert.match(await text(page, "scale-unit"), /log1p of counts per 10,000.*Span/i);
    await page.check("input[value=difference]");
    await shown(page, "UP difference");
    const [low, high] = [await text(page, "scale-low"), await text(page, "scale-high")];
    assert.equal(low, `−${high}`);
    await page.check("input[value=ood]");
    await shown(page, "UP ood");
    assert.match(await text(page, "scale-unit"), /limit: 1/);
    await page.check("input[value=groups]");
    await shown(page, "UP groups");
    assert.equal(await page.locator("#labels li").count(), 2);
    await page.locator("#gene").fill("NEW");
    await page.locator("#gene").press("Enter");
    await shown(page, "NEW predicted"); // a gene is no color of groups
    await page.check("input[value=measured]");
    await shown(page, "NEW measured");
    assert.equal(await text(page, "legend-note"), "This gene was not measured.");
    assert.equal((await colorAt(page, truth.clicked))[3], 0);
  }));

test("text of the data is text in the page", () =>
  onPage("spots", async (page) => {
    await page.locator("#gene").fill("onerror");
    await page.locator("#gene").press("Enter");
    await shown(page, `${truth.evil} predicted`);
    assert.equal(await text(page, "legend-title"), `${truth.evil} predicted`);
    await page.check("input[value=groups]");
    assert.ok((await text(page, "labels")).includes(truth.label));
    assert.equal(await page.title(), truth.title);
    assert.equal(await page.locator("img").count(), 0);
    assert.equal(await page.locator("header b, header i, aside i").count(), 0);
  }));

test("the image moves and zooms by keyboard, and the scale bar follows", () =>
  onPage("spots", async (page) => {
    const check = async () => {
      await settled(page);
      const [label, width] = [await text(page, "bar-text"), (await page.locator("#bar").boundingBox()).width];
      const microns = parseFloat(label) * (label.endsWith("mm") ? 1000 : 1);
      const perPixel = (await page.evaluate(() => window.deepspotViewer.facts.image.mpp)) / (await scale(page));
      assert.ok(Math.abs(microns / perPixel - width) < 1, `${label} is ${width} px`);
      assert.match(label, /^[125]0* (µm|mm)$/);
    };
    await check();
    const before = await scale(page);
    await page.locator("#map .openseadragon-canvas").first().focus();
    await page.keyboard.down("+");
    await page.waitForFunction((least) => window.deepspotViewer.slide.camera().scale > least, 1.5 * before);
    await page.keyboard.up("+");
    await check();
    const left = await page.evaluate(() => window.deepspotViewer.slide.camera().left);
    await page.keyboard.down("ArrowRight");
    await page.waitForFunction((x) => window.deepspotViewer.slide.camera().left > x, left);
    await page.keyboard.up("ArrowRight");
    await page.keyboard.press("r");
    assert.equal(await page.evaluate(() => window.deepspotViewer.slide.viewer.viewport.getRotation()), 0);
    await page.keyboard.press("Enter");
    assert.ok(await page.locator("#card").isVisible());
    await page.click("#card-close");
    await page.click("#home");
    await settled(page);
    assert.ok(Math.abs((await scale(page)) / before - 1) < 0.02);
  }));

test("spots can be hidden to see the tissue", () =>
  onPage("spots", async (page) => {
    await page.locator("#map .openseadragon-canvas").first().focus();
    await page.keyboard.press("h");
    assert.ok(await page.locator("[data-overlay=fills]").isHidden());
    await page.keyboard.press("h");
    assert.ok(await page.locator("[data-overlay=fills]").isVisible());
    await page.locator("#gene").press("h"); // is a letter there
    assert.ok(await page.locator("[data-overlay=fills]").isVisible());
  }));

test("controls have names and a visible focus", () =>
  onPage("spots", async (page) => {
    const unnamed = await page.evaluate(() => {
      const named = (each) => each.getAttribute("aria-label") || each.getAttribute("aria-labelledby") || each.labels?.length || each.textContent.trim();
      return [...document.querySelectorAll("button, input, [role]")].filter((each) => !each.closest("[hidden]") && !each.hidden && !named(each) && each.id !== "status").map((each) => each.outerHTML);
    });
    assert.deepEqual(unnamed, []);
    await page.locator("#zoom-in").focus();
    await page.keyboard.press("Tab");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(outline, "solid");
    assert.ok((await text(page, "status")).startsWith("UP predicted"));
  }));

test("cells are selected by their outline", () =>
  onPage("cells", async (page) => {
    const found = await page.evaluate(() => {
      const { places } = window.deepspotViewer;
      const [x, y, half] = [places.xy[0], places.xy[1], places.diameter / 2];
      return [places.at(x, y), places.at(x - 0.9 * half, y + 0.55 * half), places.at(x - 0.9 * half, y - 0.55 * half)];
    });
    assert.deepEqual(found, [0, 0, -1]);
  }));

test("a narrow window has the controls below the map", () =>
  onPage("spots", async (page) => {
    const [map, side] = [await page.locator("main").boundingBox(), await page.locator("aside").boundingBox()];
    assert.ok(side.y >= map.y + map.height - 1);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await page.evaluate((k) => window.deepspotViewer.choose(k), truth.clicked);
    const card = await page.locator("#card").boundingBox();
    assert.ok(card.width <= 400 && card.y > 300);
  }, { size: { width: 400, height: 800 } }));

test("a page with measured genes alone has no prediction to warn of", () =>
  onPage("measured", async (page) => {
    assert.equal(await page.locator("#layers input").count(), 1);
    assert.ok(await page.locator("#ood-row").isHidden());
    assert.ok(!(await text(page, "legend-title")).includes("predicted"));
  }));
