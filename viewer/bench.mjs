// Measures pages of ds.view in headless Chromium without a graphics card: node bench.mjs page.html …
import { readdirSync, readFileSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const SECONDS = Number(process.env.SECONDS ?? 5);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});

/** Milliseconds of processor time of this process and all that it started, on Linux. */
function processorTime() {
  const processes = new Map();
  for (const id of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const text = readFileSync(`/proc/${id}/stat`, "latin1");
      const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
      processes.set(id, { parent: fields[1], used: 10 * (Number(fields[11]) + Number(fields[12])) });
    } catch {
      // it ended meanwhile
    }
  }
  let sum = 0;
  for (const [id, { used }] of processes) {
    let at = id;
    while (at && at !== String(process.pid)) at = processes.get(at)?.parent;
    if (at) sum += used;
  }
  return sum;
}

/** Moves the image back and forth for some seconds; returns the number of frames. */
async function pan(seconds) {
  const { slide } = window.deepspotViewer;
  const { viewport } = slide.viewer;
  const center = viewport.getCenter(true);
  const reach = viewport.getBounds(true).width / 4;
  const from = performance.now();
  let frames = 0;
  while (performance.now() - from < 1000 * seconds) {
    await new Promise(requestAnimationFrame);
    const point = center.clone();
    point.x += reach * Math.sin(frames++ / 15);
    viewport.panTo(point, true);
  }
  viewport.panTo(center, true);
  return { frames, seconds: (performance.now() - from) / 1000 };
}

for (const file of process.argv.slice(2)) {
  const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
  page.on("pageerror", (error) => console.error(error));
  const before = processorTime();
  await page.goto(pathToFileURL(resolve(file)).href, { waitUntil: "commit" });
  await page.waitForFunction(() => document.body?.dataset.first, null, { timeout: 120_000 });
  const used = processorTime() - before;
  await page.waitForFunction(() => document.body.dataset.ready, null, { timeout: 120_000 });
  await page.waitForFunction(() => document.body.dataset.complete && window.deepspotViewer, null, { timeout: 120_000 });
  const times = await page.evaluate(() => ({ ...document.body.dataset }));
  const result = { file, MB: +(statSync(file).size / 1e6).toFixed(1), painter: times.painter };
  Object.assign(result, { first_ms: +times.first, first_cpu_ms: used, complete_ms: Math.max(+times.ready, +times.complete) });
  for (const [name, zoom] of [["whole", 1], ["zoomed", 6]]) {
    await page.evaluate((factor) => window.deepspotViewer.slide.viewer.viewport.zoomBy(factor, null, true), zoom);
    await page.evaluate(pan, 1);
    const start = processorTime();
    const { frames, seconds } = await page.evaluate(pan, SECONDS);
    result[`${name}_fps`] = +(frames / seconds).toFixed(1);
    result[`${name}_cpu_ms_per_frame`] = +((processorTime() - start) / frames).toFixed(1);
  }
  const choose = await page.evaluate(async () => {
    const { facts } = window.deepspotViewer;
    const gene = Math.min(5, facts.genes.length - 1);
    const from = performance.now();
    const input = document.getElementById("gene");
    input.focus();
    input.value = facts.genes[gene];
    input.dispatchEvent(new Event("input"));
    input.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
    while (!document.body.dataset.shown.startsWith(`${facts.genes[gene]} `) && performance.now() - from < 30_000) await new Promise(requestAnimationFrame);
    return Math.round(performance.now() - from);
  });
  result.other_gene_ms = choose;
  console.log(JSON.stringify(result));
  await page.close();
}
await browser.close();
