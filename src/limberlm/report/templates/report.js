(function () {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const state = { run: "r0", metric: Object.keys(page.metrics)[0], convention: null };

  // A figure that follows the metric picker has a key such as "r0|depth"; the metric and the convention complete it.
  const drawVisible = makeFigures(page, (node) => {
    const key = node.dataset.figure;
    return /\|(depth|stage)$/.test(key) ? [key, state.metric, state.convention].join("|") : key;
  });

  function rowsOfRun() {
    const stages = page.comparisons.runs[Number(state.run.slice(1))] || [];
    return stages.flatMap(([label, index, node]) => page.comparisons.nodes[node].map((row) => [[label, index], ...row]));
  }

  const element = document.querySelector(".comparisons");
  // First shown: the change of each stage from the base at the depth band.
  const table = element && makeTable(element, page.comparisons.heads, 5, rowsOfRun, { 1: "base", 4: "depth band" });

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
    all(".run").forEach((node) => { node.hidden = node.dataset.run !== key; });
    drawVisible();
    if (table) table.refill();
  }

  all(".pick-run").forEach((select) => select.addEventListener("change", () => pickRun(select.value)));
  all(".pick-metric").forEach((select) => select.addEventListener("change", () => { pickMetric(select.value); drawVisible(); }));
  all(".pick-convention").forEach((select) => select.addEventListener("change", () => {
    state.convention = select.value;
    pickMetric(state.metric);
    drawVisible();
  }));

  pickMetric(state.metric);
  drawVisible();
  document.documentElement.dataset.ready = "true";
})();
