// What `query-qmp-schema` tells: commands, their arguments, and what may stand where the cursor is.

import type { Json } from "./qmp";

interface Member {
  name: string;
  type: string;
  default?: Json;
  features?: string[];
}
type Entry = { name: string; features?: string[] } & (
  | { "meta-type": "command"; "arg-type": string; "ret-type": string; "allow-oob"?: boolean }
  | { "meta-type": "event"; "arg-type": string }
  | { "meta-type": "object"; members: Member[]; tag?: string; variants?: { case: string; type: string }[] }
  | { "meta-type": "enum"; values?: string[]; members?: { name: string }[] }
  | { "meta-type": "array"; "element-type": string }
  | { "meta-type": "alternate"; members: { type: string }[] }
  | { "meta-type": "builtin"; "json-type": string }
);

export interface Argument {
  name: string;
  type: string;
  required: boolean;
  /** What the schema says of its default. */
  standard: Json | undefined;
  deprecated: boolean;
  /** Which case of which other argument has it. */
  when: string;
  /** The cases in which it has to be there. */
  neededIn: Set<string>;
}

/** The value that is given to the argument which chooses a variant. */
function chosen(one: Argument, prefix: string, pairs: string[]): string | undefined {
  const tag = `${prefix}${one.when.split("=")[0]}=`;
  return pairs.find((pair) => pair.startsWith(tag))?.slice(tag.length);
}

/** Whether an argument has a meaning beside what is given: those of other variants have none. */
export function applies(one: Argument, prefix: string, pairs: string[]): boolean {
  const value = one.when && chosen(one, prefix, pairs);
  return !value || (one.when.split("=")[1] ?? "").split(", ").includes(value);
}

/** Whether the command can't do without it. */
export function isNeeded(one: Argument, prefix: string, pairs: string[]): boolean {
  return one.when ? one.neededIn.has(chosen(one, prefix, pairs) ?? "") : one.required;
}

/** Whether it is known by what is given that it belongs there. */
export function isChosen(one: Argument, prefix: string, pairs: string[]): boolean {
  return !one.when || chosen(one, prefix, pairs) !== undefined;
}

export class Schema {
  private readonly entries = new Map<string, Entry>();
  readonly commands: string[] = [];
  readonly events: string[] = [];

  constructor(list: Json) {
    for (const entry of list as unknown as Entry[]) {
      this.entries.set(entry.name, entry);
      if (entry["meta-type"] === "command") this.commands.push(entry.name);
      if (entry["meta-type"] === "event") this.events.push(entry.name);
    }
    this.commands.sort();
    this.events.sort();
  }

  command(name: string): { arguments: Argument[]; returns: string; deprecated: boolean } | null {
    const entry = this.entries.get(name);
    if (entry?.["meta-type"] !== "command") return null;
    return {
      arguments: this.members(entry["arg-type"]),
      returns: this.describe(entry["ret-type"]),
      deprecated: entry.features?.includes("deprecated") ?? false,
    };
  }

  /** The members of an object, those of its variants behind them. */
  members(type: string): Argument[] {
    const entry = this.entries.get(type);
    if (entry?.["meta-type"] !== "object") return [];
    const plain = (list: Member[], when: string): Argument[] =>
      list.map(({ name, type, default: standard, features, ...rest }) => ({
        name,
        type,
        required: standard === undefined && !("default" in rest),
        standard,
        deprecated: features?.includes("deprecated") ?? false,
        when,
        neededIn: new Set<string>(),
      }));
    const own = plain(entry.members, "");
    const found = new Map<string, Argument>();
    for (const variant of entry.variants ?? []) {
      for (const member of this.members(variant.type)) {
        let known = found.get(member.name);
        if (known) known.when += `, ${variant.case}`;
        else found.set(member.name, (known = { ...member, required: false, when: `${entry.tag}=${variant.case}`, neededIn: new Set() }));
        if (member.required) known.neededIn.add(variant.case);
      }
    }
    own.sort((a, b) => Number(b.required) - Number(a.required));
    return [...own, ...found.values()];
  }

  /** The values of an enumeration. */
  values(type: string): string[] | null {
    const entry = this.entries.get(type);
    if (entry?.["meta-type"] === "enum") return entry.values ?? entry.members?.map((member) => member.name) ?? [];
    if (entry?.["meta-type"] === "alternate") {
      const lists = entry.members.map((member) => this.values(member.type)).filter((list) => list !== null);
      return lists.length > 0 ? lists.flat() : null;
    }
    if (entry?.["meta-type"] === "builtin" && entry["json-type"] === "boolean") return ["true", "false"];
    return null;
  }

  /** A type in a word or a few. */
  describe(type: string, depth = 0): string {
    const entry = this.entries.get(type);
    switch (entry?.["meta-type"]) {
      case "builtin":
        return { int: "integer", value: "anything" }[entry["json-type"]] ?? entry["json-type"];
      case "enum": {
        const values = this.values(type) ?? [];
        return values.length <= 6 ? values.join(" | ") : `${values.slice(0, 5).join(" | ")} | … (${values.length})`;
      }
      case "array":
        return `list of ${this.describe(entry["element-type"], depth)}`;
      case "alternate":
        return entry.members.map((member) => this.describe(member.type, depth + 1)).join(" or ");
      case "object": {
        const members = this.members(type);
        if (members.length === 0) return "{}";
        if (depth > 0 || members.length > 8) return "object";
        return `{ ${members.map((member) => `${member.name}${member.required ? "" : "?"}`).join(", ")} }`;
      }
      default:
        return "";
    }
  }

  /** The type at a dotted path of a command's arguments. */
  at(command: string, path: string): string | null {
    const entry = this.entries.get(command);
    if (entry?.["meta-type"] !== "command") return null;
    let type: string | null = entry["arg-type"];
    for (const part of path ? path.split(".") : []) {
      const holder: Entry | undefined = type ? this.entries.get(type) : undefined;
      if (holder?.["meta-type"] === "array") type = holder["element-type"];
      else type = (type && this.members(type).find((member) => member.name === part)?.type) || null;
    }
    return type;
  }

  isObject(type: string): boolean {
    return this.entries.get(type)?.["meta-type"] === "object";
  }

  /** A word as the value that its type wants. */
  value(type: string | null, text: string): Json {
    const entry = type ? this.entries.get(type) : undefined;
    const kinds = new Set<string>();
    const collect = (one: Entry | undefined): void => {
      if (one?.["meta-type"] === "builtin") kinds.add(one["json-type"]);
      else if (one?.["meta-type"] === "enum") kinds.add("string");
      else if (one?.["meta-type"] === "alternate") for (const member of one.members) collect(this.entries.get(member.type));
      else kinds.add("json");
    };
    collect(entry);
    if (kinds.has("boolean") && /^(on|off|true|false|yes|no)$/.test(text)) return /^(on|true|yes)$/.test(text);
    const number = Number(text);
    if ((kinds.has("int") || kinds.has("number")) && text !== "" && Number.isFinite(number)) return number;
    if (kinds.has("null") && text === "null") return null;
    if (kinds.has("json") || kinds.has("value")) {
      try {
        return JSON.parse(text) as Json;
      } catch {
        if (kinds.has("json") && entry) throw new Error(`'${text}' is no JSON; its type wants ${this.describe(type ?? "")}`);
      }
    }
    return text;
  }
}

/** Words, with quotes and brackets kept together; the last may be unfinished. */
export function words(text: string): { text: string; start: number }[] {
  const found: { text: string; start: number }[] = [];
  let [word, start, quote, depth] = ["", -1, "", 0];
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at] as string;
    if (quote) {
      if (character === "\\" && at + 1 < text.length) {
        word += character + text[at + 1];
        at += 1;
        continue;
      }
      if (character === quote) quote = "";
    } else if (character === '"') quote = character;
    else if ("{[".includes(character)) depth += 1;
    else if ("}]".includes(character)) depth -= 1;
    else if (/\s/.test(character) && depth <= 0) {
      if (start >= 0) found.push({ text: word, start });
      [word, start] = ["", -1];
      continue;
    }
    if (start < 0) start = at;
    word += character;
  }
  found.push({ text: word, start: start < 0 ? text.length : start });
  return found;
}

/** A line of the prompt as a request: JSON as it is, or `command name=value object.member=value`. */
export function request(schema: Schema | null, line: string): Record<string, Json> {
  const trimmed = line.trim();
  if (trimmed.startsWith("{")) {
    const parsed = JSON.parse(trimmed) as Record<string, Json>;
    if (typeof parsed.execute !== "string" && typeof parsed["exec-oob"] !== "string") throw new Error("there is no 'execute' in it");
    delete parsed.id;
    return parsed;
  }
  const [command, ...pairs] = words(trimmed).filter((word) => word.text !== "");
  const args: Record<string, Json> = {};
  for (const { text } of pairs) {
    const split = text.indexOf("=");
    if (split < 1) throw new Error(`'${text}' is not of the form name=value`);
    const path = text.slice(0, split);
    let raw = text.slice(split + 1);
    const isQuoted = raw.startsWith('"');
    if (isQuoted) raw = JSON.parse(raw) as string;
    const type = schema?.at(command?.text ?? "", path) ?? null;
    const value = isQuoted ? raw : schema && type ? schema.value(type, raw) : guess(raw);
    const parts = path.split(".");
    let holder = args;
    for (const part of parts.slice(0, -1)) {
      const next = holder[part];
      if (typeof next !== "object" || next === null || Array.isArray(next)) holder[part] = {};
      holder = holder[part] as Record<string, Json>;
    }
    holder[parts.at(-1) ?? ""] = value;
  }
  const execute = command?.text ?? "";
  return pairs.length > 0 ? { execute, arguments: args } : { execute };
}

function guess(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return text;
  }
}
