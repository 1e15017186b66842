"use strict";
// Sorting and filtering of the result table. Without this script the table is complete, only fixed.
(function () {
  const table = document.getElementById("result-table");
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];

  function key(row, index) {
    const cell = row.cells[index];
    if (!("value" in cell.dataset)) return null;
    return headings[index].classList.contains("number") ? Number(cell.dataset.value) : cell.dataset.value;
  }

  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null); // undefined values stay last
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  }

  function sort(index) {
    const ascending = headings[index].getAttribute("aria-sort") !== "ascending";
    headings.forEach((heading) => heading.removeAttribute("aria-sort"));
    headings[index].setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = [...body.rows];
    rows.sort((a, b) => compare(key(a, index), key(b, index), ascending ? 1 : -1));
    body.append(...rows);
  }

  headings.forEach((heading, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(heading.firstChild); // the title; the unit stays below
    button.addEventListener("click", () => sort(index));
    heading.prepend(button);
  });

  const filter = document.getElementById("scan-filter");
  filter.addEventListener("change", () => {
    for (const row of body.rows) row.hidden = filter.value !== "" && row.dataset.scan !== filter.value;
  });
})();
