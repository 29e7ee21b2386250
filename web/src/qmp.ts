// A QMP session over a WebSocket, which comes back when it ends.

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export interface QmpEvent {
  event: string;
  data?: { [key: string]: Json };
  timestamp: { seconds: number; microseconds: number };
}
export class QmpError extends Error {
  constructor(
    readonly kind: string,
    text: string,
  ) {
    super(text);
  }
}

export type Link = "connecting" | "ready" | "lost" | "refused";
type Waiting = { resolve: (value: Json) => void; reject: (error: Error) => void };

export class Qmp extends EventTarget {
  link: Link = "connecting";
  /** The latest, the oldest first. */
  readonly events: QmpEvent[] = [];
  private socket: WebSocket | null = null;
  private waiting = new Map<number, Waiting>();
  private last = 0;
  private delay = 500;

  connect(): void {
    const socket = new WebSocket(address("/ws/qmp"));
    socket.binaryType = "arraybuffer";
    const decoder = new TextDecoder();
    let rest = "";
    this.socket = socket;
    socket.onmessage = (message) => {
      rest += decoder.decode(message.data as ArrayBuffer, { stream: true });
      const lines = rest.split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) if (line.trim()) this.take(line);
    };
    socket.onclose = () => void this.lost();
  }

  private async lost(): Promise<void> {
    this.socket = null;
    for (const { reject } of this.waiting.values()) reject(new Error("the connection has ended"));
    this.waiting.clear();
    let link: Link = "lost";
    try {
      if ((await fetch("/api/info")).status === 401) link = "refused";
    } catch {
      // Nobody there: the machine may have ended.
    }
    this.set(link);
    if (link === "lost") {
      setTimeout(() => this.connect(), this.delay);
      this.delay = Math.min(this.delay * 2, 10_000);
    }
  }

  private set(link: Link): void {
    this.link = link;
    this.dispatchEvent(new Event("link"));
  }

  private take(line: string): void {
    const message = JSON.parse(line) as Record<string, Json>;
    if ("QMP" in message) {
      void this.raw({ execute: "qmp_capabilities" }).then(() => {
        this.delay = 500;
        this.set("ready");
      });
    } else if ("event" in message) {
      const event = message as unknown as QmpEvent;
      this.events.push(event);
      if (this.events.length > 1000) this.events.shift();
      this.dispatchEvent(new CustomEvent("event", { detail: event }));
    } else {
      const waiting = this.waiting.get(Number(message.id));
      this.waiting.delete(Number(message.id));
      const error = message.error as { class: string; desc: string } | undefined;
      if (error) waiting?.reject(new QmpError(error.class, error.desc));
      else waiting?.resolve(message.return ?? null);
    }
  }

  /** Sends a request as it is, with an id of ours. */
  raw(request: Record<string, Json>): Promise<Json> {
    const { socket } = this;
    if (socket?.readyState !== WebSocket.OPEN) return Promise.reject(new Error("there is no connection"));
    this.last += 1;
    const id = this.last;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      socket.send(JSON.stringify({ ...request, id }));
    });
  }

  /** Runs a command. */
  run<T = Json>(execute: string, args?: Record<string, Json>): Promise<T> {
    return this.raw(args ? { execute, arguments: args } : { execute }) as Promise<T>;
  }

  on(name: "link", act: () => void): () => void;
  on(name: "event", act: (event: QmpEvent) => void): () => void;
  on(name: string, act: (event: QmpEvent) => void): () => void {
    const listener = (event: Event) => act((event as CustomEvent<QmpEvent>).detail);
    this.addEventListener(name, listener);
    return () => this.removeEventListener(name, listener);
  }
}

/** The address of a WebSocket of this server. */
export function address(path: string): string {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
}
