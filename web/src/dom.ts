// Elements, icons, menus, dialogs: what each pane is made of.

type Child = Node | string | null | undefined | false;
type Attributes = Record<string, string | number | boolean | null | undefined | ((event: Event) => void)>;

/** Makes an element. `onclick` and the like are listeners; `true` is an attribute without a value. */
export function h<K extends keyof HTMLElementTagNameMap>(
  name: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false));
  return element;
}

const PATHS: Record<string, string> = {
  screen: "M3 5h18v12H3zM8 21h8M12 17v4",
  terminal: "M3 4h18v16H3zM7 9l3 3-3 3M13 15h4",
  disks: "M4 6c0-1.700 3.600-3 8-3s8 1.300 8 3-3.600 3-8 3-8-1.300-8-3zM4 6v12c0 1.700 3.600 3 8 3s8-1.300 8-3V6M4 12c0 1.700 3.600 3 8 3s8-1.300 8-3",
  qmp: "M8 4c-3 0-3 2-3 4s0 4-2 4c2 0 2 2 2 4s0 4 3 4M16 4c3 0 3 2 3 4s0 4 2 4c-2 0-2 2-2 4s0 4-3 4",
  pause: "M8 5v14M16 5v14",
  play: "M7 4.500v15l12-7.500z",
  reset: "M4 12a8 8 0 1 0 2.500-5.800M4 4v5h5",
  power: "M12 3v9M6.300 6.800a8 8 0 1 0 11.400 0",
  quit: "M6 6l12 12M18 6L6 18",
  more: "M12 5h.010M12 12h.010M12 19h.010",
  fullscreen: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  fit: "M3 5h18v14H3zM8 10l-2 2 2 2M16 10l2 2-2 2M7 12h10",
  keyboard: "M2 6h20v12H2zM6 10h.010M10 10h.010M14 10h.010M18 10h.010M7 14h10",
  camera: "M3 7h4l2-3h6l2 3h4v13H3zM12 17a4 4 0 1 0 0-8 4 4 0 0 0 0 8z",
  paste: "M9 3h6v4H9zM9 5H5v16h14V5h-4M9 12h6M9 16h6",
  clear: "M4 7h16M9 7V4h6v3M6 7l1 14h10l1-14M10 11v6M14 11v6",
  save: "M12 3v12M7 10l5 5 5-5M4 20h16",
  link: "M10 14a4 4 0 0 0 6 .400l3-3a4 4 0 0 0-5.700-5.700L12 7M14 10a4 4 0 0 0-6-.400l-3 3a4 4 0 0 0 5.700 5.700L12 17",
  check: "M5 13l4 4L19 7",
  run: "M5 12h14M13 6l6 6-6 6",
  copy: "M9 9h11v12H9zM5 15H4V3h11v2",
};

export function icon(name: string): SVGSVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name] ?? "");
  svg.append(path);
  return svg;
}

/** A button with an icon; its label is shown where there is room. */
export function button(
  label: string,
  symbol: string | null,
  act: (event: Event) => void,
  more: Attributes = {},
): HTMLButtonElement {
  return h(
    "button",
    { type: "button", onclick: act, title: more["aria-label"] ? String(more["aria-label"]) : label, ...more },
    symbol ? icon(symbol) : null,
    h("span", { class: "label" }, label),
  );
}

export interface Item {
  label: string;
  hint?: string;
  danger?: boolean;
  checked?: boolean;
  act: () => void;
}

/** Shows a menu at a button. Arrow keys move, Escape and Tab leave. */
export function menu(anchor: HTMLElement, items: Item[]): void {
  document.querySelector<HTMLElement>(".menu")?.remove();
  const close = (back: boolean) => {
    list.remove();
    anchor.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside, true);
    if (back) anchor.focus();
  };
  const outside = (event: Event) => {
    if (!list.contains(event.target as Node) && !anchor.contains(event.target as Node)) close(false);
  };
  const entries = items.map((item) =>
    h(
      "button",
      {
        type: "button",
        role: item.checked === undefined ? "menuitem" : "menuitemradio",
        "aria-checked": item.checked === undefined ? null : String(item.checked),
        tabindex: -1,
        class: item.danger ? "danger" : null,
        onclick: () => {
          close(true);
          item.act();
        },
      },
      h("span", {}, item.label),
      item.checked ? icon("check") : item.hint ? h("span", { class: "hint" }, item.hint) : null,
    ),
  );
  const list = h(
    "div",
    {
      class: "menu",
      role: "menu",
      onkeydown: (event) => {
        const key = (event as KeyboardEvent).key;
        const at = entries.indexOf(document.activeElement as HTMLButtonElement);
        const to = { ArrowDown: at + 1, ArrowUp: at - 1 + entries.length, Home: 0, End: entries.length - 1 }[key];
        if (to !== undefined) entries[to % entries.length]?.focus();
        else if (key === "Escape" || key === "Tab") close(true);
        else return;
        event.preventDefault();
        event.stopPropagation();
      },
    },
    ...entries,
  );
  // Where everything else is hidden, the menu has to be in what is shown.
  (document.fullscreenElement ?? document.body).append(list);
  const place = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = list;
  const below = place.bottom + 6 + height <= innerHeight;
  list.style.left = `${Math.max(8, Math.min(place.left, innerWidth - width - 8))}px`;
  list.style.top = `${below ? place.bottom + 6 : Math.max(8, place.top - height - 6)}px`;
  anchor.setAttribute("aria-expanded", "true");
  document.addEventListener("pointerdown", outside, true);
  entries[0]?.focus();
}

/** A dialog; resolves to whether its main button was used. */
export function ask(title: string, body: Node | string, action: string, danger = false): Promise<boolean> {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title" },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "dialog-title" }, title),
        typeof body === "string" ? h("p", {}, body) : body,
        h(
          "div",
          { class: "buttons" },
          h("button", { value: "no", type: "submit" }, action === "Close" ? "" : "Cancel"),
          h("button", { value: "yes", class: danger ? "danger primary" : "primary", autofocus: !danger }, action),
        ),
      ),
    );
    if (action === "Close") dialog.querySelector("button[value=no]")?.remove();
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    (document.fullscreenElement ?? document.body).append(dialog);
    dialog.showModal();
  });
}

/** Tells something in passing. */
export function toast(text: string, problem = false): void {
  let place = document.querySelector<HTMLElement>(".toasts");
  if (!place) {
    place = h("div", { class: "toasts", role: "status", "aria-live": "polite" });
    document.body.append(place);
  }
  const note = h("div", { class: problem ? "toast problem" : "toast" }, text);
  place.append(note);
  setTimeout(() => note.remove(), problem ? 8000 : 4000);
}

/** Hands a file to the person. */
export function download(name: string, content: Blob): void {
  const url = URL.createObjectURL(content);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Time for file names. */
export function stamp(): string {
  return new Date().toISOString().slice(0, 19).replaceAll(":", "-");
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Bytes for people. */
export function bytes(value: number): string {
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 || Number.isInteger(value) ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}
