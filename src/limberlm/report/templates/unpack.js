// What the page holds packed: base64 of gzip.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

// Plotly runs, and `start` gets the page's data with its numbers.
async function loadPage(start) {
  try {
    const [plotly, data, numbers] = await Promise.all(["page-plotly", "page-data", "page-numbers"].map(unpacked));
    const script = document.createElement("script");
    script.textContent = await plotly.text();
    document.head.append(script);
    start(await data.json(), joined(new Uint8Array(await numbers.arrayBuffer())));
  } catch (error) {
    document.querySelector(".broken").hidden = false;
    throw error;
  }
}

// The first byte of every number, then the second, ...: as numbers.
function joined(planes) {
  const count = planes.length / 4, bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < 4; plane += 1) {
    for (let i = 0; i < count; i += 1) bytes[4 * i + plane] = planes[plane * count + i];
  }
  return new Float32Array(bytes.buffer);
}
