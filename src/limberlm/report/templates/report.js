loadPage(function (page, floats) {
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const numbers = makeNumbers(page, floats), geometry = makeGeometry(page, numbers);
  const reliability = makeReliability(page, numbers, geometry);
  const state = { run: "r0", metric: Object.keys(page.metrics)[0], convention: null, choices: page.choices };
  const stagesOf = (key) => page.runs[Number(key.slice(1))] || [];

  // A figure's key as the template has it, or with what the reader chose at its end. Those of geometry and calibration
  // are made when they are first shown.
  function keyOf(node) {
    const [run, kind, source, ...task] = node.dataset.figure.split("|");
    const follows = node.dataset.follows;
    if (follows) return node.dataset.figure + "|" + state.choices[follows];
    if (kind === "reliability" && !(node.dataset.figure in page.figures)) {
      page.figures[node.dataset.figure] = reliability(stagesOf(run), source, task.join("|"));
    }
    if (kind !== "depth" && kind !== "stage") return page.aliases[node.dataset.figure] || node.dataset.figure;
    const key = [run, kind, state.metric, state.convention].join("|");
    if (!(key in page.figures)) page.figures[key] = geometry[kind](stagesOf(run), state.metric, state.convention);
    return key;
  }

  function about(node) {
    const [run, kind] = node.dataset.figure.split("|"), place = Number(run.slice(1));
    const chosen = node.dataset.follows ? [state.choices[node.dataset.follows]] : [];
    if (kind === "depth" || kind === "stage") chosen.push(state.metric, state.convention);
    return [page.labels[place], ...chosen];
  }

  const drawVisible = makeFigures(page, keyOf, about);
  const rowsOf = new Map();

  function rowsOfRun() {
    if (!rowsOf.has(state.run)) rowsOf.set(state.run, numbers.comparisons(stagesOf(state.run)));
    return rowsOf.get(state.run);
  }

  const element = document.querySelector(".comparisons");
  // First shown: the change of each stage from the base at the depth band.
  const table = element && makeTable(element, page.heads, 5, rowsOfRun, { 1: "base", 4: "depth band" });

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

  // A run's part of a section, which is kept packed until it is first shown.
  function fill(node) {
    if (!node.dataset.kept) return;
    node.innerHTML = page.kept.parts[Number(node.dataset.kept)].map((piece) => page.kept.pieces[piece]).join("");
    delete node.dataset.kept;
    Object.entries(state.choices).forEach(([name, value]) => follow(name, value));
    pickMetric(state.metric);
  }

  function pickRun(key) {
    state.run = key;
    all(".run").forEach((node) => { node.hidden = node.dataset.run !== key; });
    all(".run:not([hidden])").forEach(fill);
    all(".pick-run").forEach((select) => { select.value = key; });
    drawVisible();
    if (table) table.refill();
  }

  function follow(name, value) {
    all(`.pick-choice[data-choice="${name}"]`).forEach((select) => { select.value = value; });
    all(`[data-when-${name}]`).forEach((node) => { node.hidden = node.getAttribute("data-when-" + name) !== value; });
  }

  function choose(name, value) {
    state.choices[name] = value;
    follow(name, value);
    drawVisible();
  }

  all(".pick-run").forEach((select) => select.addEventListener("change", () => pickRun(select.value)));
  all(".show-run").forEach((button) => button.addEventListener("click", () => {
    pickRun(button.dataset.show);
    document.querySelector(".run-picker").scrollIntoView();
    document.querySelector(".pick-run").focus({ preventScroll: true });
  }));
  // Those of a run that is shown later among them.
  document.addEventListener("change", ({ target }) => {
    if (target.matches(".pick-choice")) choose(target.dataset.choice, target.value);
  });
  all(".pick-metric").forEach((select) => select.addEventListener("change", () => { pickMetric(select.value); drawVisible(); }));
  all(".pick-convention").forEach((select) => select.addEventListener("change", () => {
    state.convention = select.value;
    pickMetric(state.metric);
    drawVisible();
  }));

  pickMetric(state.metric);
  drawVisible();
  document.documentElement.dataset.ready = "true";
});
