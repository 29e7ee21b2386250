// The frame around the panes: navigation, the machine's state and its buttons.

import "./app.css";
import { ask, button, h, icon, menu, toast, type Item } from "./dom";
import { Qmp } from "./qmp";

export interface Info {
  name: string | null;
  version: string;
  terminals: string[];
}

/** What a pane gets. */
export interface Context {
  qmp: Qmp;
  info: () => Promise<Info>;
  /** What is behind the pane's name in the address, and how it is changed. */
  place: string;
  move: (place: string) => void;
}

/** A pane, made when it is first shown. */
export interface Pane {
  element: HTMLElement;
  /** It is in sight again. */
  show?: (place: string) => void;
  hide?: () => void;
}

type Name = "screen" | "terminal" | "disks" | "qmp";
const PANES: Record<Name, { title: string; load: () => Promise<{ make: (context: Context) => Pane }> }> = {
  screen: { title: "Screen", load: () => import("./panes/screen") },
  terminal: { title: "Terminals", load: () => import("./panes/terminal") },
  disks: { title: "Disks", load: () => import("./panes/disks") },
  qmp: { title: "QMP", load: () => import("./panes/monitor") },
};
const NAMES = Object.keys(PANES) as Name[];

const qmp = new Qmp();
const made = new Map<Name, Promise<Pane>>();
let current: { name: Name; pane: Pane | null } | null = null;

async function info(): Promise<Info> {
  const answer = await fetch("/api/info");
  if (!answer.ok) throw new Error(`the server says ${answer.status}`);
  return (await answer.json()) as Info;
}

// ---- theme

type Theme = "system" | "light" | "dark";
function theme(): Theme {
  const kept = localStorage.getItem("theme");
  return kept === "light" || kept === "dark" ? kept : "system";
}
function setTheme(wanted: Theme): void {
  localStorage.setItem("theme", wanted);
  if (wanted === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = wanted;
  dispatchEvent(new Event("themechange"));
}
setTheme(theme());

// ---- the machine's state

interface Status {
  status: string;
  running: boolean;
}
let status: Status | null = null;

const STATES: Record<string, string> = {
  running: "Running",
  paused: "Paused",
  prelaunch: "Not started",
  shutdown: "Shut down",
  suspended: "Asleep",
  debug: "At a breakpoint",
  "io-error": "I/O error",
  "guest-panicked": "Guest panicked",
  "internal-error": "Internal error",
  watchdog: "Watchdog fired",
  inmigrate: "Awaiting migration",
  preconfig: "Being configured",
};

const dot = h("span", { class: "dot" });
const word = h("span", {}, "Connecting");
const pill = h("div", { class: "pill", role: "status", "aria-live": "polite" }, dot, word);

async function act(command: string, said?: string): Promise<void> {
  try {
    await qmp.run(command);
    if (said) toast(said);
  } catch (error) {
    if (command !== "quit") toast(`${command}: ${(error as Error).message}`, true);
  }
}

const toggle = button("Pause", "pause", () => void act(status?.running ? "stop" : "cont"), { id: "toggle", class: "primary" });
const reset = () =>
  void ask("Reset the machine?", "The guest starts anew at once. What it has not written to its disks is lost.", "Reset", true).then(
    (yes) => (yes ? act("system_reset", "The machine was reset") : undefined),
  );
const powerdown = () => void act("system_powerdown", "The power button was pressed");
const quit = () =>
  void ask("Quit the emulator?", "The machine is switched off at once, and the emulator ends.", "Quit", true).then(
    (yes) => (yes ? act("quit") : undefined),
  );
const resetButton = button("Reset", "reset", reset, { class: "wide" });
const powerButton = button("Power button", "power", powerdown, { class: "wide" });
const quitButton = button("Quit", "quit", quit, { class: "wide danger" });
const machineButtons = [toggle, resetButton, powerButton, quitButton];

const more = button("More", "more", () => menu(more, moreItems()), {
  "aria-haspopup": "menu",
  "aria-expanded": "false",
  class: "bare",
});

function moreItems(): Item[] {
  const narrow = matchMedia("(max-width: 900px)").matches && qmp.link === "ready";
  const chosen = theme();
  const themes: [Theme, string][] = [
    ["system", "Colours of the system"],
    ["light", "Light"],
    ["dark", "Dark"],
  ];
  return [
    ...(narrow
      ? [
          { label: "Reset…", act: reset },
          { label: "Press the power button", act: powerdown },
          { label: "Quit the emulator…", danger: true, act: quit },
        ]
      : []),
    ...themes.map(([name, label]) => ({ label, checked: chosen === name, act: () => setTheme(name) })),
    { label: "Link for another browser…", act: () => void makeLink() },
    { label: "About…", act: () => void about() },
    { label: "Sign out", act: () => void fetch("/api/logout", { method: "POST" }).then(() => location.reload()) },
  ];
}

async function makeLink(): Promise<void> {
  try {
    const answer = await fetch("/api/link", { method: "POST" });
    const { token } = (await answer.json()) as { token: string };
    const url = `${location.origin}/?token=${token}`;
    const field = h("input", { value: url, readonly: true, "aria-label": "Link", onfocus: (event) => (event.target as HTMLInputElement).select() });
    const body = h("div", {}, h("p", {}, "This link signs one more browser in, once."), field);
    if (await ask("Link for another browser", body, "Copy")) {
      // Only pages of this host or with TLS may copy.
      if (navigator.clipboard) await navigator.clipboard.writeText(url).then(() => toast("Copied"));
      else toast("The browser doesn’t let this page copy; please do it by hand", true);
    }
  } catch (error) {
    toast((error as Error).message, true);
  }
}

async function about(): Promise<void> {
  type Version = { qemu: { major: number; minor: number; micro: number }; package: string };
  const version = await qmp.run<Version>("query-version").then(
    ({ qemu, package: name }) => `${name} It speaks as QEMU ${qemu.major}.${qemu.minor}.${qemu.micro} does.`,
    () => "",
  );
  const body = h(
    "div",
    {},
    h("p", {}, `A PC emulator driven by QMP. ${version}`),
    h("p", {}, "Everywhere: ", h("kbd", {}, "Ctrl"), " ", h("kbd", {}, "Alt"), " ", h("kbd", {}, "Shift"), " together take the keyboard back from the guest."),
    h("p", {}, "The screen is noVNC’s, the terminals are xterm.js’s. ", h("a", { href: "/licences.txt", target: "_blank", rel: "noopener" }, "Their licences")),
  );
  await ask("Ouzel’s web console", body, "Close");
}

async function refresh(): Promise<void> {
  if (qmp.link !== "ready") {
    const words = { connecting: "Connecting", lost: "No connection", refused: "Signed out", ready: "" };
    paint("off", words[qmp.link]);
    return;
  }
  try {
    status = (await qmp.run("query-status")) as unknown as Status;
    const kind = status.running ? "on" : ["internal-error", "io-error", "guest-panicked"].includes(status.status) ? "bad" : "held";
    paint(kind, STATES[status.status] ?? status.status);
  } catch {
    // The link's end is told by itself.
  }
}

function paint(kind: string, text: string): void {
  pill.dataset.kind = kind;
  if (word.textContent !== text) word.textContent = text;
  const usable = kind !== "off";
  for (const one of machineButtons) one.disabled = !usable;
  const runs = status?.running ?? false;
  const label = runs ? "Pause" : status?.status === "prelaunch" ? "Start" : "Continue";
  toggle.replaceChildren(icon(runs ? "pause" : "play"), h("span", { class: "label" }, label));
  toggle.title = label;
  banner.hidden = usable || qmp.link === "connecting";
  banner.textContent =
    qmp.link === "refused"
      ? "This browser is no longer signed in. Open the link that the emulator printed, or reload to enter a token."
      : "The emulator does not answer: it may have ended. Trying again…";
}

// ---- navigation

const banner = h("div", { class: "banner", role: "alert", hidden: true });
const main = h("main", { id: "main", tabindex: -1 });
const badge = h("span", { class: "badge", hidden: true, "aria-hidden": "true" });
let unseen = 0;
const tabs = new Map<Name, HTMLAnchorElement>(
  NAMES.map((name) => [
    name,
    h("a", { href: `#${name}`, class: "tab" }, icon(name), h("span", {}, PANES[name].title), name === "qmp" ? badge : null),
  ]),
);
const title = h("h1", {}, "Ouzel");
const nav = h("nav", { "aria-label": "Panes" }, ...tabs.values());

document.body.append(
  h("a", { class: "skip", href: "#main", onclick: (event) => (event.preventDefault(), main.focus()) }, "Skip to the content"),
  h(
    "header",
    {},
    h("div", { class: "brand" }, h("img", { src: "/icon.svg", alt: "", width: 28, height: 28 }), title),
    pill,
    h("div", { class: "machine", role: "toolbar", "aria-label": "Machine" }, ...machineButtons),
    more,
  ),
  nav,
  h("div", { class: "content" }, banner, main),
);

async function go(): Promise<void> {
  const [wanted, ...rest] = location.hash.slice(1).split("/");
  const name = NAMES.find((known) => known === wanted) ?? "screen";
  const place = decodeURIComponent(rest.join("/"));
  for (const [other, tab] of tabs) {
    if (other === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  if (name === "qmp") count(0);
  if (current?.name === name) {
    current.pane?.show?.(place);
    return;
  }
  current?.pane?.hide?.();
  if (current?.pane) current.pane.element.hidden = true;
  const mine = { name, pane: null as Pane | null };
  current = mine;
  let pane = made.get(name);
  if (!pane) {
    const loading = h("p", { class: "empty", role: "status" }, "Loading…");
    main.append(loading);
    const context: Context = { qmp, info, place, move: (to) => history.replaceState(null, "", `#${name}/${encodeURIComponent(to)}`) };
    pane = PANES[name].load().then(
      (module) => {
        loading.remove();
        const fresh = module.make(context);
        fresh.element.hidden = true;
        main.append(fresh.element);
        return fresh;
      },
      (error: Error) => {
        loading.textContent = `This part of the console can’t be loaded: ${error.message}`;
        made.delete(name);
        throw error;
      },
    );
    made.set(name, pane);
  }
  mine.pane = await pane;
  if (current === mine) {
    mine.pane.element.hidden = false;
    mine.pane.show?.(place);
  } else mine.pane.hide?.();
}

function count(to: number): void {
  unseen = to;
  badge.hidden = unseen === 0;
  badge.textContent = unseen > 99 ? "99+" : String(unseen);
}

// The way out of everything that takes the keyboard.
addEventListener(
  "keydown",
  (event) => {
    if (event.ctrlKey && event.altKey && event.shiftKey && ["Control", "Alt", "Shift"].includes(event.key)) {
      dispatchEvent(new Event("release"));
      tabs.get(current?.name ?? "screen")?.focus();
    }
  },
  true,
);

addEventListener("hashchange", () => void go());
qmp.on("link", () => {
  void refresh();
  if (qmp.link === "ready") {
    void info().then(({ name }) => {
      title.textContent = name ?? "Ouzel";
      document.title = name ? `${name} · Ouzel` : "Ouzel";
    }, () => undefined);
  }
});
qmp.on("event", () => {
  if (current?.name !== "qmp") count(unseen + 1);
  void refresh();
});
setInterval(() => document.hidden || void refresh(), 5000);
paint("off", "Connecting");
qmp.connect();
void go();
