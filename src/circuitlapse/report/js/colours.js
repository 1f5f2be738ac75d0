// Effects as colours, from the table that the exported figures use too.
function isDark() {
  const forced = document.documentElement.dataset.theme;
  return forced ? forced === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const half = data.colours.steps;
let ramp, inks;
function chooseColours() {
  const theme = isDark() ? "dark" : "light";
  ramp = data.colours.ramp[theme];
  inks = data.colours.ink[theme];
}
chooseColours();

// The signed square root of an effect relative to the scale's end, in [-1, 1].
function colourPlace(effect, largest) {
  return Math.sign(effect) * Math.sqrt(Math.min(1, Math.abs(effect) / largest));
}

function rampIndex(effect, largest) {
  return half + Math.round(half * colourPlace(effect, largest));
}

function toColour(effect, largest = largestEffect) {
  return ramp[rampIndex(effect, largest)];
}

function inkOn(effect, largest = largestEffect) {
  return inks[rampIndex(effect, largest)];
}

// Weights between 0 and 1 take the upper half of the ramp, in proportion.
function weightColour(weight) {
  return ramp[half + Math.round(half * weight)];
}

// One colour scale, drawn once for all panels that it belongs to.
function drawLegend(root, largest, [low, high]) {
  root.replaceChildren();
  const width = 370, left = 22, right = width - 12;
  const place = (value) => left + (right - left) * (0.5 + 0.5 * colourPlace(value, largest));
  const svg = drawing(root, width, 46, `Colour scale from ${number(-largest)} to `
    + `${number(largest)} logits, neutral at zero`);
  const parts = 2 * half + 1;
  svg.selectAll("rect").data(ramp).join("rect")
    .attr("x", (_, part) => left + (right - left) * part / parts)
    .attr("y", 4).attr("height", 11).attr("width", (right - left) / parts + 0.5)
    .attr("fill", (colour) => colour);
  let last = place(0);
  const kept = [0];
  for (const size of [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]) {
    if (size > largest || place(size) - last < 30) continue;
    kept.push(size, -size);
    last = place(size);
  }
  if (place(largest) - last > 24) kept.push(largest, -largest);
  const tick = svg.selectAll("g").data(kept).join("g")
    .attr("transform", (value) => `translate(${place(value)},15)`);
  tick.append("line").attr("class", "tick-line").attr("y2", 4);
  tick.append("text").attr("class", "tick-label").attr("text-anchor", "middle").attr("y", 14)
    .text((value) => d3.format(".2~r")(value));
  svg.append("text").attr("class", "tick-label").attr("x", left).attr("y", 43).text(low);
  svg.append("text").attr("class", "tick-label").attr("x", right).attr("y", 43)
    .attr("text-anchor", "end").text(high);
}
