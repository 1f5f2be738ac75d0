// What the page brings along without a script, to be downloaded as every chart is.
const shareBar = {
  name: "shares", root: document.querySelector("svg.shares"), draw() {}, redrawsOn: [],
  csv: () => data.shares.map(flatRow),
  legend: () => [...document.querySelectorAll(".share-list li")].map((line) =>
    [line.textContent.trim().replace(/\s+/g, " "), getComputedStyle(line.querySelector("rect")).fill]),
};

const calibrationTable = {
  name: "calibration", draw() {}, redrawsOn: [], csv: () => data.calibration.map(flatRow),
};
