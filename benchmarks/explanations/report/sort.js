"use strict";
// Headings become buttons here, so that without this script there is no button that does nothing.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, headings, column));
  });
}

function sort(table, headings, column) {
  const heading = headings[column];
  const first = heading.dataset.first;
  const other = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  for (const each of headings) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  // Each body by itself: controls never come between methods.
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("part"));
    rows.sort((a, b) => compare(a.cells[column], b.cells[column], sign));
    body.append(...rows);
  }
  const status = document.getElementById("status");
  status.textContent = `${table.caption.dataset.title}: sorted by ${heading.dataset.name}, ${order}`;
}

function compare(a, b, sign) {
  const x = a.dataset.value;
  const y = b.dataset.value;
  // What has no value comes last in either order.
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
  const numbers = [Number(x), Number(y)];
  if (numbers.every((value) => !Number.isNaN(value))) return sign * (numbers[0] - numbers[1]);
  return sign * x.localeCompare(y, "en", { numeric: true });
}
