// What a figure shows, as rows and as a CSV file: a row for each point or cell, with its interval where one is drawn,
// and with two where points have one each way.
const csv = {
  // A label of Plotly without its small HTML.
  plain: (text) => String(text).replace(/<br>/g, " ").replace(/<[^>]*>/g, "")
    .replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&"),

  cell(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "";
    if (typeof value === "number") return String(value);
    const text = csv.plain(value);
    const inert = /^[=+\-@\t\r\n＝＋－＠]/.test(text) ? "'" + text : text;  // a spreadsheet would take it for a formula
    return /[",\r\n]/.test(inert) ? '"' + inert.replaceAll('"', '""') + '"' : inert;
  },

  text: (rows) => rows.map((row) => row.map(csv.cell).join(",")).join("\r\n") + "\r\n",

  // "Study six", "sft > dpo, seed 0" -> "study-six_sft-dpo-seed-0.csv"
  name: (parts) => parts.filter(Boolean)
    .map((part) => csv.plain(part).toLowerCase().replace(/[^\p{L}\p{N}.]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "").slice(0, 60))
    .filter(Boolean).join("_") + ".csv",

  download(name, rows) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff" + csv.text(rows)], { type: "text/csv" }));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  },
};

function makeRows(figure) {
  const isRibbon = (trace) => trace.fill === "toself";
  const isBars = (trace) => trace.hoverinfo === "skip" && !isRibbon(trace) && trace.x.includes(null);
  const place = (trace, at) => [trace.legendgroup ?? "", trace.xaxis ?? "x", at].join("|");
  const spans = new Map(), across = new Map();
  figure.data.filter((trace) => isRibbon(trace) && trace.hoverinfo === "skip").forEach((trace) => {
    const count = trace.x.length / 2;
    for (let i = 0; i < count; i += 1) spans.set(place(trace, trace.x[i]), [trace.y[2 * count - 1 - i], trace.y[i]]);
  });
  figure.data.filter(isBars).forEach((trace) => {
    for (let i = 0; i + 1 < trace.x.length; i += 3) {
      const upright = trace.x[i] === trace.x[i + 1];
      const [at, along] = upright ? [trace.x[i], trace.y] : [trace.y[i], trace.x];
      (upright ? spans : across).set(place(trace, at), [along[i], along[i + 1]]);
    }
  });

  function title(trace, axis) {
    const found = figure.layout[(trace[axis + "axis"] ?? axis).replace(axis, axis + "axis")];
    return found && found.title && found.title.text ? csv.plain(found.title.text) : axis;
  }

  const both = spans.size > 0 && across.size > 0;
  const told = (own) => (Array.isArray(own) ? [own[0], own[1]] : ["", own ?? ""]);
  const rows = [];
  figure.data.filter((trace) => trace.hoverinfo !== "skip").forEach((trace) => {
    if (trace.type === "heatmap") {
      trace.z.forEach((line, i) => line.forEach((value, j) => {
        rows.push([trace.y[i], trace.x[j], value, null, null, ...told(trace.customdata && trace.customdata[i][j])]);
      }));
      return;
    }
    trace.x.forEach((x, i) => {
      const none = [null, null], beside = across.get(place(trace, trace.y[i])) || none;
      const span = spans.get(place(trace, x)) || (both ? none : beside);
      rows.push([trace.name ?? "", x, trace.y[i], ...span, ...told(trace.customdata && trace.customdata[i]), ...(both ? beside : [])]);
    });
  });
  const first = figure.data.find((trace) => trace.hoverinfo !== "skip") || figure.data[0];
  const names = first.type === "heatmap" ? [title(first, "y"), title(first, "x"), "value"]
    : ["series", title(first, "x"), title(first, "y")];
  const more = both ? ["95 % low of " + names[1], "95 % high of " + names[1]] : [];
  return [[...names, "95 % low", "95 % high", "label", "note", ...more], ...rows];
}

// The figure in a sentence, for who does not see it: each series from its first value to its last.
function describe(rows) {
  const series = new Map();
  rows.slice(1).forEach(([name, x, y]) => {
    const value = typeof y === "number" ? y : x;
    if (typeof value === "number" && !Number.isNaN(value)) series.set(name, [...(series.get(name) || []), value]);
  });
  const brief = (value) => String(Number(value.toPrecision(4))).replace("-", "−");
  const said = [...series].slice(0, 12).map(([name, values]) => {
    const ends = values.length > 1 ? brief(values[0]) + " to " + brief(values.at(-1)) : brief(values[0]);
    return (name ? csv.plain(name) + " " : "") + ends;
  });
  return said.join("; ") + (series.size > 12 ? "; and " + (series.size - 12) + " more" : "");
}
