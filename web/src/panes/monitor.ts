// A QMP monitor for people: a prompt with completion and documentation from the schema, and the stream of events.

import { button, h, icon, toast } from "../dom";
import type { Context, Pane } from "../main";
import { QmpError, type Json, type QmpEvent } from "../qmp";
import { Schema, applies, isChosen, isNeeded, request, words } from "../schema";

interface Choice {
  text: string;
  hint: string;
  /** What is put behind it. */
  after: string;
}

const HISTORY_MAX = 200;

export function make({ qmp }: Context): Pane {
  let schema: Schema | null = null;
  let choices: Choice[] = [];
  let chosen = -1;
  let from = 0;
  let past: string[] = JSON.parse(localStorage.getItem("qmp.history") ?? "[]") as string[];
  let at = past.length;
  let draft = "";

  // ---- the prompt

  const input = h("input", {
    id: "prompt",
    class: "prompt",
    type: "text",
    role: "combobox",
    "aria-label": "QMP command",
    "aria-autocomplete": "list",
    "aria-controls": "choices",
    "aria-expanded": "false",
    placeholder: "command name=value … or JSON",
    autocapitalize: "off",
    autocomplete: "off",
    autocorrect: "off",
    spellcheck: "false",
    enterkeyhint: "send",
  });
  const list = h("ul", { id: "choices", class: "choices", role: "listbox", "aria-label": "Completions", hidden: true });
  const documentation = h("div", { class: "documentation", "aria-live": "polite" });
  const log = h("div", { class: "log", role: "log", "aria-label": "Replies", tabindex: 0 });
  const hint = h("div", { class: "empty" }, h("h2", {}, "Talk to the machine"), h("p", {}, "Type a command: completions come from the machine’s own schema. ", h("kbd", {}, "Tab"), " takes one, ", h("kbd", {}, "↑"), " brings earlier commands back."));
  log.append(hint);
  const run = button("Run", "run", () => void execute(), { class: "primary" });

  async function load(): Promise<void> {
    if (schema || qmp.link !== "ready") return;
    try {
      schema = new Schema(await qmp.run("query-qmp-schema"));
      complete();
    } catch {
      // Without it there is a prompt still.
    }
  }

  async function live(kind: string): Promise<string[]> {
    type Named = Record<string, Json>;
    const names = (value: Json, key: string) => (value as Named[]).map((one) => one[key]).filter((name): name is string => typeof name === "string" && name !== "");
    switch (kind) {
      case "device":
        return names(await qmp.run("query-block"), "device");
      case "node-name":
        return names(await qmp.run("query-named-block-nodes"), "node-name");
      case "job":
        return names(await qmp.run("query-jobs"), "id");
      default:
        return names(await qmp.run("query-chardev"), "label");
    }
  }

  /** The things of the machine that an argument of that name may mean. */
  function kindOf(command: string, name: string): string | null {
    if (/^(node-name|node|base-node|top-node|backing|file|snapshot-node-name|replaces)$/.test(name)) return "node-name";
    if (name === "device" || name === "target") return command.startsWith("ringbuf") ? "chardev" : command.startsWith("block-job") ? "job" : "device";
    if (name === "id" && /^(job-|chardev-)/.test(command)) return command.startsWith("job-") ? "job" : "chardev";
    return null;
  }

  let round = 0;
  function complete(): void {
    round += 1;
    const mine = round;
    const text = input.value.slice(0, input.selectionStart ?? input.value.length);
    if (!schema || text.trimStart().startsWith("{") || text.trim() === "") {
      offer([], 0);
      document_(text);
      return;
    }
    const all = words(text);
    const last = all.at(-1) ?? { text: "", start: 0 };
    const command = all[0]?.text ?? "";
    document_(text);
    if (all.length === 1) {
      const order = (name: string) => (name.startsWith(last.text) ? 0 : 1);
      const found = schema.commands.filter((name) => name.includes(last.text) && name !== last.text);
      found.sort((a, b) => order(a) - order(b) || a.localeCompare(b));
      const argumentsOf = (name: string) => schema?.command(name)?.arguments ?? [];
      const signature = (name: string) => argumentsOf(name).map((one) => (one.required ? one.name : `[${one.name}]`)).join(" ");
      offer(found.map((name) => ({ text: name, hint: signature(name), after: argumentsOf(name).length > 0 ? " " : "" })), last.start);
      return;
    }
    const split = last.text.indexOf("=");
    if (split < 0) {
      const path = last.text.split(".").slice(0, -1).join(".");
      const prefix = path ? `${path}.` : "";
      const type = schema.at(command, path);
      const given = new Set(all.slice(1, -1).map((word) => word.text.split("=")[0]));
      const known = schema;
      const pairs = all.slice(1, -1).map((word) => word.text);
      const found = (type ? schema.members(type) : []).filter((one) => `${prefix}${one.name}`.startsWith(last.text) && !given.has(prefix + one.name) && applies(one, prefix, pairs));
      const needed = new Set(found.filter((one) => isNeeded(one, prefix, pairs)));
      found.sort((a, b) => Number(needed.has(b)) - Number(needed.has(a)));
      offer(
        found.map((one) => ({
          text: prefix + one.name,
          hint: `${known.describe(one.type, 1)}${needed.has(one) ? " · required" : ""}${isChosen(one, prefix, pairs) ? "" : ` · ${one.when}`}`,
          after: known.isObject(one.type) ? "." : "=",
        })),
        last.start,
      );
      return;
    }
    const [path, word] = [last.text.slice(0, split), last.text.slice(split + 1)];
    const type = schema.at(command, path);
    const start = last.start + split + 1;
    const fitting = (values: string[], hint: string) => values.filter((value) => value.startsWith(word) && value !== word).map((value) => ({ text: value, hint, after: " " }));
    const values = type ? schema.values(type) : null;
    const kind = kindOf(command, path.split(".").at(-1) ?? "");
    offer(fitting(values ?? [], ""), start);
    if (kind) {
      void live(kind).then((names) => {
        if (mine === round) offer(fitting([...new Set([...names, ...(values ?? [])])], kind), start);
      }, () => undefined);
    }
  }

  function offer(found: Choice[], start: number): void {
    choices = found.slice(0, 60);
    from = start;
    chosen = -1;
    list.replaceChildren(
      ...choices.map((choice, index) =>
        h(
          "li",
          { id: `choice-${index}`, role: "option", "aria-selected": "false", onpointerdown: (event) => (event.preventDefault(), take(index)) },
          h("span", {}, choice.text),
          h("small", {}, choice.hint),
        ),
      ),
    );
    const open = choices.length > 0 && document.activeElement === input;
    list.hidden = !open;
    input.setAttribute("aria-expanded", String(open));
    input.removeAttribute("aria-activedescendant");
  }

  function mark(index: number): void {
    list.children[chosen]?.setAttribute("aria-selected", "false");
    chosen = (index + choices.length) % choices.length;
    const item = list.children[chosen];
    item?.setAttribute("aria-selected", "true");
    item?.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", `choice-${chosen}`);
    const choice = choices[chosen];
    if (choice && schema?.command(choice.text)) document_(choice.text);
  }

  function take(index: number): void {
    const choice = choices[index];
    if (!choice) return;
    const behind = input.value.slice(input.selectionStart ?? input.value.length);
    const head = input.value.slice(0, from) + choice.text + choice.after;
    input.value = head + behind;
    input.setSelectionRange(head.length, head.length);
    input.focus();
    complete();
  }

  /** What is known of the command in the line. */
  function document_(text: string): void {
    const name = words(text)[0]?.text ?? "";
    const command = schema?.command(name);
    if (!schema || !command) {
      documentation.replaceChildren();
      return;
    }
    const known = schema;
    const pairs = words(text).map((word) => word.text);
    const shown = command.arguments.filter((one) => applies(one, "", pairs));
    shown.sort((a, b) => Number(isNeeded(b, "", pairs)) - Number(isNeeded(a, "", pairs)));
    const current = (words(text).at(-1)?.text ?? "").split("=")[0]?.split(".")[0];
    documentation.replaceChildren(
      h(
        "div",
        { class: "doc-head" },
        h("code", {}, name),
        command.returns && command.returns !== "{}" ? h("span", { class: "quiet" }, `returns ${command.returns}`) : h("span", { class: "quiet" }, "returns nothing"),
        command.deprecated ? h("span", { class: "chip bad" }, "deprecated") : null,
      ),
      command.arguments.length === 0
        ? h("p", { class: "quiet" }, "It takes no arguments.")
        : h(
            "table",
            {},
            h("tbody", {},
              ...shown.slice(0, 60).map((one) =>
                h(
                  "tr",
                  { class: one.name === current ? "current" : null },
                  h("th", { scope: "row" }, one.name),
                  h("td", {}, known.describe(one.type)),
                  h(
                    "td",
                    { class: "quiet" },
                    isNeeded(one, "", pairs) ? "required" : one.standard !== null && one.standard !== undefined ? `default ${JSON.stringify(one.standard)}` : "optional",
                    isChosen(one, "", pairs) ? "" : ` · ${one.when}`,
                    one.deprecated ? " · deprecated" : "",
                  ),
                ),
              ),
            ),
          ),
    );
  }

  // What was said last stays in sight while the rest grows and shrinks.
  let sticks = true;
  log.addEventListener("scroll", () => (sticks = log.scrollHeight - log.scrollTop - log.clientHeight < 8));
  new ResizeObserver(() => sticks && log.scrollTo(0, log.scrollHeight)).observe(log);

  function remember(line: string): void {
    past = [...past.filter((old) => old !== line), line].slice(-HISTORY_MAX);
    localStorage.setItem("qmp.history", JSON.stringify(past));
    at = past.length;
  }

  async function execute(): Promise<void> {
    const line = input.value.trim();
    if (!line) return;
    remember(line);
    input.value = "";
    offer([], 0);
    documentation.replaceChildren();
    hint.remove();
    const reply = h("pre", { class: "reply waiting" }, "…");
    const said = h("code", {}, line);
    const again = button("Again", null, () => {
      input.value = line;
      input.focus();
      complete();
    }, { class: "bare", "aria-label": "Put this command into the prompt" });
    const entry = h("article", { class: "entry" }, h("div", { class: "said" }, icon("run"), said, again), reply);
    log.append(entry);
    while (log.children.length > 200) log.firstChild?.remove();
    const end = () => log.scrollTo(0, log.scrollHeight);
    end();
    const started = performance.now();
    try {
      const result = await qmp.raw(request(schema, line));
      const text = JSON.stringify(result, null, 2);
      reply.textContent = text === "{}" ? "Done." : text;
      if (text !== "{}") {
        again.after(button("Copy", "copy", () => void navigator.clipboard?.writeText(text).then(() => toast("Copied")), { class: "bare", "aria-label": "Copy the reply" }));
      }
      reply.classList.add(text === "{}" ? "done" : "value");
    } catch (error) {
      reply.textContent = error instanceof QmpError ? `${error.kind}: ${error.message}` : (error as Error).message;
      reply.classList.add("failed");
    }
    reply.classList.remove("waiting");
    again.before(h("small", { class: "quiet" }, `${Math.max(1, Math.round(performance.now() - started))} ms`));
    end();
  }

  input.addEventListener("input", complete);
  input.addEventListener("click", complete);
  input.addEventListener("focus", () => void load());
  input.addEventListener("blur", () => offer([], 0));
  input.addEventListener("keydown", (event) => {
    const open = !list.hidden;
    const { key } = event;
    if (key === "Enter") {
      if (open && chosen >= 0) take(chosen);
      else void execute();
    } else if (key === "Tab" && !event.shiftKey && open) take(Math.max(0, chosen));
    else if (key === "Escape" && open) offer([], 0);
    else if (key === " " && event.ctrlKey) complete();
    else if (key === "ArrowDown" && open) mark(chosen + 1);
    else if (key === "ArrowUp" && open && chosen >= 0) mark(chosen - 1);
    else if ((key === "ArrowUp" || key === "ArrowDown") && (!open || input.value === past[at])) recall(key === "ArrowUp" ? -1 : 1);
    else return;
    event.preventDefault();
  });

  function recall(by: number): void {
    if (at === past.length) draft = input.value;
    at = Math.min(past.length, Math.max(0, at + by));
    input.value = past[at] ?? draft;
    offer([], 0);
    document_(input.value);
  }

  // ---- events

  const NO_EVENTS = "No events since this page was opened.";
  const rows = h("ol", { class: "events", "aria-label": "Events, the latest first", tabindex: 0 });
  const none = h("p", { class: "empty small" }, NO_EVENTS);
  const filter = h("input", { type: "search", placeholder: "Filter events", "aria-label": "Filter events", autocapitalize: "off", spellcheck: "false" });
  const held = h("input", { type: "checkbox", id: "held" });
  let since = 0;

  function row(event: QmpEvent): HTMLElement {
    const time = new Date(event.timestamp.seconds * 1000 + event.timestamp.microseconds / 1000);
    const data = event.data ? JSON.stringify(event.data) : "";
    const clock = `${time.toLocaleTimeString([], { hour12: false })}.${String(time.getMilliseconds()).padStart(3, "0")}`;
    return h("li", {}, h("time", { datetime: time.toISOString() }, clock), h("strong", {}, event.event), data && h("code", {}, data));
  }

  const fits = (event: QmpEvent) => {
    const wanted = filter.value.trim().toLowerCase();
    return !wanted || `${event.event} ${JSON.stringify(event.data ?? {})}`.toLowerCase().includes(wanted);
  };
  function list_(): void {
    const found = qmp.events.slice(since).filter(fits);
    rows.replaceChildren(...found.reverse().map(row));
    none.hidden = found.length > 0;
    none.textContent = qmp.events.length > since ? "No event fits the filter." : NO_EVENTS;
  }
  filter.addEventListener("input", list_);
  held.addEventListener("change", () => held.checked || list_());
  qmp.on("event", (event) => {
    if (held.checked || !fits(event)) return;
    rows.prepend(row(event));
    none.hidden = true;
    while (rows.children.length > 1000) rows.lastChild?.remove();
  });

  const talk = h("div", { class: "talk" }, log, documentation, list, h("div", { class: "prompt-line" }, input, run));
  const stream = h(
    "div",
    { class: "stream" },
    h(
      "div",
      { class: "bar" },
      h("h2", {}, "Events"),
      filter,
      h("label", { for: "held", class: "hold" }, held, " Hold"),
      button("Clear", "clear", () => ((since = qmp.events.length), list_()), { "aria-label": "Clear the events" }),
    ),
    none,
    rows,
  );
  const element = h("section", { class: "pane monitor", "aria-label": "QMP" }, talk, stream);
  list_();
  qmp.on("link", () => void load());
  return {
    element,
    show: () => {
      void load();
      if (matchMedia("(pointer: fine)").matches) input.focus();
    },
  };
}
