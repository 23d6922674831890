// Sortable tables: every column title becomes a button. The third press restores the first order.
function sortKey(row, column) {
  const cell = row.cells[column];
  return cell.hasAttribute("data-sort") ? cell.getAttribute("data-sort") : null;
}

function sortedRows(rows, column, descending) {
  const keys = new Map(rows.map((row) => [row, sortKey(row, column)]));
  const numeric = rows.every((row) => keys.get(row) === null || !Number.isNaN(Number(keys.get(row))));
  return [...rows].sort((left, right) => {
    const a = keys.get(left);
    const b = keys.get(right);
    if (a === null || b === null) return (a === null) - (b === null); // no value: last, either way
    const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en");
    return descending ? -order : order;
  });
}

function makeSortable(table) {
  const titles = Array.from(table.tHead.querySelectorAll("tr.titles th"));
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  titles.forEach((title, column) => {
    if (!rows.some((row) => sortKey(row, column) !== null)) return;
    const button = element("button", "", ...title.childNodes);
    button.type = "button";
    title.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "" }[title.getAttribute("aria-sort")] ?? "ascending";
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) title.setAttribute("aria-sort", next);
      body.append(...(next ? sortedRows(rows, column, next === "descending") : rows));
    });
  });
}

// A link into a closed part opens it.
function reveal() {
  const target = document.getElementById(fragment());
  if (!target) return;
  let opened = false;
  for (let part = target.closest("details"); part; part = part.parentElement.closest("details")) {
    opened = opened || !part.open;
    part.open = true;
  }
  if (opened) target.scrollIntoView();
}

document.querySelectorAll("table").forEach(makeSortable);
window.addEventListener("hashchange", reveal);
reveal();

// On paper nothing can be opened.
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details.print").forEach((part) => { part.open = true; });
});
