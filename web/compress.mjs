// Compresses what vite has built for the program that embeds it, collects the licences of what is in it, and says how
// large it is.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const licences = [
  ["noVNC (source: https://github.com/novnc/noVNC)", "@novnc/novnc/LICENSE.txt"],
  ["noVNC: MPL-2.0", "@novnc/novnc/docs/LICENSE.MPL-2.0"],
  ["noVNC: pako", "@novnc/novnc/vendor/pako/LICENSE"],
  ["xterm.js", "@xterm/xterm/LICENSE"],
  ["xterm.js: fit", "@xterm/addon-fit/LICENSE"],
];
const text = licences.map(([title, path]) => `== ${title}\n\n${readFileSync(join("node_modules", path), "utf8")}\n`);
writeFileSync("dist/licences.txt", text.join("\n"));

const files = readdirSync("dist", { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && !/\.(gz|br)$/.test(entry.name))
  .map((entry) => join(entry.parentPath, entry.name));
let script = 0;
for (const file of files) {
  const content = readFileSync(file);
  const gzip = gzipSync(content, { level: 9 });
  const brotli = brotliCompressSync(content, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
  writeFileSync(`${file}.gz`, gzip);
  writeFileSync(`${file}.br`, brotli);
  if (file.endsWith(".js")) script += gzip.length;
  console.log(`${relative("dist", file).padEnd(40)} ${content.length} B, gzip ${gzip.length}, brotli ${brotli.length}`);
}
console.log(`scripts together: ${(script / 1024).toFixed(0)} KiB with gzip`);
if (script > 400 * 1024) throw new Error("the scripts are larger than 400 KiB");
