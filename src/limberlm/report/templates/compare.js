loadPage(function (page) {
  makeFigures(page, (node) => node.dataset.figure, () => [])();
  document.documentElement.dataset.ready = "true";
});
