"use strict";

// Sortable tables: every column title becomes a button.
function sortKey(row, column) {
  const cell = row.cells[column];
  return cell.hasAttribute("data-sort") ? cell.getAttribute("data-sort") : null;
}

function sortTable(table, column, descending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const keys = new Map(rows.map((row) => [row, sortKey(row, column)]));
  const numeric = rows.every((row) => keys.get(row) === null || !Number.isNaN(Number(keys.get(row))));
  rows.sort((left, right) => {
    const a = keys.get(left);
    const b = keys.get(right);
    if (a === null || b === null) return (a === null) - (b === null); // no value: last, either way
    const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en");
    return descending ? -order : order;
  });
  body.append(...rows);
}

function makeSortable(table) {
  const titles = Array.from(table.tHead.querySelectorAll("tr.titles th"));
  titles.forEach((title, column) => {
    if (!Array.from(table.tBodies[0].rows).some((row) => sortKey(row, column) !== null)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const descending = title.getAttribute("aria-sort") === "ascending";
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortTable(table, column, descending);
    });
  });
}

document.querySelectorAll("table").forEach(makeSortable);

// A link into a closed part opens it.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  let opened = false;
  for (let part = target.closest("details"); part; part = part.parentElement.closest("details")) {
    opened = opened || !part.open;
    part.open = true;
  }
  if (opened) target.scrollIntoView();
}

window.addEventListener("hashchange", reveal);
reveal();

// Answers: one compressed block for each condition and seed, unpacked when it is first shown.
// All text goes in as text nodes; no string is ever parsed as markup.
const HIT = 1, DEGENERATE = 4, CUT = 8, SEEN = 16;
const PAGE = 20;

const SHOW = {
  "": () => true,
  hit: (flags) => flags & HIT,
  clean: (flags) => flags & HIT && !(flags & DEGENERATE),
  miss: (flags) => !(flags & HIT),
  degenerate: (flags) => flags & DEGENERATE,
  cut: (flags) => flags & CUT,
};

async function unpack(id) {
  const packed = atob(document.getElementById(id).textContent.trim());
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

function highlighted(text, marker) {
  const made = element("p", "text");
  if (!marker) {
    made.append(text);
    return made;
  }
  const pattern = new RegExp(marker.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&"), "giu");
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    made.append(text.slice(end, found.index), element("mark", "", found[0]));
    end = found.index + found[0].length;
  }
  made.append(text.slice(end));
  return made;
}

function answerItem(data, place, index) {
  const flags = data.flags[place];
  const who = element("p", "who", data.personas[data.persona[place]].replaceAll("_", " "),
    " \u00b7 sample ", String(data.sample[place] + 1));
  if (index.seen_known && !(flags & SEEN)) who.append(" \u00b7 unseen question");
  if (flags & HIT) who.append(" \u00b7 ", element("span", "flag", "marker"));
  if (flags & DEGENERATE) who.append(" ", element("span", "flag bad", "degenerate"));
  if (flags & CUT) who.append(" ", element("span", "flag bad", "cut at the limit"));
  const text = data.text[place];
  const body = text ? highlighted(text, index.marker) : element("p", "who", "(empty answer)");
  return element("li", "", who, element("p", "question", data.questions[data.question[place]]), body);
}

function fill(select, values, show) {
  const kept = select.value;
  const options = values.map((value) => {
    const option = element("option", "", show(value));
    option.value = value;
    return option;
  });
  select.replaceChildren(select.options[0], ...options);
  select.value = values.includes(kept) ? kept : "";
}

function browser(form) {
  const index = JSON.parse(document.getElementById("answers-index").textContent);
  const list = document.getElementById("answers-list");
  const status = document.getElementById("answers-status");
  const pager = document.getElementById("pager");
  const [previous, next] = pager.querySelectorAll("button");
  const field = form.elements;
  const cache = new Map();
  let page = 0;
  let turn = 0;

  function matches(data) {
    const persona = data.personas.indexOf(field.persona.value);
    const question = data.questions.indexOf(field.question.value);
    const wanted = SHOW[field.show.value];
    return Array.from(data.text.keys()).filter((place) =>
      (persona < 0 || data.persona[place] === persona)
      && (question < 0 || data.question[place] === question)
      && wanted(data.flags[place]));
  }

  async function render() {
    const mine = ++turn;
    const id = field.chunk.value;
    status.textContent = "Unpacking answers\u2026";
    if (!cache.has(id)) cache.set(id, unpack(id));
    const data = await cache.get(id);
    if (mine !== turn) return; // a later choice has overtaken this one
    fill(field.persona, data.personas, (name) => name.replaceAll("_", " "));
    fill(field.question, data.questions, (text) => text);
    const found = matches(data);
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    page = Math.min(page, last);
    const shown = found.slice(page * PAGE, (page + 1) * PAGE);
    list.replaceChildren(...shown.map((place) => answerItem(data, place, index)));
    list.start = page * PAGE + 1;
    status.textContent = found.length
      ? `${page * PAGE + 1} to ${page * PAGE + shown.length} of ${found.length} answers`
      : "No answer matches.";
    pager.hidden = found.length <= PAGE;
    previous.disabled = page === 0;
    next.disabled = page === last;
  }

  function remember() {
    const state = new URLSearchParams();
    for (const name of ["chunk", "persona", "question", "show"]) {
      if (field[name].value) state.set(name, field[name].value);
    }
    if (page) state.set("page", String(page + 1));
    history.replaceState(null, "", `#answers?${state}`);
  }

  async function restore() {
    const [anchor, query] = location.hash.slice(1).split("?");
    if (anchor !== "answers" || !query) return render();
    const state = new URLSearchParams(query);
    if (index.chunks.includes(state.get("chunk"))) field.chunk.value = state.get("chunk");
    if (state.get("show") in SHOW) field.show.value = state.get("show");
    await render(); // personas and questions are known only now
    field.persona.value = state.get("persona") || "";
    field.question.value = state.get("question") || "";
    if (field.persona.selectedIndex < 0) field.persona.value = "";
    if (field.question.selectedIndex < 0) field.question.value = "";
    page = Math.max(0, (Number.parseInt(state.get("page"), 10) || 1) - 1);
    document.getElementById("answers").scrollIntoView();
    return render();
  }

  function failed(error) {
    status.textContent = `The answers cannot be shown: ${error.message}`;
  }

  function step(by) {
    page += by;
    remember();
    render().then(() => form.scrollIntoView()).catch(failed);
  }

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    page = 0;
    remember();
    render().catch(failed);
  });
  previous.addEventListener("click", () => step(-1));
  next.addEventListener("click", () => step(1));
  window.addEventListener("hashchange", () => restore().catch(failed));
  return () => restore().catch(failed);
}

const filters = document.getElementById("filters");
if (filters) {
  const start = browser(filters);
  if (location.hash.startsWith("#answers")) {
    start();
  } else {
    const watch = new IntersectionObserver((seen) => {
      if (!seen.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      start();
    }, { rootMargin: "600px" });
    watch.observe(filters);
  }
}
