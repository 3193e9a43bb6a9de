"use strict";
// Tables that sort by any column; without this script they keep the order in which they were written.
(() => {
  const value = (row, column) => {
    const text = row.cells[column].dataset.order;
    if (text === undefined) return null;
    return row.cells[column].classList.contains("number") ? Number(text) : text;
  };

  const compare = (first, second) => {
    if (typeof first === "number" && typeof second === "number") return first - second;
    return String(first).localeCompare(String(second), "en", { numeric: true });
  };

  const sort = (table, column, descending) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => ({ row, key: value(row, column) }));
    keyed.sort((first, second) => {
      // What is missing goes last, whichever way the column is sorted.
      if (first.key === null || second.key === null) return (first.key === null) - (second.key === null);
      return (descending ? -1 : 1) * compare(first.key, second.key);
    });
    body.append(...keyed.map(({ row }) => row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const descending = header.getAttribute("aria-sort") === "ascending";
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, column, descending);
      });
    });
  }
})();
