// The numbers are compressed JSON in base64; nothing is fetched to unpack them.
async function unpack(text) {
  if (typeof DecompressionStream === "undefined") {
    document.getElementById("old-browser").hidden = false;
    throw new Error("This browser is too old for the drawings");
  }
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const data = await unpack(document.getElementById("data").textContent);
