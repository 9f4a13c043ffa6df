// The page: its views, its key, and the state of the cluster that both views show.

import { Shoal, ShoalError } from "./shoal.js";
import { byId, say, tabs } from "./dom.js";
import { Cluster } from "./cluster.js";
import { Trial } from "./trial.js";

const KEY = "shoal-key";
const PAUSES = [500, 1000, 2000, 5000];
const base = new URL(".", document.baseURI).href.replace(/\/$/, "");

let made = { key: null, client: null }; // one client for each key: it remembers where direct uploads do not work

const session = {
  base,
  settings: { authentication: "required", uploads: [] },
  holder: { name: "", admin: false },
  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  },
  get client() {
    if (made.key !== this.key) made = { key: this.key, client: new Shoal(base, { apiKey: this.key }) };
    return made.client;
  },
  // Whether the error was that of a key, which has been asked for
  refused(error) {
    if (!(error instanceof ShoalError) || error.status !== 401) return false;
    askForKey(session.key ? "This cluster does not know that key. Enter another one." : undefined);
    return true;
  },
};

const cluster = new Cluster(session);
const trial = new Trial(session);
let listening = new AbortController();

// Views

const views = { "tab-try": "try", "tab-cluster": "cluster" };
const show = tabs(document.querySelector(".top .tabs"), (tab) => {
  for (const id of Object.keys(views)) byId(`view-${views[id]}`).hidden = id !== tab.id;
  history.replaceState(null, "", tab.id === "tab-try" ? location.pathname : "#cluster");
});
if (location.hash === "#cluster") show(byId("tab-cluster"));

// The key

const dialog = byId("key-dialog");
const reason = byId("key-reason").textContent;

function askForKey(why = reason) {
  say(byId("key-reason"), why);
  byId("key").value = "";
  if (!dialog.open) dialog.showModal();
}

function take(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  dialog.close();
  listen();
}

byId("key-button").addEventListener("click", () => askForKey());
byId("key-cancel").addEventListener("click", () => dialog.close());
byId("key-forget").addEventListener("click", () => take(""));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  take(byId("key").value.trim());
});

// The state, live

function live(state, text) {
  byId("live").dataset.state = state;
  say(byId("live"), text);
}

async function listen() {
  listening.abort(new DOMException("another key", "AbortError"));
  const { signal } = (listening = new AbortController());
  if (session.settings.authentication === "required" && !session.key) {
    live("waiting", "needs a key");
    cluster.forget();
    askForKey();
    return;
  }
  for (let failures = 0; !signal.aborted; failures += 1) {
    live("connecting", failures ? "lost, trying again" : "connecting");
    try {
      for await (const { event, data } of session.client.events({ signal })) {
        failures = 0;
        hear(event, data);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (session.refused(error)) return live("waiting", "needs a key");
    }
    if (!signal.aborted) live("lost", "lost, trying again");
    await new Promise((resolve) => setTimeout(resolve, PAUSES[Math.min(failures, PAUSES.length - 1)]));
  }
}

function hear(event, data) {
  if (event === "hello") {
    session.holder = data;
    return;
  }
  if (event !== "state") return;
  live("live", "live");
  say(byId("about"), `${data.gateway} · Shoal ${data.version}`);
  cluster.show(data);
  trial.know(data);
}

async function begin() {
  try {
    const response = await fetch(`${base}/page/settings.json`, { credentials: "omit" });
    if (response.ok) session.settings = await response.json();
  } catch {
    live("lost", "lost, trying again");
  }
  byId("key-button").hidden = session.settings.authentication === "off";
  trial.begin();
  await listen();
}

begin();
