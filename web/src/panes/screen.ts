// The guest's screen and keyboard, through noVNC.

import RFB from "@novnc/novnc";
import { ask, button, download, h, menu, stamp, toast } from "../dom";
import type { Context, Pane } from "../main";
import { address } from "../qmp";

const CTRL = 0xffe3;
const ALT = 0xffe9;
const SUPER = 0xffeb;
const COMBINATIONS: [string, number[]][] = [
  ["Ctrl Alt Del", [CTRL, ALT, 0xffff]],
  ["Ctrl Alt Backspace", [CTRL, ALT, 0xff08]],
  ["Ctrl C", [CTRL, 0x63]],
  ["Alt Tab", [ALT, 0xff09]],
  ["Alt F4", [ALT, 0xffc1]],
  ["Super", [SUPER]],
  ["Esc", [0xff1b]],
  ["Tab", [0xff09]],
  ["Print Screen", [0xff61]],
  ["SysRq (Alt Print B)", [ALT, 0xff61, 0x62]],
  ...[1, 2, 3, 4, 5, 6, 7].map((n): [string, number[]] => [`Ctrl Alt F${n}`, [CTRL, ALT, 0xffbd + n]]),
];

/** The key symbol of a character (X11: Latin-1 as it is, others behind 0x01000000). */
function symbol(character: string): number {
  const code = character.codePointAt(0) ?? 0;
  if (character === "\n" || character === "\r") return 0xff0d;
  if (character === "\t") return 0xff09;
  if (code === 8) return 0xff08;
  return code < 0x100 ? code : 0x0100_0000 + code;
}

export function make(_context: Context): Pane {
  let rfb: RFB | null = null;
  let connected = false;
  let delay = 500;
  let timer = 0;
  let fits = localStorage.getItem("screen.fits") !== "no";

  const stage = h("div", { class: "stage" });
  const note = h("p", { class: "note", role: "status" }, "Connecting to the screen…");
  const frame = h("div", { class: "screen-frame" }, stage, note);

  const press = (keys: number[]) => {
    for (const key of keys) rfb?.sendKey(key, null, true);
    for (const key of [...keys].reverse()) rfb?.sendKey(key, null, false);
    rfb?.focus();
  };

  const keys = button("Keys", "keyboard", () => menu(keys, COMBINATIONS.map(([label, list]) => ({ label, act: () => press(list) }))), {
    "aria-haspopup": "menu",
    "aria-expanded": "false",
    class: "text",
  });
  const delete_ = button("Ctrl Alt Del", null, () => press([CTRL, ALT, 0xffff]), { class: "wide" });
  const paste = button("Type text", "paste", () => void typeText());
  const shot = button("Screenshot", "camera", () => {
    rfb?.toBlob((blob) => blob && download(`screen-${stamp()}.png`, blob), "image/png");
  });
  const fit = button(
    "Fit",
    "fit",
    () => {
      fits = !fits;
      localStorage.setItem("screen.fits", fits ? "yes" : "no");
      scale();
    },
    { "aria-label": "Fit the screen into the window" },
  );
  const full = button("Full screen", "fullscreen", () => {
    if (document.fullscreenElement) void document.exitFullscreen();
    else void element.requestFullscreen?.().then(() => rfb?.focus(), (error: Error) => toast(error.message, true));
  });

  // Touch screens show their keyboard for a field of text only: what is typed there goes to the guest.
  const field = h("textarea", {
    class: "ghost",
    "aria-label": "Type to the guest",
    autocapitalize: "off",
    autocomplete: "off",
    spellcheck: "false",
    tabindex: -1,
  });
  const FILLER = "········";
  const refill = () => {
    field.value = FILLER;
    field.setSelectionRange(FILLER.length, FILLER.length);
  };
  field.addEventListener("input", () => {
    const { value } = field;
    let same = 0;
    while (same < FILLER.length && value[same] === FILLER[same]) same += 1;
    for (let left = FILLER.length - same; left > 0; left -= 1) rfb?.sendKey(0xff08, null);
    for (const character of value.slice(same)) rfb?.sendKey(symbol(character), null);
    refill();
  });
  const touch = button("Keyboard", "keyboard", () => (refill(), field.focus()), { class: "touch-only", "aria-label": "On-screen keyboard" });

  async function typeText(): Promise<void> {
    const text = h("textarea", { rows: 6, "aria-label": "Text", autofocus: true, spellcheck: "false" });
    const body = h("div", {}, h("p", {}, "The text is typed on the guest’s keyboard, key by key."), text);
    if (!(await ask("Type text", body, "Type it"))) return;
    for (const character of text.value.replaceAll("\r\n", "\n")) {
      rfb?.sendKey(symbol(character), null);
      // A keyboard’s buffer is small.
      await new Promise((done) => setTimeout(done, 25));
    }
    rfb?.focus();
  }

  const bar = h(
    "div",
    { class: "bar", role: "toolbar", "aria-label": "Screen" },
    delete_,
    keys,
    touch,
    paste,
    shot,
    h("span", { class: "gap" }),
    h("span", { class: "quiet wide" }, h("kbd", {}, "Ctrl"), h("kbd", {}, "Alt"), h("kbd", {}, "Shift"), " frees the keyboard"),
    fit,
    full,
  );
  const element = h("section", { class: "pane screen", "aria-label": "Screen" }, bar, frame, field);

  function scale(): void {
    fit.setAttribute("aria-pressed", String(fits));
    if (!rfb) return;
    rfb.scaleViewport = fits;
    rfb.clipViewport = false;
    frame.classList.toggle("scrolls", !fits);
  }

  function connect(): void {
    if (rfb) return;
    rfb = new RFB(stage, address("/ws/vnc"), { shared: true });
    rfb.background = "transparent";
    rfb.focusOnClick = true;
    scale();
    rfb.addEventListener("connect", () => {
      connected = true;
      delay = 500;
      note.hidden = true;
      stage.querySelector("canvas")?.setAttribute("aria-label", "The guest’s screen: keys go to the guest while it has the focus");
      if (!element.hidden && document.activeElement === document.body) rfb?.focus({ preventScroll: true });
    });
    rfb.addEventListener("disconnect", () => {
      rfb = null;
      note.textContent = connected ? "The connection to the screen has ended. Trying again…" : "The screen can’t be reached. Trying again…";
      note.hidden = false;
      connected = false;
      if (!element.hidden) timer = window.setTimeout(connect, delay);
      delay = Math.min(delay * 2, 10_000);
    });
  }

  addEventListener("release", () => rfb?.blur());
  return {
    element,
    show: () => {
      clearTimeout(timer);
      connect();
    },
    hide: () => rfb?.blur(),
  };
}

