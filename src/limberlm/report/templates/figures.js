// The figures of a page: each element of class "figure" shows page.figures[keyOf(element)], in the page's own light or
// dark look, and on paper in black on white. Below it a button that gives its numbers as CSV; `about` names what was
// chosen, for the file's name.
function makeFigures(page, keyOf, about) {
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
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

  // On paper (A4 or Letter, 96 pixels to the inch) the browser does not tell a figure its width in time.
  function paperWidth(node) {
    return node.closest(".wide") ? 335 : node.closest(".grid") ? 220 : 690;
  }

  // What a figure shows in words, and its numbers as a file.
  function tell(node, figure) {
    const rows = makeRows(figure);
    if (!node.dataset.label) node.dataset.label = node.getAttribute("aria-label");
    node.setAttribute("aria-label", node.dataset.label + ": " + describe(rows) + ".");
    buttonOf(node).hidden = false;
    buttonOf(node).onclick = () => csv.download(csv.name([document.title, ...about(node), node.dataset.label]), rows);
  }

  function buttonOf(node) {
    if (!node.nextElementSibling || !node.nextElementSibling.matches(".csv")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "csv";
      button.textContent = "Data as CSV";
      button.setAttribute("aria-label", "Data as CSV: " + node.getAttribute("aria-label"));
      node.after(button);
    }
    return node.nextElementSibling;
  }

  function draw(node) {
    const figure = page.figures[keyOf(node)];
    if (!figure) {
      buttonOf(node).hidden = true;
      Plotly.purge(node);
      node.style.height = "";
      node.textContent = "Not measured in this run.";
      return;
    }
    if (!node.classList.contains("js-plotly-plot")) node.textContent = "";
    // Plotly drops the layout's height when the window changes, and takes the element's.
    node.style.height = figure.layout.height + "px";
    const template = dark.matches && !printing ? page.templates.dark : page.templates.light;
    const size = printing ? { width: paperWidth(node) } : { autosize: true };
    Plotly.react(node, figure.data, Object.assign({}, figure.layout, { template: template }, size), config(node));
    // Its label says what the drawing shows; ticks and marks one by one would only be noise to a screen reader.
    node.querySelectorAll("svg.main-svg").forEach((drawing) => drawing.setAttribute("aria-hidden", "true"));
    tell(node, figure);
  }

  function drawVisible() {
    all(".figure").filter((node) => node.offsetParent !== null).forEach(draw);
  }

  dark.addEventListener("change", drawVisible);
  window.addEventListener("beforeprint", () => { printing = true; drawVisible(); });
  window.addEventListener("afterprint", () => { printing = false; drawVisible(); });
  return drawVisible;
}
