// The page of choir serve: chats that are kept in this browser, and the server's figures.
"use strict";

const $ = (id) => document.getElementById(id);
const KEEP = "choir-conversations";
const ALTERNATIVES = 5;
const SAMPLES = 60; // of a second each, in the timeline of ranks

let model = "";
let conversations = load(KEEP, []);
let current = null; // the conversation shown
let asking = null; // the AbortController of the answer that is being made

function load(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function save(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    showError("This browser's storage is full; the conversation is not kept.");
  }
}

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function showError(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

// ---- Conversations: {title, messages: [{role, pieces: [{text, reasoning, tokens}]}]} ------------

function keep() {
  save(KEEP, conversations);
}

function select(conversation) {
  stop();
  current = conversation;
  showError("");
  draw();
}

function begin() {
  if (!current || current.messages.length > 0) {
    conversations.unshift({ title: "New conversation", messages: [] });
    select(conversations[0]);
  }
  $("input").focus();
}

function drop(conversation) {
  conversations = conversations.filter((other) => other !== conversation);
  if (conversations.length === 0)
    conversations.push({ title: "New conversation", messages: [] });
  keep();
  select(conversation === current ? conversations[0] : current);
}

function textOf(message, reasoning = false) {
  return message.pieces.filter((piece) => !!piece.reasoning === reasoning).map((piece) => piece.text).join("");
}

// ---- Drawing ------------------------------------------------------------------------------------

function draw() {
  $("conversations").replaceChildren(...conversations.map((conversation) => {
    const open = make("button", { type: "button", textContent: conversation.title, onclick: () => select(conversation) });
    open.setAttribute("aria-current", conversation === current);
    const remove = make("button", { type: "button", textContent: "×", onclick: () => drop(conversation) });
    remove.setAttribute("aria-label", "Delete " + conversation.title);
    return make("li", {}, open, remove);
  }));
  $("messages").replaceChildren(...current.messages.map(drawMessage));
  $("messages").scrollTop = $("messages").scrollHeight;
}

function drawMessage(message, index) {
  const head = make("header", {}, make("span", { textContent: message.role === "user" ? "You" : "Model" }));
  const article = make("article", { className: message.role }, head);
  if (message.role === "user")
    head.append(make("button", { type: "button", textContent: "Edit", onclick: () => edit(index, article) }));
  else
    head.append(make("button", { type: "button", textContent: "Again", onclick: () => again(index) }));
  for (const piece of message.pieces)
    addPiece(article, piece);
  if (message.role === "assistant" && message.pieces.length === 0)
    article.append(make("div", { className: "text" }));
  return article;
}

// A piece of a message goes to the last block of its kind.
function addPiece(article, piece) {
  const kind = piece.reasoning ? "text reasoning" : "text";
  let block = article.lastElementChild;
  if (!block || block.className.replace(" busy", "") !== kind) {
    block?.classList.remove("busy");
    block = make("div", { className: kind, tabIndex: 0 });
    block.addEventListener("keydown", walk);
    article.append(block);
  }
  const span = make("span", { textContent: piece.text });
  if (piece.tokens?.length) {
    const chance = Math.exp(piece.tokens.reduce((sum, token) => sum + token.logprob, 0));
    span.className = "token " + (chance < 0.2 ? "low" : chance < 0.6 ? "middle" : "high");
    span.tabIndex = -1;
    span.tokens = piece.tokens;
  }
  block.append(span);
  return block;
}

// Arrow keys go from token to token of a message that has the focus.
function walk(event) {
  const tokens = [...event.currentTarget.querySelectorAll(".token")];
  const at = tokens.indexOf(document.activeElement);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || tokens.length === 0)
    return;
  event.preventDefault();
  tokens[Math.max(0, Math.min(tokens.length - 1, at + step))].focus();
}

function edit(index, article) {
  stop();
  const box = make("textarea", { value: textOf(current.messages[index]), rows: 4 });
  box.setAttribute("aria-label", "Edit your message");
  const sendIt = () => {
    current.messages.length = index;
    say(box.value);
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      sendIt();
    } else if (event.key === "Escape") {
      draw();
    }
  });
  article.replaceChildren(box, make("div", { className: "buttons" },
    make("button", { type: "button", textContent: "Send", onclick: sendIt }),
    make("button", { type: "button", textContent: "Cancel", onclick: draw })));
  box.focus();
}

function again(index) {
  stop();
  current.messages.length = index;
  answer();
}

// ---- Probabilities ------------------------------------------------------------------------------

function visible(text) {
  return text.replaceAll(" ", "·").replaceAll("\n", "⏎");
}

function showTip(span) {
  const tip = $("tip"), box = span.getBoundingClientRect();
  const rows = span.tokens.flatMap((token) => {
    const all = token.top_logprobs.some((other) => other.token === token.token)
      ? token.top_logprobs : [token, ...token.top_logprobs];
    return all.map((other) => make("tr", { className: other.token === token.token ? "own" : "" },
      make("td", { textContent: (100 * Math.exp(other.logprob)).toFixed(2) + "%" }),
      make("td", { textContent: visible(other.token) })));
  });
  tip.replaceChildren(make("table", {}, make("tbody", {}, ...rows)));
  tip.hidden = false;
  tip.style.left = Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (box.bottom + tip.offsetHeight + 8 < innerHeight ? box.bottom + 4 : box.top - tip.offsetHeight - 4) + "px";
}

function tipFor(event) {
  const span = event.target.closest?.(".token");
  if (span?.tokens)
    showTip(span);
  else
    $("tip").hidden = true;
}

// ---- Asking -------------------------------------------------------------------------------------

function settings() {
  const form = new FormData($("settings")), number = (name) => Number(form.get(name));
  const fields = { temperature: number("temperature"), top_p: number("top_p"), top_k: number("top_k"),
    min_p: number("min_p"), max_tokens: number("max_tokens") };
  if (form.get("seed") !== "")
    fields.seed = number("seed");
  return fields;
}

function requestBody() {
  const system = new FormData($("settings")).get("system");
  const messages = current.messages.map((message) => ({ role: message.role, content: textOf(message) }));
  if (system)
    messages.unshift({ role: "system", content: system });
  return { model, messages, stream: true, stream_options: { include_usage: true }, logprobs: true,
    top_logprobs: ALTERNATIVES, ...settings() };
}

function say(text) {
  if (!text.trim())
    return;
  current.messages.push({ role: "user", pieces: [{ text }] });
  if (current.messages.length === 1)
    current.title = text.slice(0, 60);
  answer();
}

function stop() {
  asking?.abort();
  asking = null;
}

// The data of server-sent events.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done)
      return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts)
      if (part.startsWith("data: "))
        yield part.slice(6);
  }
}

async function failure(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `status ${response.status}`;
  }
}

// Adds what an event tells to the message; its text to the article.
function take(chunk, message, article) {
  const choice = chunk.choices?.[0], delta = choice?.delta ?? {};
  const tokens = choice?.logprobs?.content ?? [];
  const text = delta.content || delta.reasoning_content || "";
  if (!text && tokens.length === 0)
    return;
  const last = message.pieces.at(-1);
  if (!text && last && !last.tokens?.length) {
    last.tokens = tokens; // of text that was told before them
    return;
  }
  const piece = { text, reasoning: !!delta.reasoning_content, tokens };
  message.pieces.push(piece);
  const block = addPiece(article, piece);
  block.classList.add("busy");
}

async function answer() {
  stop();
  const mine = asking = new AbortController(), conversation = current;
  const body = requestBody(), message = { role: "assistant", pieces: [] };
  conversation.messages.push(message);
  showError("");
  draw();
  const article = $("messages").lastElementChild;
  const begun = performance.now();
  let ended = false, usage = null, first = 0;
  busy(true);
  try {
    const response = await fetch("/v1/chat/completions", { method: "POST", signal: mine.signal,
      headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (!response.ok)
      throw new Error(await failure(response));
    for await (const data of events(response)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error)
        throw new Error(chunk.error.message);
      usage = chunk.usage ?? usage;
      first ||= performance.now();
      take(chunk, message, article);
      follow();
    }
    if (!ended)
      throw new Error("The connection broke before the answer's end.");
  } catch (error) {
    if (!mine.signal.aborted)
      showError(error.message);
  }
  for (const block of article.querySelectorAll(".busy"))
    block.classList.remove("busy");
  if (message.pieces.length === 0)
    conversation.messages.pop();
  keep();
  if (asking === mine || asking === null) {
    asking = null;
    busy(false, tell(usage, begun, first, mine.signal.aborted));
    if (current === conversation)
      draw();
  }
}

function tell(usage, begun, first, stopped) {
  if (stopped)
    return "Stopped.";
  if (!usage || !first)
    return "";
  const seconds = (performance.now() - first) / 1000;
  return `${usage.completion_tokens} tokens, first after ${((first - begun) / 1000).toFixed(2)} s, ` +
    `${(usage.completion_tokens / Math.max(seconds, 1e-3)).toFixed(1)} tokens/s`;
}

function busy(yes, text = "") {
  $("messages").setAttribute("aria-busy", yes);
  $("stop").disabled = !yes;
  $("state").textContent = yes ? "Answering…" : text;
}

// Stays at the end unless the reader has scrolled up.
function follow() {
  const box = $("messages");
  if (box.scrollHeight - box.scrollTop - box.clientHeight < 80)
    box.scrollTop = box.scrollHeight;
}

// ---- Figures ------------------------------------------------------------------------------------

let before = null;
const history = []; // of each rank: [compute, exchange] shares a second

function percent(part, whole) {
  return whole > 0 ? (100 * part / whole).toFixed(0) + "%" : "0%";
}

function drawRanks(count) {
  const style = getComputedStyle(document.documentElement), box = $("ranks");
  while (box.children.length < 2 * count) {
    box.append(make("div"), make("canvas", { width: 4 * SAMPLES, height: 26 }));
  }
  for (let rank = 0; rank < count; rank++) {
    const label = box.children[2 * rank], canvas = box.children[2 * rank + 1], draw2d = canvas.getContext("2d");
    draw2d.clearRect(0, 0, canvas.width, canvas.height);
    history.forEach((sample, i) => {
      const [compute = 0, exchange = 0] = sample[rank] ?? [], x = 4 * (SAMPLES - history.length + i);
      let y = canvas.height;
      for (const [share, name] of [[compute, "compute"], [exchange, "exchange"], [1 - compute - exchange, "waiting"]]) {
        const height = canvas.height * Math.max(0, Math.min(1, share));
        draw2d.fillStyle = style.getPropertyValue("--" + name);
        draw2d.fillRect(x, y - height, 4, height);
        y -= height;
      }
    });
    const [compute = 0, exchange = 0] = history.at(-1)?.[rank] ?? [];
    label.textContent = `rank ${rank}: ${percent(compute, 1)} compute, ${percent(exchange, 1)} exchange`;
    canvas.setAttribute("aria-hidden", "true");
  }
}

async function look() {
  try {
    const response = await fetch("/stats");
    if (!response.ok)
      throw new Error();
    const now = await response.json();
    if (before) {
      const seconds = Math.max(now.time - before.time, 1e-3);
      $("rate").textContent = (Math.max(0, now.generation_tokens - before.generation_tokens) / seconds).toFixed(1);
      history.push(now.ranks.map((times, rank) => times.map((t, k) => (t - (before.ranks[rank]?.[k] ?? t)) / seconds)));
      if (history.length > SAMPLES)
        history.shift();
      drawRanks(now.ranks.length);
    }
    $("running").textContent = now.running;
    $("waiting").textContent = now.waiting;
    $("usage").textContent = percent(now.kv_usage, 1);
    $("hits").textContent = percent(now.prefix_hits, now.prefix_queries);
    before = now;
  } catch {
    $("running").textContent = "–";
  }
  setTimeout(look, 1000);
}

async function findModel() {
  try {
    const response = await fetch("/v1/models");
    if (!response.ok)
      throw new Error(await failure(response));
    const found = (await response.json()).data[0];
    model = found.id;
    $("model").textContent = `${model}, ${found.max_model_len} tokens`;
    document.title = model + " - Choir";
  } catch (error) {
    showError("The server does not answer: " + error.message);
    setTimeout(findModel, 2000);
  }
}

// ---- The page -----------------------------------------------------------------------------------

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  save("choir-theme", name);
}

function open() {
  const form = $("settings");
  for (const [name, value] of Object.entries(load("choir-settings", {})))
    if (form.elements[name]?.type === "checkbox")
      form.elements[name].checked = value;
    else if (form.elements[name])
      form.elements[name].value = value;
  const colour = () => $("messages").classList.toggle("coloured", form.elements.colour.checked);
  form.addEventListener("input", () => {
    const values = Object.fromEntries([...form.elements].filter((e) => e.name)
      .map((e) => [e.name, e.type === "checkbox" ? e.checked : e.value]));
    save("choir-settings", values);
    colour();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  colour();
  theme(load("choir-theme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  $("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  $("new").onclick = begin;
  $("stop").onclick = stop;
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("input").value;
    $("input").value = "";
    say(text);
  });
  $("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("composer").requestSubmit();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape")
      stop();
  });
  for (const kind of ["mouseover", "focusin"])
    $("messages").addEventListener(kind, tipFor);
  for (const kind of ["mouseleave", "focusout"])
    $("messages").addEventListener(kind, () => { $("tip").hidden = true; });
  if (conversations.length === 0)
    conversations.push({ title: "New conversation", messages: [] });
  select(conversations[0]);
  findModel();
  look();
}

open();
