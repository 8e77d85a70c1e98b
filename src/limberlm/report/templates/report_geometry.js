// The two figures of a run's geometry, drawn from its nodes' numbers: a metric by depth, and over the depth band by stage.
function makeGeometry(page, numbers) {
  const FINAL_NORM_X = 1.2;  // the final norm is drawn past the last block and apart from it: it is no further block
  const HOVER = "<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>";
  const look = (position) => page.looks.positions[position];
  const finite = (...values) => values.every((value) => !Number.isNaN(value));
  const siteOf = (row) => row.cell[2];
  const isFinal = (row) => siteOf(row) === page.words.final_norm;

  // A stage's rows along the depth, the band aside, each with its place `x`.
  function alongDepth(node, metric, convention) {
    return numbers.geometry(node, metric, convention)
      .filter((row) => siteOf(row) !== page.words.band)
      .map((row) => ({ ...row, x: isFinal(row) ? FINAL_NORM_X : row.cell[3] }))
      .sort((a, b) => a.x - b.x);
  }

  function hover(row, label, metric) {
    const span = words.interval(row.low, row.high, 6);
    const counts = words.count(row.n_tokens) + " tokens, " + words.count(row.n_sequences) + " sequences";
    return [label + ", " + words.plain(page.words.sites[siteOf(row)]),
      words.plain(page.metrics[metric].title) + ": " + words.number(row.value, 6) +
        (span ? "<br>95 % interval " + span : "<br>no interval") + "<br>" + counts];
  }

  function line(x, y, name, position, group) {
    const { colour, dash, symbol } = look(position);
    return {
      type: "scatter", x: x, y: y, name: name, mode: "lines+markers",
      line: { color: colour, width: 2, dash: dash }, marker: { color: colour, symbol: symbol, size: 7 },
      legendgroup: String(group), hovertemplate: HOVER,
    };
  }

  // Intervals as bars from low to high. Not as error bars: a value may lie outside its interval.
  function bars(rows, colour, group) {
    const known = rows.filter((row) => finite(row.low, row.high));
    if (!known.length) return [];
    return [{
      type: "scatter", x: known.flatMap((row) => [row.x, row.x, null]), y: known.flatMap((row) => [row.low, row.high, null]),
      mode: "lines+markers", line: { color: colour, width: 1.6 },
      marker: { color: colour, symbol: "line-ew-open", size: 9 },
      hoverinfo: "skip", showlegend: false, legendgroup: String(group),
    }];
  }

  function ribbon(rows, position, group) {
    const known = rows.filter((row) => finite(row.low, row.high));
    if (known.length < 2) return [];
    const x = known.map((row) => row.x);
    return [{
      type: "scatter", x: [...x, ...x.slice().reverse()],
      y: [...known.map((row) => row.high), ...known.map((row) => row.low).reverse()],
      fill: "toself", fillcolor: look(position).fill, mode: "lines", line: { width: 0 },
      hoverinfo: "skip", showlegend: false, legendgroup: String(group),
    }];
  }

  // The null value at each place, dashed; it starts hidden where it would press the data together.
  function nullLine(rows) {
    const known = new Map();
    rows.filter((row) => finite(row.null_value)).forEach((row) => { if (!known.has(row.x)) known.set(row.x, row.null_value); });
    if (!known.size) return [];
    const values = [...known.values()];
    return [{
      type: "scatter", x: [...known.keys()], y: values, mode: values.length > 1 ? "lines" : "markers",
      name: "null value " + words.number(values[0]), visible: isFar(rows) ? "legendonly" : true,
      line: { color: page.looks.null, width: 1.5, dash: "dash" },
      marker: { color: page.looks.null, symbol: "line-ew-open", size: 16 },
      customdata: values.map((value) => ["Null value: isotropic data", words.number(value, 6)]),
      hovertemplate: HOVER, legendrank: 2000,
    }];
  }

  // True if the data span less than half of the axis once the null value is on it.
  function isFar(rows) {
    const spread = (values) => Math.max(...values) - Math.min(...values);
    const data = rows.flatMap((row) => [row.value, row.low, row.high]).filter((value) => finite(value));
    const nulls = rows.map((row) => row.null_value).filter((value) => finite(value));
    return spread(data) < spread([...data, ...nulls]) / 2;
  }

  function layout(height, xaxis, yaxis) {
    return {
      height: height, xaxis: xaxis, yaxis: yaxis, margin: { l: 10, r: 10, t: 44, b: 46 },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" },
    };
  }

  // Logarithmic with round ticks if the metric changes by ratios and the values span more than a factor of four.
  function valueAxis(rows, metric) {
    const title = { title: { text: page.metrics[metric].axis } };
    const values = rows.flatMap((row) => [row.value, row.null_value]).filter(Number.isFinite);
    const low = Math.min(...values), high = Math.max(...values);
    if (!(page.metrics[metric].ratio && low > 0 && high / low > 4)) return title;
    const ticks = logTicks(low, high);
    return { ...title, type: "log", tickvals: ticks, ticktext: ticks.map((tick) => String(Number(tick.toPrecision(6)))) };
  }

  // Over about one decade Plotly's own read "2, 5, 100, 2".
  function logTicks(low, high) {
    const steps = high / low < 30 ? [1, 1.5, 2, 3, 5, 7] : high / low < 1000 ? [1, 3] : [1];
    const ticks = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) {
      steps.map((step) => step * 10 ** e).filter((tick) => low / 1.2 <= tick && tick <= high * 1.2).forEach((tick) => ticks.push(tick));
    }
    return ticks;
  }

  function depthAxis(rows) {
    const blocks = rows.some((row) => !isFinal(row));
    const ticks = blocks ? [[0, "embed"], [0.25, "25 %"], [0.5, "50 %"], [0.75, "75 %"], [1, "100 %"]] : [];
    if (rows.some(isFinal)) ticks.push([FINAL_NORM_X, "final<br>norm"]);
    const axis = {
      title: { text: "Depth (share of blocks passed)" }, tickangle: 0,
      tickvals: ticks.map(([at]) => at), ticktext: ticks.map(([, text]) => text),
    };
    return blocks ? { ...axis, range: [-0.04, Math.max(...axis.tickvals) + 0.06] } : axis;
  }

  function bandShade(rows) {
    if (rows.every(isFinal)) return {};
    const [low, high] = page.words.band_range;
    return { shapes: [{
      type: "rect", xref: "x", yref: "paper", x0: low, x1: high, y0: 0, y1: 1,
      fillcolor: page.looks.shade, line: { width: 0 }, layer: "below",
    }] };
  }

  // The blocks as a line with a ribbon; the final norm as a point of its own with a bar.
  function depthLine(rows, stage, position, metric) {
    const label = words.plain(stage[0]);
    const drawn = [...ribbon(rows.filter((row) => !isFinal(row)), position, stage[1]),
      ...bars(rows.filter(isFinal), look(position).colour, stage[1])];
    [rows.filter((row) => !isFinal(row)), rows.filter(isFinal)].filter((part) => part.length).forEach((part, i) => {
      const curve = line(part.map((row) => row.x), part.map((row) => row.value), label, position, stage[1]);
      drawn.push({ ...curve, customdata: part.map((row) => hover(row, label, metric)), showlegend: i === 0 });
    });
    return drawn;
  }

  function depth(stages, metric, convention) {
    const found = stages.map(([, , node]) => alongDepth(node, metric, convention));
    const whole = found.flat();
    if (!whole.length) return undefined;
    const data = [...found.flatMap((rows, i) => depthLine(rows, stages[i], i, metric)), ...nullLine(whole.sort((a, b) => a.x - b.x))];
    return { data: data, layout: { ...layout(430, depthAxis(whole), valueAxis(whole, metric)), ...bandShade(whole) } };
  }

  // The band value of each stage with its interval; the value at the final norm where there is no band.
  function byStage(stages, metric, convention) {
    const found = stages.map(([, , node]) => numbers.geometry(node, metric, convention));
    const site = found.flat().some((row) => siteOf(row) === page.words.band) ? page.words.band : page.words.final_norm;
    const known = found.map((rows, i) => [rows.find((row) => siteOf(row) === site), i]).filter(([row]) => row)
      .map(([row, i]) => ({ ...row, position: i, x: words.plain(stages[i][0]) }));
    if (!known.length) return undefined;
    const points = {
      ...line(known.map((row) => row.x), known.map((row) => row.value), "", 0, ""),
      line: { color: page.looks.base, width: 1 },
      marker: {
        color: known.map((row) => look(row.position).colour), symbol: known.map((row) => look(row.position).symbol), size: 10,
      },
      customdata: known.map((row) => hover(row, row.x, metric)), showlegend: false,
    };
    const data = [...nullLine(known), ...known.flatMap((row) => bars([row], look(row.position).colour, "")), points];
    const axis = { title: { text: "Stage, in training order" }, type: "category" };
    return { data: data, layout: layout(360, axis, valueAxis(known, metric)) };
  }

  return { depth: depth, stage: byStage, line: line, layout: layout };
}
