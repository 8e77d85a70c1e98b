// A table that sorts by a click on a column head and is narrowed by the selects and the search field of ".filters".
// A row is a list of [text, sort key]; columns from `numbers` on hold numbers, whose sort key is the exact value.
// `start` gives some selects (by column) their first choice.
function makeTable(table, heads, numbers, rows, start) {
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const PAGE_ROWS = 100;
  const state = { sort: null, down: false, full: false };
  const selects = all(".filters select");
  const find = document.querySelector(".find"), more = document.querySelector(".more");

  function element(tag, text, className) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  function chosen() {
    const filters = selects.filter((select) => select.value);
    const text = find.value.trim().toLowerCase();
    const kept = rows().filter((row) =>
      filters.every((select) => row[Number(select.dataset.column)][0] === select.value) &&
      (!text || row.some((cell) => cell[0].toLowerCase().includes(text))));
    if (state.sort === null) return kept;
    const sign = state.down ? -1 : 1;
    return kept.sort((a, b) => {
      const x = a[state.sort][1], y = b[state.sort][1];
      if (x === null || y === null) return (x === null) - (y === null);   // undefined values stay last either way
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
  }

  function draw() {
    const kept = chosen();
    const shown = state.full ? kept : kept.slice(0, PAGE_ROWS);
    table.tBodies[0].replaceChildren(...shown.map((row) => {
      const line = element("tr");
      row.forEach(([text, exact], column) => {
        const cell = element("td", text, column >= numbers ? "n" : "");
        if (column >= numbers && exact !== null) cell.dataset.value = exact;
        line.append(cell);
      });
      return line;
    }));
    all("th", table.tHead).forEach((head, column) => {
      if (column === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    document.querySelector(".count").textContent = shown.length + " of " + kept.length + " rows.";
    more.hidden = shown.length === kept.length;
  }

  // The options follow the rows; a choice that is still among them stays.
  function refill() {
    state.full = false;
    selects.forEach((select) => {
      const column = Number(select.dataset.column);
      const before = select.value;
      const options = [...new Set(rows().map((row) => row[column][0]))];
      select.replaceChildren(new Option("all", ""), ...options.map((text) => new Option(text, text)));
      if (options.includes(before)) select.value = before;
    });
    draw();
  }

  const line = element("tr");
  heads.forEach((text, column) => {
    const head = element("th", undefined, column >= numbers ? "n" : "");
    const button = element("button", text);
    button.type = "button";
    head.scope = "col";
    button.addEventListener("click", () => {
      state.down = state.sort === column ? !state.down : false;
      state.sort = column;
      draw();
    });
    head.append(button);
    line.append(head);
  });
  table.tHead.append(line);
  refill();
  selects.forEach((select) => {
    const first = start[select.dataset.column];
    if (first && [...select.options].some((option) => option.value === first)) select.value = first;
  });
  draw();
  const refine = () => { state.full = false; draw(); };
  selects.forEach((select) => select.addEventListener("change", refine));
  find.addEventListener("input", refine);
  more.addEventListener("click", () => { state.full = true; draw(); });
  return { refill: refill, chosen: chosen };
}
