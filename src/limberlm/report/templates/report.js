"use strict";
(function () {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const names = Object.keys(page.metrics);
  const state = { run: "r0", metric: names[0], convention: null, sort: null, down: false, full: false };
  const PAGE_ROWS = 100;
  let printing = false;

  function config(node) {
    return {
      responsive: true,
      displaylogo: false,
      displayModeBar: window.innerWidth > 700 && !node.closest(".grid") ? "hover" : false,
      modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]],
      showTips: false,
      plotlyServerURL: "",
    };
  }

  // A figure that follows the metric picker has a key such as "r0|depth"; the metric and the convention complete it.
  function keyOf(node) {
    const key = node.dataset.figure;
    return /\|(depth|stage)$/.test(key) ? [key, state.metric, state.convention].join("|") : key;
  }

  // On paper (A4 or Letter, 96 pixels to the inch) the browser does not tell a figure its width in time.
  function paperWidth(node) {
    return node.closest(".wide") ? 335 : node.closest(".grid") ? 220 : 690;
  }

  function draw(node) {
    const figure = page.figures[keyOf(node)];
    if (!figure) {
      Plotly.purge(node);
      node.textContent = "Not measured in this run.";
      return;
    }
    if (!node.classList.contains("js-plotly-plot")) node.textContent = "";
    const template = dark.matches && !printing ? page.templates.dark : page.templates.light;
    const size = printing ? { width: paperWidth(node) } : { autosize: true };
    Plotly.react(node, figure.data, Object.assign({}, figure.layout, { template: template }, size), config(node));
  }

  function drawVisible() {
    all(".figure").filter((node) => node.offsetParent !== null).forEach(draw);
  }

  function pickMetric(name) {
    const metric = page.metrics[name];
    if (!metric) return;
    state.metric = name;
    if (!metric.conventions.includes(state.convention)) {
      state.convention = metric.conventions.includes("rms") ? "rms" : metric.conventions[0];
    }
    all(".pick-metric").forEach((select) => { select.value = name; });
    all(".pick-convention").forEach((select) => {
      all("option", select).forEach((option) => { option.disabled = !metric.conventions.includes(option.value); });
      select.value = state.convention;
    });
    const formula = metric.formula ? metric.title + ": " + metric.formula + ". " : "";
    all(".reading").forEach((node) => { node.textContent = formula + metric.reading; });
  }

  function pickRun(key) {
    state.run = key;
    state.full = false;
    all(".run").forEach((node) => { node.hidden = node.dataset.run !== key; });
    fillFilters();
    drawVisible();
    drawTable();
  }

  const table = document.querySelector(".comparisons");
  function rowsOfRun() {
    const stages = page.comparisons.runs[Number(state.run.slice(1))] || [];
    return stages.flatMap(([label, index, node]) => page.comparisons.nodes[node].map((row) => [[label, index], ...row]));
  }

  function fillFilters() {
    all(".filters select").forEach((select) => {
      const column = Number(select.dataset.column);
      const before = select.value;
      const options = [...new Set(rowsOfRun().map((row) => row[column][0]))];
      select.replaceChildren(new Option("all", ""), ...options.map((text) => new Option(text, text)));
      if (options.includes(before)) select.value = before;
    });
  }

  function chosenRows() {
    const filters = all(".filters select").filter((select) => select.value);
    const text = document.querySelector(".find").value.trim().toLowerCase();
    const rows = rowsOfRun().filter((row) =>
      filters.every((select) => row[Number(select.dataset.column)][0] === select.value) &&
      (!text || row.some((cell) => cell[0].toLowerCase().includes(text))));
    if (state.sort === null) return rows;
    const sign = state.down ? -1 : 1;
    return rows.sort((a, b) => {
      const x = a[state.sort][1], y = b[state.sort][1];
      if (x === null || y === null) return (x === null) - (y === null);   // undefined values stay last either way
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
  }

  function element(tag, text, className) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  function drawTable() {
    if (!table) return;
    const rows = chosenRows();
    const shown = state.full ? rows : rows.slice(0, PAGE_ROWS);
    table.tBodies[0].replaceChildren(...shown.map((row) => {
      const line = element("tr");
      row.forEach(([text, exact], column) => {
        const cell = element("td", text, column > 4 ? "n" : "");
        if (column > 4 && exact !== null) cell.dataset.value = exact;
        line.append(cell);
      });
      return line;
    }));
    all("th", table.tHead).forEach((head, column) => {
      if (column === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    document.querySelector(".count").textContent = shown.length + " of " + rows.length + " rows.";
    document.querySelector(".more").hidden = shown.length === rows.length;
  }

  function makeTable() {
    if (!table) return;
    const line = element("tr");
    page.comparisons.heads.forEach((text, column) => {
      const head = element("th", undefined, column > 4 ? "n" : "");
      const button = element("button", text);
      button.type = "button";
      head.scope = "col";
      button.addEventListener("click", () => {
        state.down = state.sort === column ? !state.down : false;
        state.sort = column;
        drawTable();
      });
      head.append(button);
      line.append(head);
    });
    table.tHead.append(line);
    fillFilters();
    // First shown: the change of each stage from the base at the depth band.
    all(".filters select").forEach((select) => {
      const start = { 1: "base", 4: "depth band" }[select.dataset.column];
      if (start && [...select.options].some((option) => option.value === start)) select.value = start;
    });
    const refine = () => { state.full = false; drawTable(); };
    all(".filters select").forEach((select) => select.addEventListener("change", refine));
    document.querySelector(".find").addEventListener("input", refine);
    document.querySelector(".more").addEventListener("click", () => { state.full = true; drawTable(); });
  }

  all(".pick-run").forEach((select) => select.addEventListener("change", () => pickRun(select.value)));
  all(".pick-metric").forEach((select) => select.addEventListener("change", () => { pickMetric(select.value); drawVisible(); }));
  all(".pick-convention").forEach((select) => select.addEventListener("change", () => {
    state.convention = select.value;
    pickMetric(state.metric);
    drawVisible();
  }));
  dark.addEventListener("change", drawVisible);
  window.addEventListener("beforeprint", () => { printing = true; drawVisible(); });
  window.addEventListener("afterprint", () => { printing = false; drawVisible(); });

  makeTable();
  pickMetric(state.metric);
  drawVisible();
  drawTable();
  document.documentElement.dataset.ready = "true";
})();
