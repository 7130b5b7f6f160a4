"use strict";
// Tables are whole without this; it sorts, searches and saves them.
const number = (text) => {
  const found = text.replace(/,/g, "").replace(/\u2212/g, "-").match(/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/i);
  return found ? parseFloat(found[0]) : null;
};
const text = (row, column) => row.cells[column].textContent.trim();

function sort(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const numeric = rows.every((row) => number(text(row, column)) !== null || /^[\u2013-]?$/.test(text(row, column)));
  const compare = (a, b) => {
    const [x, y] = [text(a, column), text(b, column)];
    if (!numeric) return x.localeCompare(y, "en", { numeric: true });
    const [p, q] = [number(x), number(y)];
    if (p === null || q === null) return p === q ? 0 : (p === null ? 1 : -1) * (descending ? -1 : 1);
    return p - q;
  };
  rows.sort((a, b) => (descending ? -compare(a, b) : compare(a, b)));
  body.append(...rows);
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") !== "descending" && column > 0
        || head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
  });
}

function csv(table) {
  const quoted = (cell) => `"${cell.textContent.trim().replace(/"/g, '""')}"`;
  return [...table.rows].map((row) => [...row.cells].map(quoted).join(",")).join("\r\n") + "\r\n";
}

function tools(table) {
  const box = document.createElement("div");
  box.className = "tools";
  if ("searched" in table.dataset) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    input.type = "search";
    label.append("Search ", input);
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      const rows = [...table.tBodies[0].rows];
      rows.forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
      count.textContent = wanted ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
    });
    box.append(label, count);
  }
  if (table.dataset.file) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Download CSV";
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
      link.download = table.dataset.file;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    box.append(button);
  }
  if (box.childNodes.length) table.closest(".scroll").before(box);
}

for (const table of document.querySelectorAll("main table")) {
  if (table.tBodies[0].rows.length > 2) makeSortable(table);
  tools(table);
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
