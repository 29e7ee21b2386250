// The guest's serial ports and consoles, in xterm.js.

import { FitAddon } from "@xterm/addon-fit";
import { Terminal, type ITheme } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { button, download, h, stamp } from "../dom";
import type { Context, Pane } from "../main";
import { address } from "../qmp";

const DARK: ITheme = {
  background: "#0b0f10",
  foreground: "#d9e1df",
  cursor: "#5fd0c5",
  selectionBackground: "#2f5e5a",
  black: "#1b2224",
  brightBlack: "#7d8a88",
  blue: "#6ea8fe",
  brightBlue: "#9cc3ff",
};
const LIGHT: ITheme = {
  background: "#fdfdfc",
  foreground: "#1c2322",
  cursor: "#0f6b66",
  selectionBackground: "#bfe3df",
  black: "#1c2322",
  red: "#b3261e",
  green: "#1f6f3a",
  yellow: "#7a5900",
  blue: "#1d4fa8",
  magenta: "#8a2a86",
  cyan: "#0b6672",
  white: "#5d6b69",
  brightBlack: "#5d6b69",
  brightRed: "#b3261e",
  brightGreen: "#1f6f3a",
  brightYellow: "#7a5900",
  brightBlue: "#1d4fa8",
  brightMagenta: "#8a2a86",
  brightCyan: "#0b6672",
  brightWhite: "#1c2322",
};

function colours(): ITheme {
  const kept = document.documentElement.dataset.theme;
  const dark = kept ? kept === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  return dark ? DARK : LIGHT;
}

interface Line {
  name: string;
  terminal: Terminal;
  fit: FitAddon;
  holder: HTMLElement;
  socket: WebSocket | null;
  tab: HTMLButtonElement;
  delay: number;
}

export function make({ info, move }: Context): Pane {
  const lines = new Map<string, Line>();
  let shown: Line | null = null;
  let ctrl = false;
  let size = Number(localStorage.getItem("terminal.size")) || (matchMedia("(max-width: 720px)").matches ? 12 : 14);

  const list = h("div", { class: "tabs", role: "tablist", "aria-label": "Terminals" });
  const empty = h("div", { class: "empty", hidden: true });
  const stage = h("div", { class: "terminals" });
  const send = (text: string) => {
    if (shown?.socket?.readyState === WebSocket.OPEN) shown.socket.send(new TextEncoder().encode(text));
  };
  const key = (label: string, text: string, spoken: string) =>
    button(label, null, () => (send(text), shown?.terminal.focus()), { class: "key", "aria-label": spoken });
  const control = button("Ctrl", null, () => {
    ctrl = !ctrl;
    control.setAttribute("aria-pressed", String(ctrl));
    shown?.terminal.focus();
  }, { class: "key", "aria-pressed": "false", "aria-label": "Ctrl for the next key" });
  const keys = h(
    "div",
    { class: "bar keys touch-only", role: "toolbar", "aria-label": "Keys" },
    key("Esc", "\x1b", "Escape"),
    key("Tab", "\t", "Tab"),
    control,
    key("^C", "\x03", "Ctrl C"),
    key("^D", "\x04", "Ctrl D"),
    key("←", "\x1b[D", "Left"),
    key("↑", "\x1b[A", "Up"),
    key("↓", "\x1b[B", "Down"),
    key("→", "\x1b[C", "Right"),
  );
  const dimensions = button("80 × 24", null, () => {
    if (!shown) return;
    // What a shell of the guest can't know by itself.
    send(`stty rows ${shown.terminal.rows} cols ${shown.terminal.cols}\r`);
    shown.terminal.focus();
  }, { class: "wide", "aria-label": "Tell a shell the terminal’s size (types stty)" });
  const resize = (by: number) => {
    size = Math.min(28, Math.max(8, size + by));
    localStorage.setItem("terminal.size", String(size));
    for (const { terminal } of lines.values()) terminal.options.fontSize = size;
    fit();
  };
  const bar = h(
    "div",
    { class: "bar" },
    list,
    h("span", { class: "gap" }),
    dimensions,
    button("A−", null, () => resize(-1), { class: "square", "aria-label": "Smaller text" }),
    button("A+", null, () => resize(1), { class: "square", "aria-label": "Larger text" }),
    button("Clear", "clear", () => shown?.terminal.clear(), { "aria-label": "Clear the terminal" }),
    button("Save", "save", () => shown && save(shown), { "aria-label": "Save the text" }),
  );
  const element = h("section", { class: "pane terminal", "aria-label": "Terminals" }, bar, empty, stage, keys);

  function save({ terminal, name }: Line): void {
    const buffer = terminal.buffer.normal;
    const rows = Array.from({ length: buffer.length }, (_, row) => buffer.getLine(row)?.translateToString(true) ?? "");
    download(`${name}-${stamp()}.txt`, new Blob([`${rows.join("\n").trimEnd()}\n`], { type: "text/plain" }));
  }

  function fit(): void {
    if (!shown || element.hidden) return;
    // Other line lengths make other numbers of rows: who saw the last one still does.
    const { active } = shown.terminal.buffer;
    const atEnd = active.viewportY >= active.baseY;
    shown.fit.fit();
    if (atEnd) shown.terminal.scrollToBottom();
    dimensions.querySelector(".label")!.textContent = `${shown.terminal.cols} × ${shown.terminal.rows}`;
  }

  function open(line: Line): void {
    const socket = new WebSocket(address(`/ws/serial/${encodeURIComponent(line.name)}`));
    socket.binaryType = "arraybuffer";
    line.socket = socket;
    socket.onopen = () => {
      line.delay = 500;
      // The past comes once more.
      line.terminal.reset();
      line.tab.classList.remove("off");
    };
    socket.onmessage = (message) => line.terminal.write(new Uint8Array(message.data as ArrayBuffer));
    socket.onclose = () => {
      line.socket = null;
      line.tab.classList.add("off");
      setTimeout(() => void update(), line.delay);
      line.delay = Math.min(line.delay * 2, 10_000);
    };
  }

  function add(name: string): Line {
    const terminal = new Terminal({
      fontSize: size,
      fontFamily: getComputedStyle(element).getPropertyValue("--mono"),
      theme: colours(),
      cursorBlink: false,
      scrollback: 5000,
      minimumContrastRatio: 4.5,
      // A reader of screens finds the lines where others see them.
      screenReaderMode: localStorage.getItem("terminal.reader") === "yes",
    });
    const fitter = new FitAddon();
    terminal.loadAddon(fitter);
    const holder = h("div", { class: "holder", role: "tabpanel", "aria-label": name, hidden: true });
    stage.append(holder);
    const tab = h("button", { type: "button", role: "tab", "aria-selected": "false", onclick: () => select(name, true) }, name);
    list.append(tab);
    const line: Line = { name, terminal, fit: fitter, holder, socket: null, tab, delay: 500 };
    terminal.onData((text) => {
      const code = text.charCodeAt(0);
      if (ctrl && text.length === 1 && code >= 0x40 && code < 0x80) {
        text = String.fromCharCode(code & 0x1f);
        control.click();
      }
      send(text);
    });
    lines.set(name, line);
    open(line);
    return line;
  }

  function select(name: string, focus: boolean): void {
    const line = lines.get(name);
    if (!line) return;
    for (const other of lines.values()) {
      other.holder.hidden = other !== line;
      other.tab.setAttribute("aria-selected", String(other === line));
      other.tab.tabIndex = other === line ? 0 : -1;
    }
    shown = line;
    if (!line.terminal.element) line.terminal.open(line.holder);
    move(name);
    fit();
    if (focus) line.terminal.focus();
  }

  list.addEventListener("keydown", (event) => {
    const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    const tabs = [...list.children] as HTMLElement[];
    const at = tabs.indexOf(document.activeElement as HTMLElement);
    if (by && at >= 0) tabs[(at + by + tabs.length) % tabs.length]?.focus();
  });

  /** Looks which terminals there are. */
  async function update(): Promise<void> {
    let names: string[];
    try {
      names = (await info()).terminals;
    } catch {
      setTimeout(() => void update(), 5000);
      return;
    }
    for (const [name, line] of lines) {
      if (!names.includes(name) && !line.socket) {
        line.terminal.dispose();
        line.holder.remove();
        line.tab.remove();
        lines.delete(name);
        if (shown === line) shown = null;
      }
    }
    for (const name of names) {
      const line = lines.get(name) ?? add(name);
      if (!line.socket) open(line);
    }
    empty.hidden = names.length > 0;
    stage.hidden = keys.hidden = bar.hidden = names.length === 0;
    if (!empty.hidden) {
      empty.replaceChildren(
        h("h2", {}, "No terminals"),
        h("p", {}, "The guest has no serial port or console on a character device. ", h("code", {}, "-serial null"), " gives it one that only this page sees."),
      );
    }
    if (!shown && names[0]) select(names[0], false);
  }

  new ResizeObserver(fit).observe(stage);
  addEventListener("themechange", () => {
    for (const { terminal } of lines.values()) terminal.options.theme = colours();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
  addEventListener("release", () => shown?.terminal.blur());
  return {
    element,
    show: (place) => {
      void update().then(() => {
        if (place && lines.has(place)) select(place, true);
        else {
          fit();
          shown?.terminal.focus();
        }
      });
    },
  };
}
