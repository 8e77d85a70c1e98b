// The numbers of the page: packed arrays of 32-bit floats, tables of them, and numbers as a reader meets them (the same
// text as limberlm.report.words gives).
const words = {
  exponent: (value, digits) => value.toExponential(digits - 1).replace(/e([+-])(\d)$/, "e$10$2").replaceAll("-", "−"),

  number(value, digits = 4) {
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    if (value !== 0 && !(size >= 1e-4 && size < 1e7)) return words.exponent(value, digits);
    const decimals = digits - 1 - (value ? Math.floor(Math.log10(size)) : 0);
    return value.toFixed(Math.max(decimals, 0)).replace("-", "−");
  },

  count: (value) => Number.isFinite(value) ? value.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ",") : words.number(value),

  signed: (text) => /^\d/.test(text) && /[1-9]/.test(text) ? "+" + text : text,

  interval: (low, high, digits = 4) =>
    Number.isNaN(low) || Number.isNaN(high) ? "" : words.number(low, digits) + " to " + words.number(high, digits),

  change(ratio, value) {
    if (!ratio) return words.signed(words.number(value, 3));
    const percent = 100 * (value - 1);
    if (!Number.isFinite(percent)) return words.number(percent);
    const text = percent.toFixed(Math.abs(percent) >= 1 ? 1 : 2).replace("-", "−");
    return words.signed(Number(text.replace("−", "-")) === 0 ? "0" : text) + "\u00a0%";
  },

  changeInterval(ratio, low, high) {
    if (Number.isNaN(low) || Number.isNaN(high)) return "";
    return words.change(ratio, low).replace(/\u00a0%$/, "") + " to " + words.change(ratio, high);
  },

  p: (value) => Number.isNaN(value) ? "–" : value < 1e-4 ? "<\u00a00.0001" : value.toFixed(4),

  // A user's text for a label of Plotly, which reads a small HTML of its own.
  plain: (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"),
};

function makeNumbers(page, floats) {
  const starts = [0];
  page.arrays.forEach((length) => starts.push(starts.at(-1) + length));
  const unpack = (number) => floats.subarray(starts[number], starts[number + 1]);

  // The rows of one node's table: each has its cell, as it stands in `cells`, and its number in every column.
  function rows(cells, columns) {
    const { cells: present, ...packed } = columns;
    const places = present === undefined ? cells.map((_, place) => place) : Array.from(unpack(present));
    const values = Object.entries(packed).map(([name, number]) => [name, unpack(number)]);
    return places.map((place, i) => {
      const row = { cell: cells[place] };
      values.forEach(([name, array]) => { row[name] = Number(array[i].toPrecision(7)); });  // what four bytes hold
      return row;
    });
  }

  // The bins of a node's reliability diagram, of one source and task.
  function bins(node, key) {
    const columns = (page.reliability[node] || {})[key];
    return columns ? rows(Array.from(unpack(columns.n)), columns) : [];
  }

  const known = new Map();

  // The geometry of a node: rows of one metric under one convention.
  function geometry(node, metric, convention) {
    if (!known.has(node)) {
      const own = page.geometry.nodes[node];
      const byMetric = new Map();
      (own ? rows(page.geometry.cells, own) : []).forEach((row) => {
        const key = row.cell[0] + "|" + row.cell[1];
        byMetric.set(key, [...(byMetric.get(key) || []), row]);
      });
      known.set(node, byMetric);
    }
    return known.get(node).get(metric + "|" + convention) || [];
  }

  // The rows of the table of comparisons for one run: [text, sort key] of every column.
  function comparisons(stages) {
    return stages.flatMap(([label, index, node]) =>
      Object.entries(page.comparisons.nodes[node] || {}).flatMap(([against, columns]) =>
        rows(page.comparisons.cells, columns).map((row) => comparison(row, [label, index], against))));
  }

  function comparison(row, stage, against) {
    const [metric, convention, site, place, none, headline] = row.cell;
    const ratio = none === 1;
    // An interval is centred on the change: what four bytes hold of its ends.
    const [low, high] = [-row.half, row.half].map((half) =>
      Number((ratio ? row.corrected * Math.exp(half) : row.corrected + half).toPrecision(7)));
    const other = page.words.against[against] || against;
    const adjusted = Number.isNaN(row.p_adjusted) ? "–" : words.p(row.p_adjusted) + (headline ? " Holm" : " BH");
    const title = page.words.titles[metric];
    const key = (value) => Number.isNaN(value) ? null : value;
    return [
      stage, [other, other], [title, title], [convention, convention], [page.words.sites[site], place],
      [words.number(row.a), key(row.a)], [words.number(row.b), key(row.b)],
      [words.change(ratio, row.corrected), key(row.corrected - none)],
      [words.changeInterval(ratio, low, high) || "–", key(low - none)],
      [words.p(row.p_value), key(row.p_value)], [adjusted, key(row.p_adjusted)],
    ];
  }

  return { geometry: geometry, comparisons: comparisons, bins: bins };
}
