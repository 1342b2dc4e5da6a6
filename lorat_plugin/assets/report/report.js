// A click on a heading sorts its table: names from A, numbers from the greatest; again: the other way round.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const rows = [...body.rows].map(row => {
      const cell = row.cells[column];
      return { row, key: cell.dataset.key ?? cell.textContent };
    });
    const numbers = rows.every(({ key }) => !isNaN(key)); // an empty key is a missing value
    const before = head.getAttribute("aria-sort");
    const descending = before === "none" ? numbers : before === "ascending";
    rows.sort((a, b) => {
      if (a.key === "" || b.key === "") return (a.key === "") - (b.key === ""); // missing values stay last
      const order = numbers ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true });
      return descending ? -order : order;
    });
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    body.append(...rows.map(({ row }) => row));
  }));
}
