// The reliability diagrams of a run, drawn from its nodes' bins: accuracy over confidence, and the diagonal.
function makeReliability(page, numbers, drawing) {
  const Z = 1.959963984540054;  // the normal's 97.5 % point

  // Wilson's 95 % interval of a share of n.
  function wilson(share, n) {
    const centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n);
    const half = Z / (1 + Z * Z / n) * Math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n));
    return [Math.max(0, Math.min(share, centre - half)), Math.min(1, Math.max(share, centre + half))];
  }

  function hover({ confidence, accuracy, n }) {
    const [low, high] = wilson(accuracy, n);
    const right = "right " + words.number(100 * accuracy, 3) + " %<br>95 % interval " +
      words.interval(100 * low, 100 * high, 6) + " %";
    return "confidence " + words.number(confidence, 3) + ": " + right + "<br>" + n.toFixed(0) + " answers";
  }

  function curve([label, , node], position, key) {
    const bins = numbers.bins(node, key), name = words.plain(label);
    if (!bins.length) return [];
    const line = drawing.line(bins.map((bin) => bin.confidence), bins.map((bin) => bin.accuracy), name, position, position);
    return [{ ...line, customdata: bins.map((bin) => [name, hover(bin)]) }];
  }

  return function diagram(stages, source, task) {
    const curves = stages.flatMap((stage, position) => curve(stage, position, source + "|" + task));
    if (!curves.length) return undefined;
    const diagonal = {
      type: "scatter", x: [0, 1], y: [0, 1], mode: "lines", name: "calibrated",
      line: { color: page.looks.null, width: 1.5, dash: "dash" }, hoverinfo: "skip",
    };
    const axis = (title) => ({ title: { text: title }, range: [-0.02, 1.02] });
    return { data: [diagonal, ...curves], layout: drawing.layout(360, axis("Confidence"), axis("Share right")) };
  };
}
