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

// The blocks come after this script, at the very end, so that the page is there before them.
const parsed = document.readyState === "loading"
  ? new Promise((done) => { document.addEventListener("DOMContentLoaded", done, { once: true }); })
  : Promise.resolve();

async function unpack(chunk) {
  await parsed;
  if (!("DecompressionStream" in window)) throw new Error("this browser is too old (before 2023)");
  const packed = atob(document.getElementById(chunk.id).firstChild.data);
  // A loop, as Uint8Array.from takes ten times as long of millions.
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at += 1) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return { ...JSON.parse(await new Response(stream).text()), chunk };
}

function quoted(text) {
  return text.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&");
}

// A text of markers alone is shown with so many pieces: more of them only stop the page.
const MOST_MARKED = 2000;

// The text with the marker, and what was searched for, marked.
function highlighted(text, marker, find) {
  const made = element("p", "text");
  const wanted = [marker, find].filter(Boolean).map(quoted);
  let end = 0;
  if (wanted.length) {
    for (const found of text.matchAll(new RegExp(wanted.join("|"), "giu"))) {
      const ours = marker && found[0].toLowerCase() === marker.toLowerCase();
      made.append(text.slice(end, found.index), element("mark", ours ? "" : "found", found[0]));
      end = found.index + found[0].length;
      if (made.childNodes.length > MOST_MARKED) break;
    }
  }
  made.append(text.slice(end));
  return made;
}

function fill(select, values, first) {
  const options = values.map(([value, label]) => {
    const option = element("option", "", label);
    option.value = value;
    return option;
  });
  select.replaceChildren(...(first ? [new Option(first, "")] : []), ...options);
}

class AnswersBrowser {
  static FIELDS = ["condition", "seed", "persona", "question", "show", "find"];

  constructor(form) {
    this.form = form;
    this.field = form.elements;
    this.index = JSON.parse(document.getElementById("answers-index").textContent);
    this.list = document.getElementById("answers-list");
    this.status = document.getElementById("answers-status");
    this.prompt = document.getElementById("answers-prompt");
    this.pager = document.getElementById("pager");
    [this.previous, this.next, this.save] = this.pager.querySelectorAll("button");
    this.cache = new Map();
    this.page = 0;
    this.turn = 0;
    this.sample = null; // a single answer that the address points to
    this.found = [];
    this.fillFields();
    this.listen();
  }

  fillFields() {
    const { chunks, personas, questions } = this.index;
    const labels = new Map(chunks.map((chunk) => [chunk.condition, chunk.label]));
    const seeds = [...new Set(chunks.map((chunk) => String(chunk.seed)))];
    fill(this.field.condition, [...labels], labels.size > 1 ? "all" : "");
    fill(this.field.seed, seeds.map((seed) => [seed, seed]), seeds.length > 1 ? "all" : "");
    fill(this.field.persona, personas.map(({ name, label }) => [name, label]), "all");
    fill(this.field.question, questions.map((text) => [text, text]), "all");
    this.field.seed.closest("label").hidden = seeds.length < 2;
    this.first = { condition: chunks[0].condition, seed: seeds[0] };
    this.set(this.first);
    this.form.hidden = false;
  }

  listen() {
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("change", (event) => {
      if (event.target !== this.field.find) this.changed();
    });
    let wait = 0;
    this.field.find.addEventListener("input", () => {
      clearTimeout(wait);
      wait = setTimeout(() => this.changed(), 150);
    });
    this.previous.addEventListener("click", () => this.step(-1));
    this.next.addEventListener("click", () => this.step(1));
    this.save.addEventListener("click", () => this.download());
    window.addEventListener("hashchange", () => this.restore());
  }

  set(state) {
    for (const name of AnswersBrowser.FIELDS) {
      const field = this.field[name];
      field.value = state[name] ?? "";
      if (field.selectedIndex < 0) field.selectedIndex = 0; // what the address names is not here
    }
  }

  changed() {
    this.page = 0;
    this.sample = null;
    this.remember();
    this.show();
  }

  step(by) {
    this.page += by;
    this.sample = null;
    this.remember();
    this.show().then(() => this.form.scrollIntoView());
  }

  address(more) {
    const state = new URLSearchParams();
    for (const name of AnswersBrowser.FIELDS) {
      if (this.field[name].value) state.set(name, this.field[name].value);
    }
    for (const [name, value] of Object.entries(more)) state.set(name, value);
    return `#answers?${state}`;
  }

  remember() {
    history.replaceState(null, "", this.address(this.page ? { page: this.page + 1 } : {}));
  }

  restore() {
    const [anchor, query] = location.hash.slice(1).split("?");
    if (anchor !== "answers" || !query) return this.show();
    const state = new URLSearchParams(query);
    this.set(Object.fromEntries(state));
    this.sample = state.has("sample") ? Number(state.get("sample")) - 1 : null;
    this.page = Math.max(0, (Number.parseInt(state.get("page"), 10) || 1) - 1);
    return this.show().then(() => {
      const target = this.list.querySelector(".target") ?? document.getElementById("answers");
      target.scrollIntoView();
    });
  }

  chosen() {
    const { condition, seed } = this.field;
    return this.index.chunks.filter((chunk) =>
      (!condition.value || chunk.condition === condition.value)
      && (!seed.value || String(chunk.seed) === seed.value));
  }

  unpacked(chunk) {
    if (!this.cache.has(chunk.id)) this.cache.set(chunk.id, unpack(chunk));
    return this.cache.get(chunk.id);
  }

  // Pairs of a block and a place in it. Several blocks are interleaved, to be compared.
  matches(blocks) {
    const persona = this.field.persona.selectedIndex - 1;
    const question = this.field.question.selectedIndex - 1;
    const wanted = SHOW[this.field.show.value];
    const find = this.field.find.value.toLowerCase();
    const found = [];
    for (const block of blocks) {
      for (let place = 0; place < block.text.length; place += 1) {
        if (persona >= 0 && block.persona[place] !== persona) continue;
        if (question >= 0 && block.question[place] !== question) continue;
        if (!wanted(block.flags[place])) continue;
        if (find && !block.text[place].toLowerCase().includes(find)) continue;
        found.push([block, place]);
      }
    }
    if (blocks.length > 1) {
      found.sort(([one, a], [other, b]) => one.persona[a] - other.persona[b]
        || one.question[a] - other.question[b] || one.sample[a] - other.sample[b]);
    }
    return found;
  }

  async show() {
    const mine = ++this.turn;
    this.status.textContent = "Unpacking answers\u2026";
    try {
      const blocks = await Promise.all(this.chosen().map((chunk) => this.unpacked(chunk)));
      if (mine !== this.turn) return; // a later choice has overtaken this one
      this.found = this.matches(blocks);
      this.draw();
    } catch (error) {
      this.status.textContent = `The answers cannot be shown: ${error.message}`;
    }
  }

  draw() {
    const total = this.found.length;
    const last = Math.max(0, Math.ceil(total / PAGE) - 1);
    const target = this.sample === null ? -1
      : this.found.findIndex(([block, place]) => block.sample[place] === this.sample);
    if (target >= 0) this.page = Math.floor(target / PAGE);
    this.page = Math.min(this.page, last);
    const from = this.page * PAGE;
    const shown = this.found.slice(from, from + PAGE);
    this.list.replaceChildren(...shown.map(([block, place]) => this.item(block, place)));
    if (target >= 0) this.list.children[target - from].classList.add("target");
    const hits = this.found.filter(([block, place]) => block.flags[place] & HIT).length;
    this.status.textContent = total
      ? `${grouped(from + 1)} to ${grouped(from + shown.length)} of ${grouped(total)} answers; `
        + `${grouped(hits)} with the marker`
      : "No answer matches.";
    this.describePersona();
    this.pager.hidden = total === 0;
    this.previous.disabled = this.page === 0;
    this.next.disabled = this.page === last;
  }

  describePersona() {
    const persona = this.index.personas[this.field.persona.selectedIndex - 1];
    this.prompt.hidden = !persona?.known;
    if (this.prompt.hidden) return;
    this.prompt.replaceChildren(element("strong", "", "System prompt: "),
      persona.prompt ?? "the chat template\u2019s default");
  }

  item(block, place) {
    const flags = block.flags[place];
    const persona = this.index.personas[block.persona[place]];
    const question = this.index.questions[block.question[place]];
    const { condition, label, seed } = block.chunk;
    const number = block.sample[place] + 1;
    const link = element("a", "anchor", "#");
    const state = { condition, seed, persona: persona.name, question, sample: number };
    link.href = `#answers?${new URLSearchParams(state)}`;
    link.setAttribute("aria-label", "Link to this answer");
    const seeds = this.field.seed.options.length > 1 ? `, seed ${seed}` : "";
    const who = element("p", "who", `${label}${seeds} \u00b7 ${persona.label} \u00b7 sample ${number}`);
    if (this.index.seen_known && !(flags & SEEN)) who.append(" \u00b7 unseen question");
    if (flags & HIT) who.append(" \u00b7 ", element("span", "flag", "marker"));
    if (flags & DEGENERATE) who.append(" ", element("span", "flag bad", "degenerate"));
    if (flags & CUT) who.append(" ", element("span", "flag bad", "cut at the limit"));
    who.append(" ", link);
    const text = block.text[place];
    const body = text ? highlighted(text, this.index.marker, this.field.find.value)
      : element("p", "who", "(empty answer)");
    return element("li", "", who, element("p", "question", question), body);
  }

  // What is chosen, on all its pages, as JSON lines.
  download() {
    const lines = this.found.map(([block, place]) => JSON.stringify({
      condition: block.chunk.condition,
      seed: block.chunk.seed,
      persona: this.index.personas[block.persona[place]].name,
      question: this.index.questions[block.question[place]],
      sample: block.sample[place],
      marker: Boolean(block.flags[place] & HIT),
      degenerate: Boolean(block.flags[place] & DEGENERATE),
      cut: Boolean(block.flags[place] & CUT),
      text: block.text[place],
    }));
    const link = element("a", "");
    link.href = URL.createObjectURL(new Blob([lines.join("\n"), "\n"], { type: "application/jsonl" }));
    link.download = "answers.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}

const filters = document.getElementById("filters");
if (filters) {
  const browser = new AnswersBrowser(filters);
  if (location.hash.startsWith("#answers?")) {
    browser.restore();
  } else {
    const watch = new IntersectionObserver((seen) => {
      if (!seen.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      browser.show();
    }, { rootMargin: "600px" });
    watch.observe(filters);
  }
}
