// Runs a page's worker without a browser: `node worker.mjs PAGE`, requests as JSON in, answers as JSON out.
import fs from "node:fs";
import vm from "node:vm";

const part = (id) => new RegExp(`<script type="[^"]*" id="${id}">([^]*?)</script>`).exec(page)[1];
const page = fs.readFileSync(process.argv[2], "utf8");
const answers = [];
const self = { atob, WebAssembly, performance, setTimeout: () => 0, postMessage: (answer) => answers.push(answer) };
self.self = self;
vm.runInContext(part("worker"), vm.createContext(self));

const opening = { ask: "open", facts: JSON.parse(part("facts")), module: part("module"), weights: part("weights") };
for (const request of [opening, ...JSON.parse(fs.readFileSync(0, "utf8"))]) {
  const data = Object.fromEntries(Object.entries(request).map(([key, value]) =>
    [key, key === "z" ? Float32Array.from(value) : value]));
  await self.self.onmessage({ data });
}
const plain = (value) => ArrayBuffer.isView(value) ? [...value] : value;
process.stdout.write(JSON.stringify(answers.slice(1).map((answer) =>
  Object.fromEntries(Object.entries(answer).map(([key, value]) => [key, plain(value)])))));
