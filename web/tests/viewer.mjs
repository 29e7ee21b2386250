// noVNC in headless Chromium on a line: viewer.mjs PORT, the port of a VNC server's WebSockets. Requests and answers are
// those of crates/ouzel/tests/peer_vnc_viewer.py.
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const [port] = process.argv.slice(2);
const packages = fileURLToPath(new URL("../node_modules/@novnc/novnc/", import.meta.url));
const KNOWN = [0, 2, 5, 6, 7, 16, -260];

// noVNC as it is, and a page without anything of ours in it.
const server = createServer((request, response) => {
  const path = new URL(request.url, "http://localhost").pathname;
  if (path === "/") {
    response.setHeader("Content-Type", "text/html");
    response.end("<!doctype html><title>noVNC</title><div id=screen style='width:1200px;height:900px'></div>");
    return;
  }
  try {
    const file = readFileSync(join(packages, normalize(path)));
    response.setHeader("Content-Type", extname(path) === ".js" ? "text/javascript" : "application/octet-stream");
    response.end(file);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const address = `http://127.0.0.1:${server.address().port}`;

const browser = await chromium.launch({
  executablePath: process.env.OUZEL_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
let page;

const requests = {
  async open(encoding, copies, quality) {
    if (!KNOWN.includes(Number(encoding))) return "skip";
    page = await browser.newPage({ viewport: { width: 1280, height: 960 } });
    await page.goto(address);
    await page.evaluate(async ({ port, encoding, copies, quality }) => {
      const { default: RFB } = await import("/core/rfb.js");
      const say = RFB.messages.clientEncodings;
      // Of pictures only what is asked for; qualities and the like as they are, but for JPEG's.
      RFB.messages.clientEncodings = (socket, all) => {
        const small = all.filter((number) => number < 0 && number !== -260 && (number < -32 || number > -23));
        say(socket, [...(copies ? [1] : []), encoding, ...small, ...(quality === null ? [] : [-32 + quality])]);
      };
      window.seen = new Set();
      const handle = RFB.prototype._handleDataRect;
      RFB.prototype._handleDataRect = function () {
        window.seen.add(this._FBU.encoding);
        return handle.call(this);
      };
      const rfb = new RFB(document.getElementById("screen"), `ws://127.0.0.1:${port}/`);
      await new Promise((done, failed) => {
        rfb.addEventListener("connect", done);
        rfb.addEventListener("disconnect", () => failed(new Error("no connection")));
      });
      window.rfb = rfb;
    }, { port, encoding: Number(encoding), copies: copies === "yes", quality: quality === "-" ? null : Number(quality) });
    return "ok";
  },
  async shot(path) {
    const { width, height, data } = await page.evaluate(() => {
      const canvas = document.querySelector("canvas");
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
      let text = "";
      for (let at = 0; at < data.length; at += 8192) text += String.fromCharCode(...data.subarray(at, at + 8192));
      return { width, height, data: btoa(text) };
    });
    const rgba = Buffer.from(data, "base64");
    const rgb = Buffer.alloc(width * height * 3);
    for (let at = 0; at < width * height; at += 1) rgba.copy(rgb, at * 3, at * 4, at * 4 + 3);
    writeFileSync(path, Buffer.concat([Buffer.from(`P6\n${width} ${height}\n255\n`), rgb]));
    return "ok";
  },
  async used() {
    const seen = await page.evaluate(() => [...window.seen]);
    return ["ok", ...seen.sort((one, other) => one - other)].join(" ");
  },
  async close() {
    await page.evaluate(() => window.rfb.disconnect());
    await page.close();
    return "ok";
  },
};

try {
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, ...words] = line.split(" ");
    let answer;
    try {
      answer = await requests[name](...words);
    } catch (error) {
      answer = `${error}`.replaceAll("\n", " ");
    }
    process.stdout.write(`${answer}\n`);
  }
} finally {
  await browser.close();
  server.close();
}
