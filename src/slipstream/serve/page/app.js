// The page: one conversation, sent to the server turn by turn.

import { ask, models } from "./ask.js";
import { watch } from "./live.js";
import { element, filled, render } from "./text.js";

const find = (id) => document.getElementById(id);
const log = find("log");
const prompt = find("prompt");
const welcome = find("welcome");
let turns = [];
let running = null; // the AbortController of the answer under way

const key = () => sessionStorage.getItem("slipstream-key") ?? "";

async function send(text) {
  if (running || !text) return;
  welcome.remove();
  turns.push({ role: "user", content: text });
  addTurn("user").textContent = text;
  const answer = addTurn("assistant");
  const turn = answer.parentElement;
  turn.setAttribute("aria-busy", "true");
  busy(new AbortController());
  log.scrollTop = log.scrollHeight;
  await receive(turn, answer);
  turn.removeAttribute("aria-busy");
  busy(null);
  prompt.focus();
}

async function receive(turn, answer) {
  const mine = turns;
  const started = performance.now();
  const seen = { text: "", first: null, drawn: false };
  const paint = () => {
    seen.drawn = false;
    const below = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    render(answer, seen.text);
    if (below) log.scrollTop = log.scrollHeight;
  };
  const onText = (text) => {
    seen.first ??= performance.now() - started;
    seen.text += text;
    if (!seen.drawn) requestAnimationFrame(paint);
    seen.drawn = true;
  };
  let figures = null;
  try {
    figures = await ask(body(), key(), running.signal, onText);
    say(`Answered in ${figures.answer} tokens.`);
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else turn.append(alarm(error));
  }
  paint();
  if (seen.text) mine.push({ role: "assistant", content: seen.text });
  else if (!figures) mine.pop(); // nothing was answered: the question may be sent again
  turn.append(foot(figures, seen));
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 200) log.scrollTop = log.scrollHeight;
}

function body() {
  const system = find("system").value.trim();
  const seed = find("seed").value;
  return {
    model: find("model").value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...turns],
    temperature: Number(find("temperature").value) || 0,
    max_tokens: Number(find("max-tokens").value) || 512,
    ...(seed === "" ? {} : { seed: Number(seed) }),
  };
}

function addTurn(role) {
  const turn = element("article", `turn ${role}`);
  turn.setAttribute("aria-label", role === "user" ? "You" : "Model");
  const text = element("div", "text");
  turn.append(text);
  log.append(turn);
  return text;
}

function foot(figures, seen) {
  const line = element("div", "foot");
  const add = (value, name) => {
    const part = element("span");
    part.append(filled("b", value), ` ${name}`);
    line.append(part);
  };
  if (figures) {
    const rest = figures.seconds - (figures.ttft ?? 0) / 1000;
    add(`${Math.round(figures.ttft ?? 0)} ms`, "to first token");
    if (figures.answer > 1 && rest > 0) add(((figures.answer - 1) / rest).toFixed(1), "tokens/s");
    add(figures.answer, "tokens");
    add(figures.prompt, "in prompt");
    add(figures.cached, "cached");
    if (figures.finish === "length") add("cut", "at most tokens");
  } else if (seen.text) add("stopped", "before the end");
  if (seen.text) {
    const copy = filled("button", "Copy");
    copy.type = "button";
    copy.addEventListener("click", async () => {
      await navigator.clipboard?.writeText(seen.text);
      say("Copied.");
    });
    line.append(copy);
  }
  return line;
}

function alarm(error) {
  const words = error instanceof TypeError ? "The server does not answer." : error.message;
  const box = filled("p", words, "error");
  box.setAttribute("role", "alert");
  return box;
}

function busy(controller) {
  running = controller;
  find("stop").hidden = !controller;
  find("send").hidden = !!controller;
}

function say(text) {
  find("status").textContent = text;
}

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

async function listModels() {
  const select = find("model");
  const chosen = select.value;
  try {
    const names = await models(key());
    select.replaceChildren(...names.map((name) => filled("option", name)));
    if (names.includes(chosen)) select.value = chosen;
  } catch (error) {
    say(error.message);
    if (!/API key/.test(error.message)) return;
    find("settings").showModal();
    find("key").focus();
  }
}

function setUp() {
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = prompt.value.trim();
    if (running || !text) return;
    prompt.value = "";
    grow();
    send(text);
  });
  prompt.addEventListener("input", grow);
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    find("form").requestSubmit();
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !find("settings").open) running?.abort();
  });
  find("stop").addEventListener("click", () => running?.abort());
  find("new").addEventListener("click", () => {
    running?.abort();
    turns = [];
    log.replaceChildren(welcome);
    prompt.focus();
  });
  for (const idea of document.querySelectorAll(".ideas button")) {
    idea.addEventListener("click", () => send(idea.textContent));
  }
  find("settings-open").addEventListener("click", () => find("settings").showModal());
  find("settings").addEventListener("close", () => {
    sessionStorage.setItem("slipstream-key", find("key").value);
    listModels();
    setTimeout(() => { // once the dialog has given the focus back
      prompt.blur();
      prompt.focus();
    });
  });
  find("key").value = key();
  setUpTheme();
}

function setUpTheme() {
  const root = document.documentElement;
  const button = find("theme");
  const set = (theme) => {
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
  };
  const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  set(localStorage.getItem("slipstream-theme") ?? preferred);
  button.addEventListener("click", () => {
    set(root.dataset.theme === "dark" ? "light" : "dark");
    localStorage.setItem("slipstream-theme", root.dataset.theme);
  });
}

setUp();
listModels();
watch(key);
