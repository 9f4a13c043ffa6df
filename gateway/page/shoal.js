// The JavaScript client of a Shoal cluster: one file, for a browser or for anything that has fetch (Node 18, Deno, Bun).
//
//   import { Shoal, ShoalError } from "https://shoal.example.org/page/shoal.js";
//
//   const shoal = new Shoal("https://shoal.example.org", { apiKey });
//   const { answer, way, timings } = await shoal.predict(blob, { model: "lite0", top_k: 3 });
//
// new Shoal(baseUrl, { apiKey, timeout, fetch })
//   baseUrl is a gateway; timeout is how long a whole call may take, in milliseconds (30,000).
//
// predict(image, { model, version, label, key, top_k, options, priority, mode, timeout, signal })
//   image is a Blob or File, an ArrayBuffer or typed array, or { url: "https://photos.example.org/cat.jpg" }.
//   mode "auto" asks the gateway where to (lookup), uploads straight to that worker, and falls back to the gateway
//   when the worker cannot be reached, or does not let this page's origin in. "direct" does not fall back; "proxy" sends
//   through the gateway at once. What was refused and may be retried is retried once, after another lookup, and not
//   before Retry-After says so. At most two uploads may have been executed.
//   Resolves to { answer, way, timings, worker, model, version, requestId }: way is "direct" or "proxy"; timings are
//   [{ stage, ms }], in order: lookup, network, the worker's own stages, and last the total.
//   Rejects with a ShoalError, or with signal.reason when the caller gave up.
//
// status()            the gateway's document of workers and models
// drain(incarnation)  have a worker finish and leave; needs an admin key
// events({ signal })  an async iterator of { event, data }: "hello", and "state" each second in which it changed
//
// A ShoalError has code (stable: queue_full, invalid_image, …), status (0 where no answer came), retryable, requestId and
// retryAfter (seconds, or null).

const MOST_UPLOADS = 2;
const TIMEOUT = 30_000;
const RECONSIDER = 10_000;
const QUIET = 30_000; // of an event stream, whose heartbeats come each ten seconds

export class ShoalError extends Error {
  constructor(message, { code, status = 0, retryable = false, requestId = "", retryAfter = null, uploads = 0 }) {
    super(message);
    this.name = "ShoalError";
    Object.assign(this, { code, status, retryable, requestId, retryAfter, uploads });
  }
}

export class Shoal {
  #base;
  #apiKey;
  #timeout;
  #fetch;
  #avoidDirect = -Infinity; // until when, after a worker was not reached

  constructor(baseUrl, { apiKey = "", timeout = TIMEOUT, fetch: send = globalThis.fetch } = {}) {
    this.#base = String(baseUrl).replace(/\/+$/, "");
    this.#apiKey = apiKey;
    this.#timeout = timeout;
    this.#fetch = send.bind(globalThis);
  }

  async predict(image, { mode = "auto", timeout = this.#timeout, signal, ...wish } = {}) {
    if (!["auto", "direct", "proxy"].includes(mode)) throw new TypeError(`mode is auto, direct or proxy, not ${mode}`);
    const limit = deadline(timeout, signal);
    const call = { image, wish, began: performance.now(), excluded: new Set(), uploads: 0, limit };
    try {
      return await this.#deliver(call, mode);
    } catch (error) {
      throw limit.explain(error);
    } finally {
      limit.clear();
    }
  }

  async status({ signal } = {}) {
    return (await this.#ask("/status", { signal })).document;
  }

  async drain(incarnation, { signal } = {}) {
    const path = `/workers/${encodeURIComponent(incarnation)}/drain`;
    return (await this.#ask(path, { method: "POST", signal })).document;
  }

  async *events({ signal } = {}) {
    const quiet = deadline(QUIET, signal);
    try {
      const response = await this.#send(this.#url("/events"), {
        headers: { ...this.#authorization(), Accept: "text/event-stream" },
        signal: quiet.signal,
      });
      if (!response.ok) throw await failure(response);
      yield* parsed(response.body.getReader(), quiet);
    } catch (error) {
      throw quiet.explain(error);
    } finally {
      quiet.clear();
    }
  }

  // One call

  async #deliver(call, mode) {
    let direct = mode === "direct" || (mode === "auto" && performance.now() > this.#avoidDirect);
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await (direct ? this.#direct(call) : this.#proxied(call));
      } catch (error) {
        if (!(error instanceof ShoalError) || !error.retryable || call.uploads >= MOST_UPLOADS) throw error;
        if (error.code === "bad_gateway") throw error; // the gateway has tried whom it may
        const unreachable = direct && ["connection_failed", "no_worker"].includes(error.code);
        if (unreachable && mode === "auto") {
          direct = false;
          this.#avoidDirect = performance.now() + RECONSIDER;
        } else if (attempt > 0) throw error;
        else if (error.retryAfter) await call.limit.pause(1000 * error.retryAfter);
      }
    }
  }

  async #direct(call) {
    const started = performance.now();
    const excluded = call.excluded.size ? { exclude: [...call.excluded].join(",") } : {};
    const where = (await this.#ask("/lookup", { query: { ...wanted(call.wish), ...excluded }, signal: call.limit.signal }))
      .document;
    const lookup = performance.now() - started;
    call.excluded.add(where.incarnation);
    const query = { ticket: where.ticket, ...chosen(call.wish) };
    // The ticket is in the address, and the image in a form, so that a browser need not ask first (no preflight).
    const sent = await this.#upload(withQuery(where.url, query), call, {}, { asForm: true });
    return result(sent, "direct", [{ stage: "lookup", ms: lookup }], call);
  }

  async #proxied(call) {
    const headers = { ...this.#authorization(), "Shoal-Uploads": String(call.uploads) };
    headers["Shoal-Timeout-Ms"] = String(call.limit.remaining());
    const url = this.#url("/predict", { ...wanted(call.wish), ...chosen(call.wish) });
    return result(await this.#upload(url, call, headers, { asForm: false }), "proxy", [], call);
  }

  async #upload(url, call, headers, { asForm }) {
    const { body, type } = packed(call.image, asForm);
    const started = performance.now();
    let response;
    try {
      response = await this.#send(url, {
        method: "POST",
        body,
        headers: type ? { ...headers, "Content-Type": type } : headers,
        signal: call.limit.signal,
      });
    } catch (error) {
      if (error instanceof ShoalError) call.uploads += 1; // it may have been executed: a browser does not say
      throw error;
    }
    if (!response.ok) {
      const error = await failure(response);
      call.uploads = Math.max(call.uploads, error.uploads);
      throw error;
    }
    const answer = await readJson(response);
    return { answer, response, ms: performance.now() - started };
  }

  // Requests

  async #ask(path, { method = "GET", query = {}, signal } = {}) {
    const response = await this.#send(this.#url(path, query), { method, headers: this.#authorization(), signal });
    if (!response.ok) throw await failure(response);
    return { document: await readJson(response), response };
  }

  async #send(url, options) {
    try {
      return await this.#fetch(url, { credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer", ...options });
    } catch (error) {
      if (options.signal?.aborted) throw options.signal.reason;
      throw new ShoalError("The connection failed before an answer came.", { code: "connection_failed", retryable: true });
    }
  }

  #url(path, query = {}) {
    return withQuery(this.#base + path, query);
  }

  #authorization() {
    return this.#apiKey ? { Authorization: `Bearer ${this.#apiKey}` } : {};
  }
}

// What is asked

function wanted({ model, version, label, key, priority }) {
  return { model, version, label, key, priority: priority === "bulk" ? "bulk" : undefined };
}

function chosen({ top_k, options = {} }) {
  return { ...options, top_k };
}

function withQuery(url, query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `${url}?${new URLSearchParams(given)}` : url;
}

function packed(image, asForm) {
  if (typeof image?.url === "string") return { body: JSON.stringify({ url: image.url }), type: "application/json" };
  const blob = image instanceof Blob ? image : new Blob([image]);
  if (!asForm) return { body: blob, type: blob.type || "application/octet-stream" };
  const form = new FormData();
  form.append("image", blob, "image");
  return { body: form, type: "" }; // with the boundary that only the browser knows
}

// What is answered

function result({ answer, response, ms }, way, before, call) {
  const { total, ...stages } = serverTiming(response.headers.get("Server-Timing")) ?? answer.timings ?? {};
  const inside = apart(stages);
  const spent = inside.reduce((soFar, stage) => soFar + stage.ms, 0);
  const timings = [
    ...before,
    { stage: "network", ms: Math.max(0, ms - (total ?? spent)) },
    ...inside,
    { stage: "total", ms: performance.now() - call.began },
  ];
  const { worker, model, version, request_id: requestId } = answer;
  return { answer, way, timings, worker, model, version, requestId };
}

function serverTiming(header) {
  if (!header) return null;
  const found = [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)];
  return found.length ? Object.fromEntries(found.map(([, stage, ms]) => [stage, Number(ms)])) : null;
}

// "wait" is what lies between submitting and the reply, "queue" and "inference" included
function apart({ wait, queue = 0, inference = 0, ...others }) {
  const own = Object.entries(others).map(([stage, ms]) => ({ stage, ms }));
  if (wait === undefined) return own;
  const after = own.filter(({ stage }) => stage === "render");
  const waited = { queue, inference, reply: Math.max(0, wait - queue - inference) };
  return [
    ...own.filter(({ stage }) => stage !== "render"),
    ...Object.entries(waited).map(([stage, ms]) => ({ stage, ms })),
    ...after,
  ];
}

async function readJson(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError" || error.name === "TimeoutError") throw error;
    throw new ShoalError("The answer is not one of Shoal's.", { code: "bad_gateway", status: 502, retryable: true });
  }
}

async function failure(response) {
  const { status, headers } = response;
  const after = headers.get("Retry-After");
  const common = {
    status,
    retryAfter: after && /^\d+$/.test(after) ? Number(after) : null,
    uploads: Number(headers.get("Shoal-Uploads") ?? 0) || 0,
    requestId: headers.get("X-Request-ID") ?? "",
  };
  const error = (await response.json().catch(() => null))?.error;
  if (typeof error?.code !== "string") {
    const code = headers.get("Shoal-Code") ?? "bad_gateway";
    return new ShoalError(`HTTP ${status} without a readable error.`, { ...common, code, retryable: status >= 502 });
  }
  const { code, message, retryable, request_id: requestId } = error;
  return new ShoalError(String(message), { ...common, code, retryable: retryable === true, requestId });
}

// A limit in time, and the caller's own signal, as one

function deadline(milliseconds, signal) {
  const controller = new AbortController();
  const late = new ShoalError("No answer before the deadline.", { code: "deadline_exceeded", status: 504 });
  const giveUp = () => controller.abort(signal.reason);
  let ends = 0;
  let timer;
  const renew = () => {
    clearTimeout(timer);
    ends = performance.now() + milliseconds;
    timer = setTimeout(() => controller.abort(late), milliseconds);
  };
  renew();
  if (signal?.aborted) giveUp();
  signal?.addEventListener("abort", giveUp);
  return {
    signal: controller.signal,
    renew,
    remaining: () => Math.max(1, Math.floor(ends - performance.now())),
    explain: (error) => (controller.signal.aborted ? controller.signal.reason : error),
    pause: (ms) => paused(ms, controller.signal),
    clear() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", giveUp);
    },
  };
}

function paused(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

// Server-sent events (HTML standard), read from a fetch: an EventSource cannot send a key

async function* parsed(reader, quiet) {
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      quiet.renew();
      text += decoder.decode(value, { stream: true });
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const event = fields(block);
        if (event.data) yield { event: event.event ?? "message", data: JSON.parse(event.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function fields(block) {
  const found = {};
  for (const line of block.split("\n")) {
    const [, name, value] = /^(event|data): ?(.*)$/.exec(line) ?? [];
    if (name) found[name] = name in found ? `${found[name]}\n${value}` : value;
  }
  return found;
}
