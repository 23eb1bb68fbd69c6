"use strict";
// What one sees and touches. The worker computes (worker.js); `state` holds what the page shows, `refresh` brings the
// page up to it, part by part, and begins again where the state has changed meanwhile.

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const { height: H, width: W, latent: D } = facts;
const PIXELS = H * W, WALL = 48, COLUMNS = 6, TEXTURES = 7, STEPS = 9, COMPLETIONS = 4, ROUNDS = 120, BIT_SAMPLES = 4;
const FIRST = 4, OTHER = 2;  // samples that the page begins with
const REACH = 3;  // standard deviations from the chosen picture to the end of a slider
const LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";  // Crockford's base 32: none is mistaken for another

const state = {
  seed: "0",          // of the wall
  source: {},         // where the code came from: {sample} of the seed, {code: text}, or {words, drawn}
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
  paintImage($("copy-of-picture"), shown);
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
  state.source = { words: "Your drawing", drawn: true };
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

// --- parts of the page, in the order in which they follow a change ------------------------------------------------

async function refreshPicture() {
  if (state.drawing) await followDrawing();
  else shown = await decode(code(), [[state.texture, item()]]);
  paintPicture();
  describe();
}

// The seed of the ith other texture. That of a drawing is nobody's, so that its first is the seed itself.
const textureOf = (i) => String(BigInt(state.texture) + BigInt(i + (state.drawing ? 0 : 1)) & (1n << 64n) - 1n);

async function refreshTextures() {
  const textures = Array.from({ length: TEXTURES }, (_, i) => [textureOf(i), item()]);
  const images = await decode(repeated(code(), TEXTURES), textures);
  textureTiles.forEach((canvas, i) => paintImage(canvas, i === 0 ? shown : part(images, i - 1)));
  const differing = shown.reduce((sum, value, j) => sum + (value !== images[j]), 0);
  $("changed").textContent =
    `The first is the picture; the second differs from it in ${differing} of ${PIXELS} pixels.`;
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

let later, told = "";
function tell(words) {
  told = words;
  $("string-note").textContent = words;
}

async function refreshString() {
  const { number, of } = await ask("number", { x: shown });
  clearTimeout(later);
  if (of < facts.mostCodes)  // there are more by then
    later = setTimeout(() => refreshString().then(remember).catch(fail), 2000);
  if (document.activeElement !== $("string")) $("string").value = written(number);
  $("string-note").textContent = told || `Of ${of.toLocaleString("en")} codes that every machine can list, the ` +
    `number of the one that fits best: ${Math.ceil(Math.log2(of))} bits as four letters, and one as a check.`;
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

const completionHint = $("completion-note").textContent;
let completed = null, completing = -1;
async function refreshCompletion() {
  const given = state.drawing, open = Boolean(given && given.includes(-1));
  $("completions").hidden = !open;
  if (!open) {
    completed = null;
    $("completion-note").textContent = completionHint;
  }
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
    $("completion-note").textContent =
      `Round ${round} of ${ROUNDS}: each picture agrees with what was kept; press one to take it.`;
    if (round % 20 === 3 || round === ROUNDS) refresh();
  }
}

const parts = [refreshPicture, refreshTextures, refreshBits, refreshString, refreshAxes, refreshBetween, remember];
let turn = 0, running = null;

// Resolves when the page shows the state.
function refresh() {
  ++turn;
  told = "";
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
  const { sample, code: text, words, drawn } = state.source;
  const what = drawn && !state.drawing ? `${words}, decompressed`
    : text ? `Decompressed from ${text}` : words ?? `Sample ${sample} of seed ${state.seed}`;
  const moved = state.moved.some(Boolean) ? ", moved" : "";
  const own = state.drawing || (sample !== undefined && state.texture === state.seed);
  const texture = own ? "" : `, texture ${state.texture}`;
  $("caption").textContent = what + moved + texture;
  const ink = shown.reduce((a, b) => a + b, 0);
  $("picture").setAttribute("aria-label", `${what}${moved}${texture}: ${ink} of ${PIXELS} pixels inked`);
}

function describeControls() {
  axes.forEach(({ slider, output }, a) => {
    slider.value = state.moved[a];
    const steps = state.moved[a], sign = steps > 0 ? "+" : steps < 0 ? "−" : "";
    output.textContent = sign + Math.abs(steps).toFixed(1);
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
function checked(digits) {
  const ofModel = parseInt(facts.digest.slice(0, 2), 16);
  return digits.reduce((sum, digit, i) => sum + (2 * i + 1) * digit, ofModel) & 31;
}

// Throws where the text is none.
function numberOf(text) {
  const letters = text.toUpperCase().replace(/[\s-]/g, "").replaceAll("O", "0").replace(/[IL]/g, "1");
  const digits = [...letters].map((letter) => LETTERS.indexOf(letter));
  if (digits.length !== 5 || digits.includes(-1)) throw new Error("Five letters or digits wanted.");
  if (checked(digits.slice(0, 4)) !== digits[4])
    throw new Error("A letter is wrong, or this is a code of another model.");
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
  let complaint = "";
  try {
    if (!fields.has("code")) throw new Error("");
    await decompress(fields.get("code"), texture ?? "0");
  } catch ({ message }) {
    complaint = message;
    const { z } = await ask("sample", { seed: state.seed, first: sample, n: 1, temperature: 1 });
    show(z, { sample }, texture ?? state.seed);
  }
  const steps = (fields.get("move") ?? "").split(/[ +]/);
  change({ moved: state.moved.map((_, a) => within(steps[a], -REACH, REACH)) });
  await showWall(Math.floor(sample / WALL) * WALL);
  if (complaint) tell(complaint);
}
