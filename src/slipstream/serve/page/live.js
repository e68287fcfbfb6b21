// The figures at the side: asks for the server's state every second while the page is seen.

import { headers } from "./ask.js";

const POINTS = 60;
const find = (id) => document.getElementById(id);
const history = [];
let last = null;

export function watch(key) {
  const turn = async () => {
    if (!document.hidden) await look(key());
    setTimeout(turn, 1000);
  };
  turn();
}

async function look(key) {
  try {
    const reply = await fetch("state", { headers: headers(key) });
    if (!reply.ok) throw new Error(reply.status === 401 ? "needs an API key (Settings)" : "refused");
    show(await reply.json());
  } catch (error) {
    last = null;
    const said = error instanceof TypeError ? "The server does not answer." : `Server: ${error.message}`;
    tell(said, true);
  }
}

function show(state) {
  const sum = (field) => state.models.reduce((total, model) => total + model[field], 0);
  const now = performance.now();
  const tokens = sum("generation_tokens");
  if (last) draw(Math.max(0, ((tokens - last.tokens) * 1000) / (now - last.now)));
  last = { now, tokens };

  put("running", sum("running"), "batch", `of ${sum("batch")}`);
  put("waiting", sum("waiting"), "queue", `of ${sum("queue")}`);
  fill("running-bar", sum("running") / sum("batch"));
  fill("waiting-bar", sum("waiting") / Math.max(1, sum("queue")));

  const pages = sum("kv_pages");
  put("kv", percent(sum("kv_pages_used") / pages), "kv-note",
    `${count(sum("kv_pages_used"))} used, ${count(sum("kv_pages_cached"))} cached of ${count(pages)}`);
  fill("kv-bar", sum("kv_pages_used") / pages);
  fill("kv-cached-bar", sum("kv_pages_cached") / pages);

  const asked = sum("prefix_queries");
  put("prefix", asked ? `${percent(sum("prefix_hits") / asked)} %` : "–", "prefix-note",
    asked ? `${count(sum("prefix_hits"))} of ${count(asked)} found` : "no prompt yet");
  tell(state.draining ? "Stopping: no new messages." : state.ready ? "Ready" : "Loading…", !state.ready);
}

function draw(rate) {
  history.push(rate);
  if (history.length > POINTS) history.shift();
  find("rate").textContent = rate < 10 ? rate.toFixed(1) : Math.round(rate);
  const most = Math.max(10, ...history);
  const from = POINTS - history.length;
  const points = history.map((value, index) =>
    `${((from + index) * 240) / (POINTS - 1)},${(54 - (value / most) * 50).toFixed(1)}`);
  const line = `M${points.join("L")}`;
  document.querySelector("#spark .line").setAttribute("d", line);
  document.querySelector("#spark .area").setAttribute("d",
    `${line}L240,56L${(from * 240) / (POINTS - 1)},56Z`);
}

function put(id, value, noteId, note) {
  find(id).textContent = value;
  find(noteId).textContent = note;
}

function fill(id, share) {
  find(id).style.width = `${Math.min(100, share * 100)}%`;
}

function tell(text, bad) {
  const health = find("health");
  if (health.textContent !== text) health.textContent = text;
  health.classList.toggle("bad", bad);
}

const percent = (share) => (share > 0 && share < 0.1 ? (share * 100).toFixed(1) : Math.round(share * 100));
const count = (number) => number.toLocaleString("en");
