// Disks with their live throughput, and jobs with their progress.

import { draw, push, type Series } from "../chart";
import { ask, button, bytes, h, toast } from "../dom";
import type { Context, Pane } from "../main";

interface Block {
  device: string;
  qdev?: string;
  removable: boolean;
  tray_open?: boolean;
  "io-status"?: string;
  inserted?: {
    file: string;
    drv: string;
    ro: boolean;
    "node-name"?: string;
    backing_file?: string;
    image: { "virtual-size": number; "actual-size"?: number };
  };
}
interface Stats {
  device?: string;
  qdev?: string;
  "node-name"?: string;
  stats: Record<
    "rd_bytes" | "wr_bytes" | "rd_operations" | "wr_operations" | "flush_operations" | "rd_total_time_ns" | "wr_total_time_ns",
    number
  >;
}
interface Job {
  id: string;
  type: string;
  status: string;
  "current-progress": number;
  "total-progress": number;
  error?: string;
}

interface Card {
  element: HTMLElement;
  update: (block: Block) => void;
  measure: (stats: Stats["stats"], now: number) => void;
  paint: () => void;
}

/** What a person calls the image: a name that begins with `json:` is all that the image was opened with. */
function nameOf(file: string): string {
  if (!file.startsWith("json:")) return file;
  type Node = { filename?: string; file?: Node | string; backing?: Node | string };
  const find = (node: Node | string | undefined): string | undefined =>
    typeof node === "object" && node ? (node.filename ?? find(node.file)) : undefined;
  try {
    const node = JSON.parse(file.slice("json:".length)) as Node;
    const [own, below] = [find(node), find(node.backing)];
    if (own && below) return `${below}, overlay ${own}`;
    return own ?? below ?? file;
  } catch {
    return file;
  }
}

const rate = (value: number) => `${bytes(value)}/s`;

function figure(label: string, colour?: string): [HTMLElement, (text: string) => void] {
  const value = h("dd", {}, "–");
  const name = h("dt", {}, colour ? h("i", { class: `swatch ${colour}` }) : null, label);
  return [h("div", { class: "figure" }, name, value), (text) => (value.textContent = text)];
}

function card(key: string): Card {
  const title = h("h3", {});
  const badges = h("div", { class: "badges" });
  const file = h("p", { class: "path" });
  const canvas = h("canvas", { class: "chart", role: "img", "aria-label": `Throughput of ${key} in the last two minutes` });
  const [reads, setReads] = figure("Read", "read");
  const [writes, setWrites] = figure("Written", "write");
  const [operations, setOperations] = figure("Operations");
  const [latency, setLatency] = figure("Latency");
  const [total, setTotal] = figure("In all");
  const element = h(
    "article",
    { class: "card" },
    h("div", { class: "card-head" }, title, badges),
    file,
    canvas,
    h("dl", { class: "figures" }, reads, writes, operations, latency, total),
  );
  const read: Series = { colour: "--read", values: [] };
  const write: Series = { colour: "--write", values: [] };
  let before: { stats: Stats["stats"]; at: number } | null = null;
  const badge = (text: string, kind = "") => h("span", { class: `chip ${kind}` }, text);
  return {
    element,
    update: (block) => {
      const { inserted } = block;
      element.classList.toggle("idle", !inserted);
      title.textContent = block.device || block.qdev?.replace(/^\/machine\/[^/]*\//, "") || inserted?.["node-name"] || "disk";
      badges.replaceChildren(
        ...(inserted ? [badge(inserted.drv), badge(bytes(inserted.image["virtual-size"]))] : [badge(block.tray_open ? "tray open" : "empty")]),
        ...(inserted?.ro ? [badge("read-only")] : []),
        ...(inserted?.backing_file ? [badge("overlay")] : []),
        ...(block["io-status"] && block["io-status"] !== "ok" ? [badge(`I/O ${block["io-status"]}`, "bad")] : []),
      );
      file.textContent = inserted ? nameOf(inserted.file) : "No medium";
      file.title = inserted?.file ?? "";
    },
    measure: (stats, now) => {
      if (before && now > before.at) {
        const old = before.stats;
        const seconds = (now - before.at) / 1000;
        const delta = (name: keyof Stats["stats"]) => Math.max(0, stats[name] - old[name]);
        const [rd, wr] = [delta("rd_bytes") / seconds, delta("wr_bytes") / seconds];
        const count = delta("rd_operations") + delta("wr_operations");
        push(read, rd);
        push(write, wr);
        setReads(rate(rd));
        setWrites(rate(wr));
        setOperations(`${Math.round(count / seconds)}/s`);
        const time = (delta("rd_total_time_ns") + delta("wr_total_time_ns")) / Math.max(1, count) / 1e6;
        setLatency(count ? `${time < 10 ? time.toFixed(2) : time.toFixed(0)} ms` : "–");
        setTotal(`${bytes(stats.rd_bytes)} read, ${bytes(stats.wr_bytes)} written`);
      }
      before = { stats, at: now };
    },
    paint: () => draw(canvas, [read, write]),
  };
}

export function make({ qmp }: Context): Pane {
  const cards = new Map<string, Card>();
  const jobs = new Map<string, ReturnType<typeof jobRow>>();
  const grid = h("div", { class: "grid" });
  const noDisks = h("p", { class: "empty small" }, "The machine has no disks.");
  const jobList = h("div", { class: "jobs" });
  const noJobs = h("p", { class: "empty small" }, "No jobs. Copies, commits and backups show here while they run.");
  // What runs comes first; that nothing does comes last.
  const jobsTitle = h("h2", {}, "Jobs");
  const disksTitle = h("h2", {}, "Disks");
  const element = h(
    "section",
    { class: "pane disks", "aria-label": "Disks and jobs" },
    h("div", { class: "scroll" }, jobsTitle, noJobs, jobList, disksTitle, noDisks, grid),
  );

  const act = (command: string, id: string) => qmp.run(command, { id }).catch((error: Error) => toast(`${id}: ${error.message}`, true));

  function jobRow(id: string) {
    const title = h("h3", {}, id);
    const badges = h("div", { class: "badges" });
    const bar = h("progress", { "aria-label": `Progress of ${id}` });
    const text = h("p", { class: "quiet" });
    const canvas = h("canvas", { class: "chart low", role: "img", "aria-label": `Speed of ${id}` });
    const buttons = h("div", { class: "buttons" });
    const row = h("article", { class: "card job" }, h("div", { class: "card-head" }, title, badges), bar, text, canvas, buttons);
    const speed: Series = { colour: "--read", values: [] };
    let before: { done: number; at: number } | null = null;
    let offered = "";
    return {
      row,
      update: (job: Job, now: number) => {
        const [done, total] = [job["current-progress"], job["total-progress"]];
        if (before && now > before.at) push(speed, Math.max(0, ((done - before.done) * 1000) / (now - before.at)));
        before = { done, at: now };
        const recent = speed.values.slice(-5);
        const pace = recent.reduce((sum, value) => sum + value, 0) / Math.max(1, recent.length);
        badges.replaceChildren(h("span", { class: "chip" }, job.type), h("span", { class: `chip ${job.error ? "bad" : job.status}` }, job.error ? "failed" : job.status));
        bar.max = Math.max(1, total);
        bar.value = done;
        const percent = total ? Math.floor((done / total) * 100) : 0;
        const left = pace > 0 && done < total ? ` · ${duration((total - done) / pace)} left` : "";
        text.textContent = job.error ?? `${percent} % · ${bytes(done)} of ${bytes(total)} · ${rate(pace)}${left}`;
        const active = ["created", "running", "ready"].includes(job.status);
        const held = ["paused", "standby"].includes(job.status);
        const wanted = `${active}${held}${job.status}`;
        if (wanted === offered) return;
        offered = wanted;
        const cancel = () =>
          void ask(`Cancel ${id}?`, "What the job has done so far may be of no use.", "Cancel the job", true).then((yes) => yes && act("job-cancel", id));
        const paused = held || (job.status === "running" && false);
        buttons.replaceChildren(
          ...(active ? [button("Pause", "pause", () => void act("job-pause", id))] : []),
          ...(paused ? [button("Resume", "play", () => void act("job-resume", id))] : []),
          ...(job.status === "ready" ? [button("Complete", "check", () => void act("job-complete", id), { class: "primary" })] : []),
          ...(job.status === "pending" ? [button("Finalize", "check", () => void act("job-finalize", id), { class: "primary" })] : []),
          ...(job.status === "concluded" ? [button("Dismiss", "check", () => void act("job-dismiss", id))] : []),
          ...(active || held || job.status === "waiting" ? [button("Cancel", "quit", cancel, { class: "danger" })] : []),
        );
      },
      paint: () => draw(canvas, [speed], true),
    };
  }

  function duration(seconds: number): string {
    if (seconds < 90) return `${Math.ceil(seconds)} s`;
    return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  let busy = false;
  async function poll(): Promise<void> {
    if (busy || qmp.link !== "ready" || (document.hidden && element.hidden)) return;
    busy = true;
    try {
      const [blocks, stats, list] = (await Promise.all([
        qmp.run("query-block"),
        qmp.run("query-blockstats"),
        qmp.run("query-jobs"),
      ])) as unknown as [Block[], Stats[], Job[]];
      const now = performance.now();
      const seen = new Set<string>();
      blocks.forEach((block, index) => {
        const key = block.qdev || block.device || `disk ${index}`;
        seen.add(key);
        let one = cards.get(key);
        if (!one) {
          one = card(block.device || key);
          cards.set(key, one);
          grid.append(one.element);
        }
        one.update(block);
        const found = stats.find((entry) => (block.qdev ? entry.qdev === block.qdev : entry.device === block.device));
        if (found) one.measure(found.stats, now);
      });
      for (const [key, one] of cards) if (!seen.has(key)) (one.element.remove(), cards.delete(key));
      for (const job of list) {
        let row = jobs.get(job.id);
        if (!row) {
          row = jobRow(job.id);
          jobs.set(job.id, row);
          jobList.append(row.row);
        }
        row.update(job, now);
      }
      for (const [id, row] of jobs) if (!list.some((job) => job.id === id)) (row.row.remove(), jobs.delete(id));
      noDisks.hidden = cards.size > 0;
      if (noJobs.hidden !== jobs.size > 0 || !noJobs.parentElement?.dataset.ordered) order();
      paint();
    } catch {
      // The link's end is told elsewhere.
    } finally {
      busy = false;
    }
  }

  function order(): void {
    const place = jobsTitle.parentElement;
    if (!place) return;
    noJobs.hidden = jobs.size > 0;
    const [first, second] = [[jobsTitle, noJobs, jobList], [disksTitle, noDisks, grid]];
    place.append(...(jobs.size > 0 ? [...first, ...second] : [...second, ...first]));
    place.dataset.ordered = "yes";
  }

  function paint(): void {
    if (element.hidden) return;
    for (const one of cards.values()) one.paint();
    for (const row of jobs.values()) row.paint();
  }

  setInterval(() => void poll(), 1000);
  qmp.on("link", () => void poll());
  qmp.on("event", (event) => {
    if (/^(JOB_|BLOCK_JOB_|DEVICE_)/.test(event.event)) void poll();
  });
  new ResizeObserver(paint).observe(grid);
  addEventListener("themechange", paint);
  return { element, show: () => void poll().then(paint) };
}
