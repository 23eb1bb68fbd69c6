"use strict";
// All computing of the page, one request after the other. A request is {id, ask, ...}, its answer {id, ...}. Images are
// Uint8Array of 0 and 1 (ink), codes Float32Array; `textures` are [seed, item] an image, the noise of its pixels.

const SAMPLE = 0, POSTERIOR = 1, RECONSTRUCTION = 2, INPAINTING = 6, CODEBOOK = 7;  // streams of vlae_fast/noise.py
const AT_ONCE = 16;  // images
const DECISIONS = 5, START_ROUNDS = 20;  // of vlae_fast/inpainting.py
const FEWEST = 256;  // codes that are listed before the first is chosen
const PAUSE = 100;  // milliseconds without a request before codes are listed
const LN2 = Math.log(2);

let wasm, facts, arrays, codes;

const size = () => facts.height * facts.width;

function bytesOf(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; ++i) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// Claims n floats; `at` is their address. A call of the module may move the memory: views are made anew after it.
const claim = (n) => ({ at: wasm.take(n), n });
const floats = (array, n = array.n, from = 0) => new Float32Array(wasm.memory.buffer, array.at + 4 * from, n);

async function open(request) {
  facts = request.facts;
  wasm = (await WebAssembly.instantiate(bytesOf(request.module))).instance.exports;
  const weights = bytesOf(request.weights), place = wasm.take(Math.ceil(weights.length / 4));
  new Uint8Array(wasm.memory.buffer, place, weights.length).set(weights);
  wasm.open(place);
  const D = facts.latent, pixels = size();
  arrays = {};
  for (const name of ["z", "eps", "mean", "std", "logStd"]) arrays[name] = claim(AT_ONCE * D);
  for (const name of ["x", "uniforms", "scores"]) arrays[name] = claim(AT_ONCE * pixels);
  arrays.context = claim(AT_ONCE * pixels * facts.contextMaps);
  arrays.given = claim(Math.ceil(AT_ONCE * pixels / 4));
  arrays.decisions = claim(DECISIONS);
  arrays.logDet = claim(AT_ONCE);
  codes = { z: claim(facts.mostCodes * D), halfSquares: claim(facts.mostCodes), count: 0 };
  setTimeout(list, PAUSE);
  return {};
}

const place = (array, i, n) => array.at + 4 * i * n;

// Numbers `start` on of an item: normals to row i of eps, uniforms to row i of `to`.
function noise(seed, stream, item, i, options = {}) {
  const { start = 0, normals = facts.latent, uniforms = size(), to = arrays.uniforms } = options, wide = BigInt(seed);
  wasm.noise(Number(wide & 0xFFFFFFFFn), Number(wide >> 32n), stream, item, start, normals, uniforms,
    place(arrays.eps, i, facts.latent), place(to, i, uniforms));
}

function keep(given, n) {
  if (!given) return 0;
  new Int8Array(wasm.memory.buffer, arrays.given.at, n * size()).set(given);
  return arrays.given.at;
}

// Images of the codes, contexts' and noises' rows 0..n-1.
function drawn(n, temperature = 1, given = null) {
  wasm.decode(n, arrays.z.at, arrays.context.at);
  wasm.draw(n, arrays.context.at, arrays.uniforms.at, keep(given, n), temperature, arrays.x.at);
  return Uint8Array.from(floats(arrays.x, n * size()));
}

function encode(x, n = 1) {
  floats(arrays.x, n * size()).set(x);
  wasm.encode(n, arrays.x.at, arrays.mean.at, arrays.std.at, arrays.logStd.at);
}

// Rows of z from q(z|x), of moment row i % moments and noise row i.
function posterior(n, moments = n) {
  const D = facts.latent, mean = floats(arrays.mean), std = floats(arrays.std), eps = floats(arrays.eps),
    z = floats(arrays.z);
  for (let i = 0; i < n * D; ++i) {
    const j = i % (moments * D);
    z[i] = mean[j] + Math.fround(std[j] * eps[i]);
  }
}

// Calls body(first, count) for runs of at most AT_ONCE of n images.
function runs(n, body) {
  for (let first = 0; first < n; first += AT_ONCE) body(first, Math.min(AT_ONCE, n - first));
}

const answers = {
  open,

  // Images first..first+n-1 of model.sample(seed=), and their codes.
  sample({ seed, first, n, temperature }) {
    const images = new Uint8Array(n * size()), z = new Float32Array(n * facts.latent);
    runs(n, (start, count) => {
      for (let i = 0; i < count; ++i) noise(seed, SAMPLE, first + start + i, i);
      wasm.code_of(count, arrays.eps.at, arrays.z.at);
      z.set(floats(arrays.z, count * facts.latent), start * facts.latent);
      images.set(drawn(count, temperature), start * size());
    });
    return { images, z };
  },

  // model.decode: images of codes [n, D], each with its texture.
  decode({ z, textures, temperature }) {
    const n = textures.length, images = new Uint8Array(n * size()), D = facts.latent;
    runs(n, (start, count) => {
      for (let i = 0; i < count; ++i) noise(textures[start + i][0], SAMPLE, textures[start + i][1], i);
      floats(arrays.z, count * D).set(z.subarray(start * D, (start + count) * D));
      images.set(drawn(count, temperature), start * size());
    });
    return { images };
  },

  // A code from q(z|x) of an image, that of model.reconstruct.
  encode({ x, seed }) {
    encode(x);
    noise(seed, RECONSTRUCTION, 0, 0);
    posterior(1);
    return { z: floats(arrays.z, facts.latent).slice() };
  },

  // model.reconstruct of n copies of an image.
  reconstruct({ x, n, seed }) {
    encode(x);
    for (let i = 0; i < n; ++i) noise(seed, RECONSTRUCTION, i, i);
    posterior(n, 1);
    return { images: drawn(n) };
  },

  // What model.sampled_bounds(x, n, seed=seed) says, on average over n codes, in bits: of the code, of each pixel.
  bits({ x, n, seed }) {
    const D = facts.latent, pixels = size(), map = new Float32Array(pixels);
    encode(x);
    for (let i = 0; i < n; ++i) noise(seed, POSTERIOR, 0, i, { start: i * D, uniforms: 0 });
    const eps = floats(arrays.eps, n * D).slice(), logStd = floats(arrays.logStd, D).slice();
    posterior(n, 1);
    wasm.prior_of(n, arrays.z.at, arrays.eps.at, arrays.logDet.at);
    const ofPrior = floats(arrays.eps);
    let code = 0;
    for (let i = 0; i < n * D; ++i) code += (ofPrior[i] ** 2 - eps[i] ** 2) / 2 - logStd[i % D];
    wasm.decode(n, arrays.z.at, arrays.context.at);
    for (let i = 0; i < n; ++i) floats(arrays.x, pixels, i * pixels).set(x);
    wasm.score(n, arrays.x.at, arrays.context.at, arrays.scores.at);
    floats(arrays.scores, n * pixels).forEach((score, i) => map[i % pixels] -= score / n / LN2);
    return { map, code: code / n / LN2, texture: map.reduce((sum, bits) => sum + bits, 0) };
  },

  // The number of the listed code that fits an image best, and among how many.
  number({ x }) {
    while (codes.count < FEWEST) extendList();
    encode(x);
    const number = wasm.likeliest(codes.count, codes.z.at, codes.halfSquares.at, arrays.mean.at, arrays.std.at);
    return { number, of: codes.count };
  },

  // The code of a number.
  listed({ number }) {
    return { z: listed(number, 1) };
  },

  // Goes on, or begins, with model.inpaint(given, seed=seed) of n copies, for some rounds.
  complete({ given, n, seed, rounds, begin }) {
    if (begin) chain = { given, n, seed, round: -1 };
    for (let i = 0; i < rounds; ++i) step(chain);
    return { images: chain.images, round: chain.round };
  },
};

let chain;

function noises({ n, seed }, number) {
  const D = facts.latent, all = D + size() + DECISIONS, decisions = [];
  for (let i = 0; i < n; ++i) {
    noise(seed, INPAINTING, i, i, { start: number * all });
    noise(seed, INPAINTING, i, 0,
      { start: number * all + D + size(), normals: 0, uniforms: DECISIONS, to: arrays.decisions });
    decisions.push([...floats(arrays.decisions)]);
  }
  return decisions;
}

// A round of the chain of vlae_fast/inpainting.py, for all of its images.
function step(c) {
  const D = facts.latent, pixels = size();
  const given = new Int8Array(c.n * pixels);
  for (let i = 0; i < c.n; ++i) given.set(c.given, i * pixels);
  if (c.round < START_ROUNDS) {
    if (c.round < 0) {
      for (let i = 0; i < c.n; ++i) noise(c.seed, SAMPLE, i, i);
      wasm.code_of(c.n, arrays.eps.at, arrays.z.at);
    } else {
      noises(c, c.round);
      encode(c.images, c.n);
      posterior(c.n);
    }
    c.images = drawn(c.n, 1, given);
    if (++c.round === START_ROUNDS) {
      wasm.prior_of(c.n, arrays.z.at, arrays.eps.at, arrays.logDet.at);
      Object.assign(c, proposed(c, given));
    }
    return;
  }
  const decisions = noises(c, c.round), eps = floats(arrays.eps);
  const redrawn = given.map((value) => Number(value < 0));
  decisions.forEach(([size, whole, top, bottom], i) => {
    const step = Math.fround(D ** -size), keep = Math.fround(Math.sqrt(Math.fround(1 - Math.fround(step * step))));
    for (let d = i * D; d < (i + 1) * D; ++d) eps[d] = Math.fround(keep * c.eps[d]) + Math.fround(step * eps[d]);
    const [first, last] = [top, bottom].map((u) => Math.floor(Math.fround(u * facts.height))).sort((a, b) => a - b);
    for (let j = 0; j < pixels; ++j) {
      const row = Math.floor(j / facts.width);
      if (whole >= 0.5 && !(first <= row && row <= last)) redrawn[i * pixels + j] = 0;
    }
  });
  const next = proposed(c, given.map((_, j) => redrawn[j] ? -1 : c.images[j]));
  for (let i = 0; i < c.n; ++i) {
    let ratio = 0;
    for (let j = i * pixels; j < (i + 1) * pixels; ++j) if (!redrawn[j]) ratio += next.scores[j] - c.scores[j];
    if (Math.log(decisions[i][4]) >= ratio) continue;
    for (const [name, n] of [["eps", D], ["images", pixels], ["scores", pixels]])
      c[name].set(next[name].subarray(i * n, (i + 1) * n), i * n);
  }
  ++c.round;
}

// The images of the noise in the arrays, and the log-probability of each of their pixels.
function proposed({ n }, given) {
  const eps = floats(arrays.eps, n * facts.latent).slice();
  wasm.code_of(n, arrays.eps.at, arrays.z.at);
  const images = drawn(n, 1, given);
  wasm.score(n, arrays.x.at, arrays.context.at, arrays.scores.at);
  return { eps, images, scores: floats(arrays.scores, n * size()).slice() };
}

// Codes first..first+n-1 of the list that every machine draws from the prior.
function listed(first, n) {
  for (let i = 0; i < n; ++i)
    noise("0", CODEBOOK, first + i, i, { uniforms: 0 });
  wasm.listed(n, facts.grid, arrays.eps.at, arrays.z.at);
  return floats(arrays.z, n * facts.latent).slice();
}

function extendList() {
  const D = facts.latent, z = listed(codes.count, AT_ONCE);
  floats(codes.z, AT_ONCE * D, codes.count * D).set(z);
  const eps = floats(arrays.eps), halves = floats(codes.halfSquares, AT_ONCE, codes.count);
  halves.fill(0);
  for (let i = 0; i < AT_ONCE * D; ++i) halves[Math.floor(i / D)] += eps[i] ** 2 / 2;
  codes.count += AT_ONCE;
}

// Lists codes while nobody asks for anything else.
let asked = 0;
function list() {
  const idle = performance.now() - asked > PAUSE;
  if (idle) extendList();
  if (codes.count < facts.mostCodes) setTimeout(list, idle ? 0 : PAUSE);
}

self.onmessage = async ({ data }) => {
  try {
    const answer = await answers[data.ask](data);
    asked = performance.now();
    postMessage({ id: data.id, ...answer });
  } catch (error) {
    postMessage({ id: data.id, error: String(error) });
  }
};
