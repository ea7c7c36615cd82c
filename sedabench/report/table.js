/* Sorts and filters the trials tables of the page. */
"use strict";
(() => {
function Trials(part) {
  const table = part.querySelector("table"), body = table.tBodies[0], rows = [...body.rows];
  const [find, which, all, whole, count] =
    [".find", ".which", ".all", ".whole", ".count"].map(c => part.querySelector(c));
  const heads = [...table.tHead.rows[0].cells];
  const words = rows.map(row => [...row.cells].map(cell => cell.textContent).join(" ").toLowerCase());

  function filter() {
    const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = which.value;
    let shown = 0;
    rows.forEach((row, i) => {
      const fits = !kind || (kind === "valid" ? !row.classList.contains("invalid") : row.classList.contains(kind));
      row.hidden = !(fits && wanted.every(word => words[i].includes(word)));
      shown += !row.hidden;
    });
    count.textContent = `${shown} of ${rows.length}`;
  }

  function sort(column) {
    const head = heads[column], down = head.getAttribute("aria-sort") === "ascending";
    const text = row => row.cells[column].textContent;
    const value = +head.dataset.number ? row => parseFloat(text(row).replaceAll(",", "")) : text;
    const keyed = [...body.rows].map(row => [text(row) === "", value(row), row]);
    keyed.sort(([emptyA, a], [emptyB, b]) =>
      emptyA - emptyB || (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));   // nothing comes last
    body.append(...keyed.map(([, , row]) => row));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
  find.addEventListener("input", filter);
  which.addEventListener("change", filter);
  all.addEventListener("change", () => table.classList.toggle("everything", all.checked));
  whole.addEventListener("change", () => table.classList.toggle("whole", whole.checked));
  body.addEventListener("click", event => event.target.closest("tr").classList.toggle("open"));
}
document.querySelectorAll("section.trials").forEach(Trials);
document.documentElement.classList.add("ready");
})();
