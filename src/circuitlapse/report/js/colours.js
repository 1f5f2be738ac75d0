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

// Weights between 0 and 1 take the upper half of the ramp, in proportion.
function weightColour(weight) {
  return ramp[half + Math.round(half * weight)];
}

const parsed = (text) => document.importNode(
  new DOMParser().parseFromString(text, "image/svg+xml").documentElement, true);

// A colour scale as Python draws it, in the theme's colours.
function drawLegend(id) {
  const root = document.getElementById(id);
  root.replaceChildren(parsed(data.map.drawings[id]));
  d3.select(root).selectAll("rect").attr("fill", (_, place) => ramp[place]);
}
