// What one touches: the wall, the sliders, the buttons, the pen. Follows page.js in the same script.

// --- the wall ------------------------------------------------------------------------------------------------------

let wallFirst = 0, wallImages, wallCodes, wallButtons = [];

async function showWall(first) {
  const { images, z } = await ask("sample", { seed: state.seed, first, n: WALL, temperature: 1 });
  [wallFirst, wallImages, wallCodes] = [first, images, z];
  const canvases = tiles($("wall"), WALL, (i) => `Sample ${first + i}`, choose);
  canvases.forEach((canvas, i) => paintImage(canvas, part(images, i)));
  wallButtons = [...$("wall").children];
  wallButtons.forEach((button) => button.setAttribute("role", "option"));
  $("seed").value = state.seed;
  describeControls();
}

function choose(i) {
  show(wallCodes.slice(i * D, (i + 1) * D), { sample: wallFirst + i }, state.seed);
}

async function otherWall() {
  await showWall((wallFirst + WALL) % 0xFFFFFF00);
  choose(0);
}

// Keys move within the wall as in a grid.
$("wall").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -COLUMNS, ArrowDown: COLUMNS }[event.key];
  const next = wallButtons[wallButtons.indexOf(document.activeElement) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
  next.click();
});

const axes = facts.axes.map((_, a) => {
  const [row, middle, label, slider, output] = ["div", "div", "label", "input", "output"]
    .map((name) => document.createElement(name));
  row.className = "axis";
  Object.assign(slider, { type: "range", min: -REACH, max: REACH, step: 0.1, value: 0, id: `axis-${a}` });
  label.htmlFor = slider.id;
  label.append(`Axis ${a + 1} · ${(100 * facts.shares[a]).toFixed(0)}%`, output);
  middle.append(label, slider);
  const move = (steps) => change({ drawing: null, moved: state.moved.map((old, b) => b === a ? steps : old) });
  slider.addEventListener("input", () => move(Number(slider.value)));
  const [low, high] = [-REACH, REACH]
    .map((end) => tile(`Axis ${a + 1} at ${end} standard deviations`, () => move(end)));
  row.append(low, middle, high);
  $("axes").append(row);
  return { slider, output, canvases: [low, high].map((button) => button.firstChild) };
});

const textureTiles = tiles($("textures"), 1 + TEXTURES, (i) => i ? `Other texture ${i}: take this one` : "The picture",
  (i) => { if (i) redraw(i - 1); });
const betweenTiles = tiles($("between"), STEPS, (k) => `Step ${k + 1} of ${STEPS}: take this one`,
  (k) => { if (betweenCodes) show(betweenCodes[k], { words: "Between two pictures" }, state.texture); });
const completionTiles = tiles($("completions"), COMPLETIONS, (i) => `Completion ${i + 1}: take this one`,
  (i) => { if (completed) draw(Int8Array.from(part(completed, i))); });

const redraw = (i = 0) => change({ texture: textureOf(i), drawing: null });
$("redraw").addEventListener("click", () => redraw());
$("more").addEventListener("click", otherWall);
$("reset").addEventListener("click", () => change({ moved: state.moved.map(() => 0) }));
$("pin").addEventListener("click", () => change({ start: code() }));
$("temperature").addEventListener("input",
  (event) => change({ temperature: Number(event.target.value), drawing: null }));
$("seed").addEventListener("change", async (event) => {
  state.seed = wholeIn(event.target.value.trim(), WORD) ?? state.seed;
  await showWall(0);
  choose(0);
});
$("clear").addEventListener("click", () => draw(new Int8Array(PIXELS)));
$("forget").addEventListener("click", () => {
  const kept = Math.ceil(H / 2) * W;
  draw(Int8Array.from(shown, (value, i) => i < kept ? value : -1));
});

$("copy").addEventListener("click", async () => {
  $("string").select();
  try {
    await navigator.clipboard.writeText($("string").value);
  } catch {
    document.execCommand("copy");
  }
  tell("Copied: five letters instead of a picture.");
});
$("paste").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const text = $("string").value;
    $("string").blur();
    await decompress(text);
  } catch (error) {
    tell(error.message);
  }
});

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input[type=text]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "r") redraw();
  if (event.key === "n") otherWall();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readColors();
  wallButtons.forEach((button, i) => paintImage(button.firstChild, part(wallImages, i)));
  refresh();
});
addEventListener("hashchange", () => { if (location.hash !== address) follow().catch(fail); });

// --- drawing ------------------------------------------------------------------------------------------------------

const pen = () => Number(document.querySelector("#pens input:checked").value);

// Marks a pixel and those beside it; thick pens for what takes away.
function mark(given, row, column) {
  const value = pen();
  for (let i = -1; i <= 1; ++i)
    for (let j = -1; j <= 1; ++j) {
      const [r, c] = [row + i, column + j];
      if ((value === 1 && Math.abs(i) + Math.abs(j) > 1) || r < 0 || r >= H || c < 0 || c >= W) continue;
      given[r * W + c] = value;
    }
}

const canvas = $("picture");
let last = null;

function stroke(event) {
  const box = canvas.getBoundingClientRect(), given = Int8Array.from(state.drawing ?? shown);
  for (const { clientX, clientY } of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
    const at = [(clientY - box.top) / box.height * H, (clientX - box.left) / box.width * W];
    const from = last ?? at, steps = Math.ceil(Math.max(...at.map((x, i) => Math.abs(x - from[i])), 0.1) * 2);
    for (let k = 1; k <= steps; ++k)
      mark(given, ...at.map((x, i) => Math.floor(from[i] + (x - from[i]) * k / steps)));
    last = at;
  }
  draw(given);
}
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = null;
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1 && last) stroke(event); });
canvas.addEventListener("pointerup", () => { last = null; });
canvas.addEventListener("pointercancel", () => { last = null; });

const cursor = [Math.floor(H / 2), Math.floor(W / 2)];
function showCursor() {
  const box = $("cursor").style;
  [box.top, box.height] = [`${100 * cursor[0] / H}%`, `${100 / H}%`];
  [box.left, box.width] = [`${100 * cursor[1] / W}%`, `${100 / W}%`];
}
canvas.addEventListener("focus", () => { $("cursor").hidden = !canvas.matches(":focus-visible"); showCursor(); });
canvas.addEventListener("blur", () => { $("cursor").hidden = true; });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!step && event.key !== " ") return;
  event.preventDefault();
  $("cursor").hidden = false;
  if (step) [H, W].forEach((n, i) => { cursor[i] = (cursor[i] + step[i] + n) % n; });
  showCursor();
  if (step && !event.shiftKey) return;
  const given = Int8Array.from(state.drawing ?? shown), at = cursor[0] * W + cursor[1];
  given[at] = pen() === 1 && given[at] === 1 && !step ? 0 : pen();
  draw(given);
});

// --- the beginning ------------------------------------------------------------------------------------------------

async function begin() {
  document.documentElement.style.setProperty("--w", W);
  document.documentElement.style.setProperty("--h", H);
  readColors();
  await ask("open", { facts, module: $("module").textContent, weights: $("weights").textContent });
  await follow();
  state.start = wallCodes.slice(OTHER * D, (OTHER + 1) * D);
  const learned = facts.trainedOn ? `, learned from ${facts.trainedOn}` : "";
  $("about").textContent = `Model ${facts.name}${learned}: ${facts.weights.toLocaleString("en")} weights, codes of ` +
    `${D} dimensions, images of ${H} × ${W} pixels.`;
  await running;
  await refreshBetween();
  $("status").textContent = "";
}
begin().catch(fail);
