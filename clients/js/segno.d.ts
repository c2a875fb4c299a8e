/** JSON that an event carries. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** A stored event. */
export interface Event<Data = any> {
  /** Its position in the event log. */
  id: number;
  topic: string;
  type: string;
  data: Data;
  /** RFC 3339, UTC, with milliseconds. */
  created_at: string;
  key?: string;
}

/** An event to publish. The topic is `events` and the type `message` if not given. */
export interface NewEvent {
  data: unknown;
  topic?: string;
  type?: string;
  /** Your own name for it: the same key again on the same topic is not a second event. */
  key?: string;
}

export interface Stored {
  id: number;
  /** Whether its key was published before, so that nothing was added. */
  duplicate: boolean;
}

/** Events that were asked for and are gone. */
export interface Gap {
  reason: "trimmed" | "ahead" | "lost" | "unknown";
  requested: number | null;
  first_id: number;
  last_id: number;
}

/** Why the hub refused: `application/problem+json` (RFC 9457). */
export interface Problem {
  title: string;
  status: number;
  code: string;
  detail: string;
}

/** A cursor, and the id of the event log that it is of. */
export interface Kept {
  cursor: number | string;
  log?: string;
}

/** Where a cursor outlives the page or the process. */
export interface CursorStore {
  load(): Kept | undefined | Promise<Kept | undefined>;
  save(kept: Kept): void | Promise<void>;
}

export interface Options {
  /** Sent as `Authorization: Bearer`. A function is asked before each request. */
  token?: string | (() => string | undefined | Promise<string | undefined>);
  headers?: Record<string, string>;
  /** Reads JSON in place of `JSON.parse`, which does not keep every digit of a number. */
  parse?: (text: string) => any;
  fetch?: typeof fetch;
}

export interface Filter {
  /** Names or patterns; all if not given. */
  topic?: string | string[];
  type?: string | string[];
}

export interface FollowOptions extends Filter {
  /** `"15m"`, an RFC 3339 time, or `"start"`. Give one of `since`, `last` and `after`, or none for now. */
  since?: string;
  last?: number;
  after?: number;
  store?: CursorStore;
  signal?: AbortSignal;
  /** Milliseconds of silence after which the connection counts as dead; 60,000 if not given. */
  silenceMs?: number;
  onGap?: (gap: Gap) => void;
  /** Refused for now; it comes back by itself. */
  onRefused?: (problem: Problem) => void;
  onExpired?: (expired: { reason: string }) => void;
  onErased?: (event: Event) => void;
  /** A stream is open, the first or a later one. */
  onOpen?: () => void;
  /** It was cut or refused, and is asked for again after `waitMs`. */
  onCut?: (cut: { waitMs: number }) => void;
  /** All up to this id was given, or does not match. */
  onCursor?: (cursor: number) => void;
}

export interface HistoryOptions extends Filter {
  after?: number;
  before?: number;
  since?: string;
  until?: string;
  order?: "asc" | "desc";
  pageEvents?: number;
  /** Events that should be among them are gone. */
  onGap?: (gap: Gap) => void;
  signal?: AbortSignal;
}

export class Segno {
  constructor(url?: string | URL, options?: Options);
  publish(
    data: unknown,
    options?: Omit<NewEvent, "data"> & { retryForMs?: number; signal?: AbortSignal },
  ): Promise<Stored>;
  publishMany(
    events: Iterable<NewEvent> | AsyncIterable<NewEvent>,
    options?: { batchEvents?: number; retryForMs?: number; signal?: AbortSignal },
  ): Promise<Stored[]>;
  follow<Data = any>(options?: FollowOptions): AsyncGenerator<Event<Data>, void, undefined>;
  followWith<Data = any>(
    handle: (event: Event<Data>) => unknown,
    options?: FollowOptions,
  ): { done: Promise<void>; stop(): void };
  history<Data = any>(options?: HistoryOptions): AsyncGenerator<Event<Data>, void, undefined>;
  event<Data = any>(id: number, options?: { signal?: AbortSignal }): Promise<Event<Data>>;
}

/** The hub refused for good. */
export class Refused extends Error {
  readonly status: number;
  readonly code: string | undefined;
  readonly problem: Problem | undefined;
}
/** An event could not be published in time. */
export class GaveUp extends Error {}
/** The stored cursor is of another event log. */
export class LogChanged extends Error {}

export function browserStore(key: string, storage?: Storage): CursorStore;
export function fileStore(path: string): CursorStore;
