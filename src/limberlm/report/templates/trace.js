loadPage(function (page) {
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const drawVisible = makeFigures(page, (node) => node.dataset.figure, () => []);

  // Six digits to read, all of them to sort and to copy.
  const grouped = new Intl.NumberFormat("en");
  function text(value, whole) {
    if (value === null) return "–";
    return (whole ? grouped.format(value) : String(Number(value.toPrecision(6)))).replace("-", "−");
  }

  const packed = page.table, texts = packed.names.length;
  const heads = packed.heads;
  const whole = ["Step", "Tokens", "n"].map((name) => heads.indexOf(name));
  const rows = packed.rows.map((row) => row.map((value, column) => {
    if (column < texts) return [packed.names[column][value], packed.names[column][value]];
    return [text(value, whole.includes(column)), value];
  }));
  const table = makeTable(document.querySelector(".comparisons"), heads, texts, () => rows, {});

  // A page opened from a file may be refused the clipboard; the older way needs a selected field.
  function copyByField(lines) {
    const field = document.createElement("textarea");
    field.value = lines;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done ? Promise.resolve() : Promise.reject(new Error("refused"));
  }

  document.querySelector(".copy").addEventListener("click", () => {
    const kept = table.chosen();
    const lines = [heads, ...kept.map((row) => row.map((cell, column) => (column < texts ? cell[0] : cell[1] ?? "")))]
      .map((cells) => cells.join("\t")).join("\n");
    const way = navigator.clipboard ? navigator.clipboard.writeText(lines).catch(() => copyByField(lines)) : copyByField(lines);
    const say = (words) => { document.querySelector(".copied").textContent = words; };
    way.then(() => say("Copied " + kept.length + " rows."), () => say("The browser refused to copy."));
  });

  all(".pick-run").forEach((select) => select.addEventListener("change", () => {
    all(".run").forEach((node) => { node.hidden = node.dataset.run !== select.value; });
    drawVisible();
  }));

  drawVisible();
  document.documentElement.dataset.ready = "true";
});
