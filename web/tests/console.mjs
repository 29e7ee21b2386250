// Clicks through the console in headless Chromium. Arguments: the console's address with its token, the socket of a QMP
// monitor of the same machine, a directory for files. The guest is the echoing boot sector of the Rust test that starts
// this. OUZEL_SHOTS names a directory for screenshots.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [url, socket, directory] = process.argv.slice(2);
const PATIENCE = Number(process.env.OUZEL_PATIENCE ?? 60_000);

/** A plain QMP client, to see what the console does from outside. */
class Monitor {
  #waiting = [];
  #socket;
  constructor(path) {
    let rest = "";
    this.#socket = connect(path);
    this.#socket.on("data", (bytes) => {
      rest += bytes;
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const message = JSON.parse(line);
        if ("return" in message || "error" in message) this.#waiting.shift()?.(message);
      }
    });
  }
  async run(execute, args) {
    const answer = await new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    });
    if (answer.error) throw new Error(`${execute}: ${answer.error.desc}`);
    return answer.return;
  }
}

async function until(what, test) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await test();
    if (found) return found;
    assert.ok(Date.now() < end, `in vain waited for ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** The pixels of a binary PPM, as a canvas has them. */
function pixels(path) {
  const bytes = readFileSync(path);
  const [, width, height] = /^P6\s(\d+) (\d+)\s255\s/.exec(bytes.subarray(0, 32).toString("latin1")).map(Number);
  const start = bytes.length - width * height * 3;
  const rgba = Buffer.alloc(width * height * 4, 255);
  for (let at = 0; at < width * height; at += 1) bytes.copy(rgba, at * 4, start + at * 3, start + at * 3 + 3);
  return { width, height, rgba };
}

const monitor = new Monitor(socket);
await monitor.run("qmp_capabilities");
const status = async () => (await monitor.run("query-status")).status;

const browser = await chromium.launch({
  executablePath: process.env.OUZEL_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, acceptDownloads: true });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const problems = [];
  page.on("pageerror", (error) => problems.push(`page: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && problems.push(`console: ${message.text()}`));

  // Another browser's token is of no use, and ours is good once.
  await page.goto(url);
  await page.waitForSelector("header");
  const stranger = await (await browser.newContext()).newPage();
  assert.equal((await stranger.goto(url)).status(), 403);
  console.log("signed in by the token, which is good once");

  // The screen, pixel for pixel.
  await page.waitForSelector(".stage canvas");
  const same = async () => {
    const path = join(directory, "screen.ppm");
    await monitor.run("screendump", { filename: path });
    if (!existsSync(path)) return false;
    const { width, height, rgba } = pixels(path);
    const shown = await page.evaluate(() => {
      const canvas = document.querySelector(".stage canvas");
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
      let text = "";
      for (let at = 0; at < data.length; at += 8192) text += String.fromCharCode(...data.subarray(at, at + 8192));
      return { width, height, data: btoa(text) };
    });
    return shown.width === width && shown.height === height && rgba.equals(Buffer.from(shown.data, "base64")) && { width, height, rgba };
  };
  const lit = ({ rgba }) => rgba.filter((byte, at) => at % 4 !== 3 && byte !== 0).length;

  // What the serial port says is kept from the start.
  await page.click("nav a[href='#terminal']");
  const text = () => page.evaluate(() => document.querySelector(".xterm-rows")?.textContent ?? "");
  await until("the guest's word on its serial port", async () => (await text()).includes("READY"));
  await page.click(".terminals");
  await page.keyboard.type("serial hello");
  await until("the guest's echo", async () => (await text()).includes("serial hello"));
  await page.keyboard.press("Control+Alt+Shift");
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("href")), "#terminal", "the way out of the terminal");
  console.log("terminal: shows the past, types, shows the echo");

  await page.click("nav a[href='#screen']");
  const before = await until("the same picture", same);
  await page.click(".stage canvas");
  // Places of keys count, so Shift is pressed as a person does.
  await page.keyboard.press("Shift+KeyK");
  await page.keyboard.type("eys ");
  await page.keyboard.press("Shift+Digit7");
  await page.click("nav a[href='#terminal']");
  await until("typed keys in the guest", async () => (await text()).includes("Keys &"));
  await page.click("nav a[href='#screen']");
  const after = await until("the same picture with the keys", async () => {
    const picture = await same();
    return picture && lit(picture) > lit(before) && picture;
  });
  console.log(`screen: ${after.width}x${after.height} pixels are those of screendump, before and behind typed keys`);
  await page.click("button:has-text('Type text')");
  await page.fill("dialog textarea", "pasted (text)!");
  await page.click("dialog button.primary");
  await page.click("nav a[href='#terminal']");
  await until("pasted text in the guest", async () => (await text()).includes("pasted (text)!"));
  await page.click("nav a[href='#screen']");
  const [shot] = await Promise.all([page.waitForEvent("download"), page.click("button:has-text('Screenshot')")]);
  assert.equal(readFileSync(await shot.path()).subarray(1, 4).toString(), "PNG");
  console.log("screen: text is typed, a screenshot is a PNG");

  // The run state, by mouse and by keyboard alone.
  await page.click("#toggle");
  await until("the machine to stop", async () => (await status()) === "paused");
  await page.waitForSelector(".pill[data-kind=held]");
  await page.focus("#toggle");
  await page.keyboard.press("Enter");
  await until("the machine to go on", async () => (await status()) === "running");
  await page.waitForSelector(".pill[data-kind=on]");
  await page.click("header button:has-text('Reset')");
  await page.click("dialog button.primary");
  await page.click("nav a[href='#qmp']");
  await page.waitForSelector(".events li:has-text('RESET')");
  console.log("run state: pause, continue, reset with a question");

  // QMP: completion of a command, its argument and its value, by keyboard.
  await page.fill("#prompt", "");
  await page.type("#prompt", "query-statu");
  await page.waitForSelector(".choices li:has-text('query-status')");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  assert.equal((await page.inputValue("#prompt")).trim(), "query-status");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".reply:has-text('\"running\": true')");
  await page.type("#prompt", "set-ac");
  await page.keyboard.press("Tab");
  await page.type("#prompt", "reb");
  await page.waitForSelector(".choices li:has-text('reboot')");
  await page.keyboard.press("Tab");
  await page.waitForSelector(".choices li:has-text('shutdown')");
  await page.type("#prompt", "res");
  await page.waitForSelector(".documentation tr.current:has-text('reboot')");
  await page.keyboard.press("Tab");
  assert.equal((await page.inputValue("#prompt")).trim(), "set-action reboot=reset");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".reply:has-text('Done.')");
  await page.type("#prompt", "nonsense x=1");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".reply.failed:has-text('CommandNotFound')");
  await page.keyboard.press("ArrowUp");
  assert.equal(await page.inputValue("#prompt"), "nonsense x=1");
  await monitor.run("stop");
  await page.waitForSelector(".events li:has-text('STOP')");
  await page.fill("[aria-label='Filter events']", "resume");
  await until("the filter", async () => !(await page.isVisible(".events li:has-text('STOP')")));
  await monitor.run("cont");
  await page.waitForSelector(".events li:has-text('RESUME')");
  console.log("QMP: completes, runs, documents, remembers; events come and are filtered");

  // Disks and jobs.
  await page.click("nav a[href='#disks']");
  await page.waitForSelector(".card:has-text('boot.img')");
  await monitor.run("blockdev-backup", { "job-id": "copy", device: "source", target: "target", sync: "full", speed: 1 << 20 });
  await page.waitForSelector(".job:has-text('copy')");
  await page.click(".job button:has-text('Pause')");
  await until("the job to pause", async () => (await monitor.run("query-jobs")).some((job) => job.status === "paused"));
  await page.click(".job button:has-text('Resume')");
  await until("the job to go on", async () => (await monitor.run("query-jobs")).some((job) => job.status === "running"));
  await page.click(".job button:has-text('Cancel')");
  await page.click("dialog button.primary");
  await until("the job to end", async () => (await monitor.run("query-jobs")).length === 0);
  console.log("disks: throughput; a job is shown, paused, resumed and cancelled");

  // A phone: nothing is wider than the screen, and every pane is there.
  await page.setViewportSize({ width: 360, height: 740 });
  for (const name of ["screen", "terminal", "disks", "qmp"]) {
    await page.click(`nav a[href='#${name}']`);
    await page.waitForSelector(`.pane.${name === "qmp" ? "monitor" : name}:visible`);
    const width = await page.evaluate(() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth));
    assert.ok(width <= 360, `${name} is ${width} pixels wide`);
    const small = await page.evaluate(() =>
      [...document.querySelectorAll("button, a.tab, input")]
        .filter((one) => one.checkVisibility() && !one.closest(".said") && one.getBoundingClientRect().height < 16)
        .map((one) => one.outerHTML.slice(0, 80)),
    );
    assert.deepEqual(small, [], "targets that no finger hits");
  }
  if (process.env.OUZEL_SHOTS) {
    for (const [width, height] of [[1280, 800], [390, 844]]) {
      await page.setViewportSize({ width, height });
      for (const name of ["screen", "terminal", "disks", "qmp"]) {
        await page.click(`nav a[href='#${name}']`);
        await page.waitForTimeout(1500);
        await page.screenshot({ path: join(process.env.OUZEL_SHOTS, `${name}-${width}.png`) });
      }
    }
  }
  // Each control has a name.
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll("button, a, input, textarea")]
      .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.title || one.labels?.length))
      .map((one) => one.outerHTML.slice(0, 120)),
  );
  assert.deepEqual(nameless.filter((one) => !one.includes("xterm")), []);
  console.log("phone: 360 pixels are enough for each pane");

  // Out: the question first.
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.click("header button:has-text('Quit')");
  await page.click("dialog button[value=no]");
  assert.equal(await status(), "running");
  const stray = problems.filter((problem) => !/Failed to load resource/.test(problem));
  assert.deepEqual(stray, []);
  await page.click("header button:has-text('Quit')");
  await page.click("dialog button.primary");
  await page.waitForSelector(".banner:visible");
  console.log("quit: asks, and the page tells that the machine has ended");
} catch (error) {
  for (const [index, page] of browser.contexts().flatMap((context) => context.pages()).entries()) {
    await page.screenshot({ path: join(directory, `failed-${index}.png`) });
    console.error(await page.evaluate(() => document.body.innerText.slice(0, 2000)));
  }
  throw error;
} finally {
  await browser.close();
}
process.exit(0);
