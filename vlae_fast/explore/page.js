"use strict";
// What one sees and touches. The worker computes (worker.js); `state` holds what the page shows, `refresh` brings the
// page up to it, part by part, and begins again where the state has changed meanwhile.

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const { height: H, width: W, latent: D } = facts;
const PIXELS = H * W, WALL = 48, COLUMNS = 6, TEXTURES = 8, STEPS = 9, COMPLETIONS = 4, ROUNDS = 120, BIT_SAMPLES = 4;
const FIRST = 4, OTHER = 2;  // samples that the page begins with
const REACH = 3;  // standard deviations from the chosen picture to the end of a slider
const LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";  // Crockford's base 32: none is mistaken for another

const state = {
  seed: "0",          // of the wall
  source: { sample: 0 },  // where the code came from: {sample} of the seed, {code: text} or {drawing: true}
  origin: null,       // that code, Float32Array [D]
  moved: facts.axes.map(() => 0),  // standard deviations along each axis
  texture: "0",       // seed of the pixels' random numbers
  temperature: 1,
  drawing: null,      // the picture where it is the user's: Int8Array, -1 is forgotten
  start: null,        // the code at the left end of the interpolation
};
let shown = new Uint8Array(PIXELS);  // the picture
let bitsMap = null;

// --- the worker ---------------------------------------------------------------------------------------------------

const worker = new Worker(URL.createObjectURL(new Blob([$("worker").textContent], { type: "text/javascript" })));
const waiting = new Map();
let requests = 0;
worker.onmessage = ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) reject(new Error(data.error)); else resolve(data);
};
worker.onerror = (event) => fail(event.message);

function ask(what, request = {}) {
  return new Promise((resolve, reject) => {
    const id = ++requests;
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ask: what, ...request });
  });
}

function fail(error) {
  $("status").textContent = `This browser cannot compute the page: ${error.message || error}`;
  $("status").className = "note failed";
}

// --- painting -----------------------------------------------------------------------------------------------------

let colors;
function readColors() {
  const style = getComputedStyle(document.documentElement);
  colors = Object.fromEntries(["card", "ink", "unknown", "texture"].map((name) => {
    const hex = style.getPropertyValue(`--${name}`).trim();
    return [name, [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))];
  }));
}

// A colour between two, as a word of four bytes.
function mixed(a, b, t) {
  const [red, green, blue] = a.map((x, i) => Math.round(x + (b[i] - x) * t));
  return 0xFF000000 | blue << 16 | green << 8 | red;
}

function paint(canvas, colorOf) {
  const image = new ImageData(W, H), words = new Uint32Array(image.data.buffer);
  for (let i = 0; i < PIXELS; ++i) words[i] = colorOf(i);
  if (canvas.width !== W || canvas.height !== H) [canvas.width, canvas.height] = [W, H];
  canvas.getContext("2d").putImageData(image, 0, 0);
}
function paintImage(canvas, x) {
  const [card, ink] = [0, 1].map((t) => mixed(colors.card, colors.ink, t));
  paint(canvas, (i) => x[i] ? ink : card);
}
const part = (images, i) => images.subarray(i * PIXELS, (i + 1) * PIXELS);

function paintPicture() {
  const given = state.drawing;
  paint($("picture"), (i) => {
    if (!given || given[i] >= 0) return mixed(colors.card, colors.ink, shown[i]);
    return mixed(colors.unknown, colors.ink, 0.3 * shown[i]);
  });
}

function paintMap() {
  if (!bitsMap) return;
  paint($("map"), (i) => mixed(colors.card, colors.texture, Math.min(1, Math.sqrt(bitsMap[i] / 4))));
}

// A canvas in a button; `chosen` is called when it is pressed.
function tile(label, chosen) {
  const button = document.createElement("button"), canvas = document.createElement("canvas");
  button.type = "button";
  button.className = "tile";
  button.setAttribute("aria-label", label);
  button.append(canvas);
  button.addEventListener("click", chosen);
  return button;
}

function tiles(parent, n, label, chosen) {
  parent.replaceChildren(...Array.from({ length: n }, (_, i) => tile(label(i), () => chosen(i))));
  return [...parent.querySelectorAll("canvas")];
}

// --- the state ----------------------------------------------------------------------------------------------------

function code() {
  const z = state.origin.slice();
  state.moved.forEach((steps, a) => {
    if (steps) for (let d = 0; d < D; ++d) z[d] += steps * facts.spreads[a] * facts.axes[a][d];
  });
  return z;
}

const item = () => state.source.sample ?? 0;
const repeated = (z, n) => Float32Array.from({ length: n * D }, (_, i) => z[i % D]);

function decode(z, textures) {
  return ask("decode", { z, textures, temperature: state.temperature }).then(({ images }) => images);
}

// A picture that is the model's own from now on: of this code, moved by nothing.
function show(origin, source, texture) {
  Object.assign(state, { origin, source, texture, drawing: null });
  state.moved.fill(0);
  refresh();
}

function change(fields) {
  Object.assign(state, fields);
  refresh();
}

// The drawing becomes the picture; what was forgotten is filled in before it is encoded.
async function draw(given) {
  state.drawing = given;
  state.source = { drawing: true };
  state.moved.fill(0);
  if (!given.includes(-1)) shown = Uint8Array.from(given);
  paintPicture();
  ++drawings;
  refresh();
}
let drawings = 0;

async function followDrawing() {
  const given = state.drawing;
  if (!given) return;
  if (given.includes(-1) && !completed) return;
  shown = given.includes(-1) ? Uint8Array.from(given, (value, i) => value < 0 ? part(completed, 0)[i] : value)
    : Uint8Array.from(given);
  const { z } = await ask("encode", { x: shown, seed: state.texture });
  if (state.drawing === given) state.origin = z;
}

// --- parts of the page, in the order in which they follow a change ------------------------------------------------------

async function refreshPicture() {
  if (state.drawing) await followDrawing();
  else shown = await decode(code(), [[state.texture, item()]]);
  paintPicture();
  describe();
}

const textureOf = (i) => String(BigInt(state.texture) + BigInt(i) & (1n << 64n) - 1n);

async function refreshTextures() {
  const textures = Array.from({ length: TEXTURES }, (_, i) => [textureOf(i + (state.drawing ? 0 : 1)), item()]);
  const images = await decode(repeated(code(), TEXTURES), textures);
  textureTiles.forEach((canvas, i) => paintImage(canvas, part(images, i)));
  const differing = shown.reduce((sum, value, j) => sum + (value !== images[j]), 0);
  $("changed").textContent = `The first of these differs from the picture in ${differing} of ${PIXELS} pixels.`;
}

async function refreshBits() {
  const { map, code, texture } = await ask("bits", { x: shown, n: BIT_SAMPLES, seed: "0" });
  bitsMap = map;
  paintMap();
  $("code-bits").textContent = code.toFixed(1);
  $("texture-bits").textContent = texture.toFixed(1);
  const [first, second] = $("split").children, all = Math.max(code, 0) + texture;
  first.style.width = `${100 * Math.max(code, 0) / all}%`;
  second.style.width = `${100 * texture / all}%`;
  const words = `${code.toFixed(1)} bits in the code, ${texture.toFixed(1)} bits in the texture`;
  $("split").setAttribute("aria-label", words);
  $("map").setAttribute("aria-label", `Map of the bits of each pixel: ${words}`);
}

let later;
async function refreshString() {
  const { number, of } = await ask("number", { x: shown });
  clearTimeout(later);
  if (of < facts.mostCodes) later = setTimeout(() => refreshString().catch(fail), 2000);  // there are more by then
  if (document.activeElement !== $("string")) $("string").value = written(number);
  $("string-note").textContent = `Of ${of.toLocaleString("en")} codes that every machine can list, the number of ` +
    `the one that fits best: ${Math.ceil(Math.log2(of))} bits as four letters, and one as a check.`;
}

async function refreshAxes() {
  const z = code(), ends = new Float32Array(2 * axes.length * D);
  axes.forEach((_, a) => [-REACH, REACH].forEach((end, side) => {
    const step = (end - state.moved[a]) * facts.spreads[a];
    for (let d = 0; d < D; ++d) ends[(2 * a + side) * D + d] = z[d] + step * facts.axes[a][d];
  }));
  const images = await decode(ends, Array(2 * axes.length).fill([state.texture, item()]));
  axes.forEach(({ canvases }, a) => canvases.forEach((canvas, side) => paintImage(canvas, part(images, 2 * a + side))));
}

let betweenCodes;
async function refreshBetween() {
  if (!state.start) return;
  const end = code();
  betweenCodes = Array.from({ length: STEPS }, (_, k) => state.start.map((a, d) => a + (end[d] - a) * k / (STEPS - 1)));
  const images = await decode(Float32Array.from(betweenCodes.flatMap((z) => [...z])),
    Array(STEPS).fill([state.texture, item()]));
  betweenTiles.forEach((canvas, k) => paintImage(canvas, part(images, k)));
}

let completed = null, completing = -1;
async function refreshCompletion() {
  const given = state.drawing, open = Boolean(given && given.includes(-1));
  $("completions").hidden = !open;
  if (!open) completed = null;
  if (!open || completing === drawings) return;
  const turn = completing = drawings;
  let begin = true, round = 0;
  while (turn === drawings && state.drawing === given && round < ROUNDS) {
    const rounds = begin ? 3 : 1;
    const answer = await ask("complete", { given, n: COMPLETIONS, seed: state.texture, rounds, begin });
    if (turn !== drawings || state.drawing !== given) return;
    begin = false;
    ({ images: completed, round } = answer);
    completionTiles.forEach((canvas, i) => paintImage(canvas, part(completed, i)));
    $("completion-note").textContent = `Round ${round} of ${ROUNDS}: each picture agrees with what was kept; press one to take it.`;
    if (round % 20 === 3 || round === ROUNDS) refresh();
  }
}

const parts = [refreshPicture, refreshTextures, refreshBits, refreshString, refreshAxes, refreshBetween, remember];
let turn = 0, running = null;

// Resolves when the page shows the state.
function refresh() {
  ++turn;
  describeControls();
  refreshCompletion().catch(fail);
  running ??= run().catch(fail).finally(() => { running = null; });
  return running;
}

async function run() {
  for (let begun = -1; begun !== turn;) {
    begun = turn;
    for (const follow of parts) {
      await follow();
      if (begun !== turn) break;
    }
  }
}

// --- words --------------------------------------------------------------------------------------------------------

function describe() {
  const { sample, code: text, drawing } = state.source;
  const moved = state.moved.some(Boolean) ? ", moved" : "";
  const what = drawing ? state.drawing ? "Your drawing" : "Your drawing, decompressed"
    : text ? `Decompressed from ${text}` : `Sample ${sample} of seed ${state.seed}`;
  const texture = state.drawing || (text === undefined && state.texture === state.seed && !drawing) ? ""
    : `, texture ${state.texture}`;
  $("caption").textContent = what + moved + texture;
  $("picture").setAttribute("aria-label",
    `${what}${moved}${texture}: ${shown.reduce((a, b) => a + b, 0)} of ${PIXELS} pixels inked`);
}

function describeControls() {
  axes.forEach(({ slider, output }, a) => {
    slider.value = state.moved[a];
    output.textContent = `${state.moved[a] > 0 ? "+" : state.moved[a] < 0 ? "−" : ""}${Math.abs(state.moved[a]).toFixed(1)}`;
    slider.setAttribute("aria-valuetext", `${output.textContent} standard deviations`);
  });
  $("temperature").value = state.temperature;
  $("temperature-value").textContent = state.temperature.toFixed(2);
  wallButtons.forEach((button, i) => {
    const chosen = !state.drawing && state.source.sample === wallFirst + i;
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen || (i === 0 && !wallButtons.some((b) => b.tabIndex === 0)) ? 0 : -1;
  });
}

// --- codes as strings ---------------------------------------------------------------------------------------------

// Four letters of a number below 2^20 and one that tells whether it is of this model, and a slip of the finger.
function written(number) {
  const digits = [15, 10, 5, 0].map((shift) => number >> shift & 31);
  return [...digits, checked(digits)].map((digit) => LETTERS[digit]).join("");
}
const checked = (digits) => digits.reduce((sum, digit, i) => sum + (2 * i + 1) * digit, parseInt(facts.digest.slice(0, 2), 16)) & 31;

// Throws where the text is none.
function numberOf(text) {
  const letters = text.toUpperCase().replace(/[\s-]/g, "").replaceAll("O", "0").replace(/[IL]/g, "1");
  const digits = [...letters].map((letter) => LETTERS.indexOf(letter));
  if (digits.length !== 5 || digits.includes(-1)) throw new Error("Five letters or digits wanted.");
  if (checked(digits.slice(0, 4)) !== digits[4]) throw new Error("A letter is wrong, or this is a code of another model.");
  return digits.slice(0, 4).reduce((number, digit) => 32 * number + digit, 0);
}

async function decompress(text, texture = "0") {
  const number = numberOf(text);
  const { z } = await ask("listed", { number });
  show(z, { code: written(number) }, texture);
}

// --- the address --------------------------------------------------------------------------------------------------

let address = "";
async function remember() {
  const fields = new URLSearchParams();
  if (state.source.sample !== undefined) {
    fields.set("seed", state.seed);
    fields.set("sample", state.source.sample);
  } else {
    fields.set("code", state.source.code ?? $("string").value);
  }
  if (state.texture !== state.seed || state.source.sample === undefined) fields.set("texture", state.texture);
  if (state.temperature !== 1) fields.set("temperature", state.temperature);
  if (state.moved.some(Boolean)) fields.set("move", state.moved.join(" "));
  address = `#${fields}`;
  history.replaceState(null, "", address);
}

const wholeIn = (text, most) => /^\d{1,20}$/.test(text ?? "") && BigInt(text) <= most ? text : null;
const WORD = (1n << 64n) - 1n;
const within = (text, least, most) => Math.min(most, Math.max(least, Number(text) || 0));

async function follow() {
  const fields = new URLSearchParams(location.hash.slice(1));
  state.seed = wholeIn(fields.get("seed"), WORD) ?? "0";
  state.temperature = fields.has("temperature") ? within(fields.get("temperature"), 0.3, 1.5) : 1;
  const texture = wholeIn(fields.get("texture"), WORD);
  const sample = Number(wholeIn(fields.get("sample"), 0xFFFFFF00n) ?? FIRST);
  await showWall(Math.floor(sample / WALL) * WALL);
  try {
    if (!fields.has("code")) throw null;
    await decompress(fields.get("code"), texture ?? "0");
  } catch (error) {
    if (error) $("string-note").textContent = error.message;
    choose(sample - wallFirst, texture);
  }
  const steps = (fields.get("move") ?? "").split(/[ +]/);
  change({ moved: state.moved.map((_, a) => within(steps[a], -REACH, REACH)) });
}

// --- controls -----------------------------------------------------------------------------------------------------

let wallFirst = 0, wallImages, wallCodes, wallButtons = [];

async function showWall(first) {
  const { images, z } = await ask("sample", { seed: state.seed, first, n: WALL, temperature: 1 });
  [wallFirst, wallImages, wallCodes] = [first, images, z];
  tiles($("wall"), WALL, (i) => `Sample ${first + i}`, (i) => choose(i)).forEach((canvas, i) => paintImage(canvas, part(images, i)));
  wallButtons = [...$("wall").children];
  wallButtons.forEach((button) => button.setAttribute("role", "option"));
  $("seed").value = state.seed;
}

function choose(i, texture = null) {
  show(wallCodes.slice(i * D, (i + 1) * D), { sample: wallFirst + i }, texture ?? state.seed);
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
  const row = document.createElement("div"), middle = document.createElement("div"), label = document.createElement("label"),
    slider = document.createElement("input"), output = document.createElement("output");
  row.className = "axis";
  Object.assign(slider, { type: "range", min: -REACH, max: REACH, step: 0.1, value: 0, id: `axis-${a}` });
  label.htmlFor = slider.id;
  label.append(`Axis ${a + 1} · ${(100 * facts.shares[a]).toFixed(0)}%`, output);
  middle.append(label, slider);
  const move = (steps) => change({ drawing: null, moved: state.moved.map((old, b) => b === a ? steps : old) });
  slider.addEventListener("input", () => move(Number(slider.value)));
  const [low, high] = [-REACH, REACH].map((end) => tile(`Axis ${a + 1} at ${end} standard deviations`, () => move(end)));
  row.append(low, middle, high);
  $("axes").append(row);
  return { slider, output, canvases: [low, high].map((button) => button.firstChild) };
});

const textureTiles = tiles($("textures"), TEXTURES, (i) => `Texture ${i + 1}: take this one`,
  (i) => change({ texture: textureOf(i + (state.drawing ? 0 : 1)), drawing: null }));
const betweenTiles = tiles($("between"), STEPS, (k) => `Step ${k + 1} of ${STEPS}: take this one`,
  (k) => { if (betweenCodes) show(betweenCodes[k], { drawing: true }, state.texture); });
const completionTiles = tiles($("completions"), COMPLETIONS, (i) => `Completion ${i + 1}: take this one`,
  (i) => { if (completed) draw(Int8Array.from(part(completed, i))); });

const redraw = () => change({ texture: textureOf(state.drawing ? 0 : 1), drawing: null });
$("redraw").addEventListener("click", redraw);
$("more").addEventListener("click", otherWall);
$("reset").addEventListener("click", () => change({ moved: state.moved.map(() => 0) }));
$("pin").addEventListener("click", () => change({ start: code() }));
$("temperature").addEventListener("input", (event) => change({ temperature: Number(event.target.value), drawing: null }));
$("seed").addEventListener("change", async (event) => {
  state.seed = wholeIn(event.target.value.trim(), WORD) ?? state.seed;
  await showWall(0);
  choose(0);
});
$("clear").addEventListener("click", () => draw(new Int8Array(PIXELS)));
$("forget").addEventListener("click", () => draw(Int8Array.from(shown, (value, i) => i < PIXELS - Math.floor(H / 2) * W ? value : -1)));

$("copy").addEventListener("click", async () => {
  $("string").select();
  try {
    await navigator.clipboard.writeText($("string").value);
  } catch {
    document.execCommand("copy");
  }
  $("string-note").textContent = "Copied: five letters instead of a picture.";
});
$("paste").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const text = $("string").value;
    $("string").blur();
    await decompress(text);
  } catch (error) {
    $("string-note").textContent = error.message;
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
  await refresh();
  $("status").textContent = "";
}
begin().catch(fail);
