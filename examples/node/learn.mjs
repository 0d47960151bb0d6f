// The device's loop in another language: onnxruntime alone, nothing of edgessl. docs/bundle.md is all it goes by.
//
//   npm install onnxruntime-node
//   node learn.mjs model.edgessl input.safetensors
//
// input.safetensors holds x (N, *shape) to embed, and batch (T, B, *shape), noise (T, B, K) for T training steps, all
// float32. Prints one line of JSON: the embeddings before and after, and the loss of every step.
// A product would also check model.sig and the SHA-256 of every member; see sections 1 and 8.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { InferenceSession, Tensor } from "onnxruntime-node";

// The files of a zip archive whose members are stored (section 1): the directory at the end says where each begins.
function unzip(data) {
  const end = data.lastIndexOf(Buffer.from("PK\x05\x06", "latin1"));
  if (end < 0) throw new Error("not a zip file");
  const files = new Map();
  let place = data.readUInt32LE(end + 16);
  for (let i = 0; i < data.readUInt16LE(end + 10); i++) {
    const [method, size] = [data.readUInt16LE(place + 10), data.readUInt32LE(place + 24)];
    const [name, extra, comment] = [28, 30, 32].map((offset) => data.readUInt16LE(place + offset));
    const local = data.readUInt32LE(place + 42);
    if (method !== 0) throw new Error("a member is compressed");
    const start = local + 30 + data.readUInt16LE(local + 26) + data.readUInt16LE(local + 28);
    files.set(data.toString("utf8", place + 46, place + 46 + name), data.subarray(start, start + size));
    place += 46 + name + extra + comment;
  }
  return files;
}

// The float32 tensors of a tensor file (section 4).
function tensors(data) {
  const length = Number(data.readBigUInt64LE(0));
  const header = JSON.parse(data.toString("utf8", 8, 8 + length));
  const found = {};
  for (const [name, { dtype, shape, data_offsets: [begin, stop] }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (dtype !== "F32") throw new Error(`${name}: this program reads F32 only, found ${dtype}`);
    const bytes = new Uint8Array(data.subarray(8 + length + begin, 8 + length + stop)); // a copy, aligned
    found[name] = new Tensor("float32", new Float32Array(bytes.buffer), shape);
  }
  return found;
}

// Row t of a tensor.
function row(tensor, t) {
  const dims = tensor.dims.slice(1);
  const size = dims.reduce((a, b) => a * b, 1);
  return new Tensor("float32", tensor.data.slice(t * size, (t + 1) * size), dims);
}

const [bundlePath, inputPath] = process.argv.slice(2);
const files = unzip(readFileSync(bundlePath));
const manifest = JSON.parse(files.get("manifest.json").toString("utf8"));
for (const [name, { sha256 }] of Object.entries(manifest.members)) {
  const real = createHash("sha256").update(files.get(name)).digest("hex");
  if (real !== sha256) throw new Error(`${name}: SHA-256 disagrees with the manifest`);
}
const session = (graph) => InferenceSession.create(files.get(manifest.graphs[graph].file), { intraOpNumThreads: 1 });
const [encoder, train] = await Promise.all([session("encoder"), session("train")]);
const input = tensors(readFileSync(inputPath));

let state = tensors(files.get("state.safetensors"));
const hyper = {};
for (const [name, value] of Object.entries(manifest.hyper)) {
  hyper[`hyper.${name}`] = new Tensor("float32", Float32Array.of(value), []);
}
const shown = manifest.graphs.encoder.inputs.find(({ name }) => name !== "x").name; // the weights that embed
const embed = async () => (await encoder.run({ [shown]: state[shown], x: input.x })).embedding.data;

const before = await embed();
const losses = [];
for (let t = 0; t < input.batch.dims[0]; t++) {
  const feeds = { ...state, ...hyper, batch: row(input.batch, t), noise: row(input.noise, t) };
  const results = await train.run(feeds);
  losses.push(results.loss.data[0]);
  state = Object.fromEntries(manifest.slots.map(({ name }) => [name, results[`next.${name}`]]));
}
console.log(JSON.stringify({ losses, before: [...before], after: [...(await embed())], theta: [...state.theta.data] }));
