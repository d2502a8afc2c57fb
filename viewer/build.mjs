// Writes the bundle and the licenses of its libraries into the Python package: node build.mjs [folder]
import { build } from "esbuild";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../src/deepspot/_view/assets");
const result = await build({
  absWorkingDir: here,
  entryPoints: { viewer: "src/main.js" },
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome114", "firefox114", "safari16.4"],
  charset: "utf8",
  legalComments: "none",
  outdir: out,
  metafile: true,
  logLevel: "warning",
});
const names = new Set(
  Object.keys(result.metafile.inputs)
    .map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1])
    .filter(Boolean),
);
const licenses = [...names].sort().map((name) => {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} has no license file in ${relative(here, folder)}.`);
  const text = readFileSync(join(folder, file), "utf8").trim().replaceAll("\r\n", "\n");
  return `${name} ${version} (${license})\n\n${text}\n`;
});
writeFileSync(join(out, "LICENSES.txt"), `Libraries in viewer.js and their licenses\n\n${licenses.join(`\n${"-".repeat(72)}\n\n`)}`);
