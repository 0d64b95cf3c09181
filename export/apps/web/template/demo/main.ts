// A page that tries the model: a photo or the camera, the most probable classes or the nearest
// neighbours, latency, a gallery that learns, and the self-test. It asks nobody but its own server.

import {
  benchmark,
  decodePhoto,
  Embedder,
  MODEL_INFO,
  Photo,
  Preprocess,
  topK,
} from "../src/index.js";
import type { Prediction, PreprocessOptions } from "../src/index.js";

const element = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const view = element<HTMLCanvasElement>("view");
const camera = element<HTMLVideoElement>("camera");

const threads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
const model = await Embedder.load({ threads, runtime: "runtime/" });
let gallery = model.newGallery(0.6);
let embedding: Float32Array | null = null;

const { imageSize: height, width } = MODEL_INFO.preprocess;
element("model").textContent =
  `${MODEL_INFO.architecture}, ${MODEL_INFO.precision}, ${width} x ${height} pixels, ${threads} threads`;
element("latency").textContent = "Choose a photo, or start the camera.";
document.body.dataset["ready"] = "true";

async function answer(photo: Photo): Promise<void> {
  const start = performance.now();
  const input = MODEL_INFO.preprocess.tensor(photo);
  const prepared = performance.now();
  const outputs = await model.runTensor(input);
  const end = performance.now();
  embedding = outputs["embedding"]!;
  const { logits } = outputs;
  showAnswers(logits === undefined ? [] : topK(logits, model.labels, 5));
  showMatch();
  element("latency").textContent =
    `model ${(end - prepared).toFixed(1)} ms, preprocessing ${(prepared - start).toFixed(1)} ms`;
}

function showAnswers(answers: Prediction[]): void {
  const items = answers.map(({ label, probability }) => {
    const item = document.createElement("li");
    item.style.setProperty("--share", `${100 * probability}%`);
    for (const text of [label, `${(100 * probability).toFixed(1)} %`]) {
      const span = document.createElement("span");
      span.textContent = text;
      item.append(span);
    }
    return item;
  });
  element("answers").replaceChildren(...items);
}

function showMatch(): void {
  if (gallery.size === 0 || embedding === null) {
    element("match").textContent =
      "Name what the photo shows; five photos of each class are enough.";
    return;
  }
  const { label, similarity, share, recognised } = gallery.classify(embedding);
  const text = recognised
    ? `${label}, ${(100 * share).toFixed(0)} % of the votes`
    : "not recognised";
  element("match").textContent =
    `Gallery of ${gallery.size} photos: ${text} (similarity ${similarity.toFixed(2)})`;
}

async function show(source: Blob): Promise<void> {
  const bitmap = await createImageBitmap(source);
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  view.getContext("2d")!.drawImage(bitmap, left, top, side, side, 0, 0, view.width, view.height);
  bitmap.close();
  await answer(await decodePhoto(source));
}

async function watch(): Promise<void> {
  while (camera.srcObject !== null) {
    const side = Math.min(camera.videoWidth, camera.videoHeight);
    const [left, top] = [(camera.videoWidth - side) / 2, (camera.videoHeight - side) / 2];
    view.getContext("2d")!.drawImage(camera, left, top, side, side, 0, 0, view.width, view.height);
    await answer(await decodePhoto(camera));
    await new Promise(requestAnimationFrame);
  }
}

async function toggleCamera(): Promise<void> {
  if (camera.srcObject instanceof MediaStream) {
    for (const track of camera.srcObject.getTracks()) track.stop();
    camera.srcObject = null;
    element("toggle").textContent = "Camera";
    return;
  }
  try {
    const video = { facingMode: "environment", width: 640 };
    camera.srcObject = await navigator.mediaDevices.getUserMedia({ video });
  } catch (error) {
    element("latency").textContent = `no camera: ${(error as Error).message}`;
    return;
  }
  await camera.play();
  element("toggle").textContent = "Stop";
  await watch();
}

async function runSelfTest(): Promise<void> {
  const report = element("report");
  report.textContent = "running …";
  report.className = "";
  const { passed, problems, numPhotos } = await model.selfTest();
  report.textContent = passed
    ? `passed: ${numPhotos} golden photos and the conformance set`
    : "failed";
  report.className = passed ? "good" : "bad";
  const items = problems.map((text) =>
    Object.assign(document.createElement("li"), { textContent: text }),
  );
  element("problems").replaceChildren(...items);
}

function saveGallery(): void {
  const url = URL.createObjectURL(new Blob([gallery.toBytes()]));
  Object.assign(document.createElement("a"), { href: url, download: "gallery.bin" }).click();
  URL.revokeObjectURL(url);
}

async function openGallery(file: Blob): Promise<void> {
  try {
    gallery = model.openGallery(new Uint8Array(await file.arrayBuffer()));
    showMatch();
  } catch (error) {
    element("match").textContent = (error as Error).message;
  }
}

const chosen = (id: string): Blob | undefined => element<HTMLInputElement>(id).files?.[0];

element("file").onchange = () => void (chosen("file") && show(chosen("file")!));
element("open").onchange = () => void (chosen("open") && openGallery(chosen("open")!));
element("toggle").onclick = () => void toggleCamera();
element("test").onclick = () => void runSelfTest();
element("save").onclick = saveGallery;
element<HTMLFormElement>("teach").onsubmit = (event) => {
  event.preventDefault();
  if (embedding === null) return;
  gallery.add(element<HTMLInputElement>("label").value, embedding);
  showMatch();
};

/** A photo of noise, for timing the preprocessing alone. */
function noise(width: number, height: number): Photo {
  const pixels = new Uint8Array(4 * width * height);
  for (let i = 0; i < pixels.length; i += 1) pixels[i] = Math.imul(i, 2654435761) >>> 24;
  return new Photo(pixels, width, height);
}

// For the page's tests, and for whoever plays with it in the console.
const preprocess = (options: PreprocessOptions): Preprocess => new Preprocess(options);
Object.assign(window, {
  demo: {
    model,
    benchmark,
    show,
    decodePhoto,
    noise,
    preprocess,
    info: MODEL_INFO,
    gallery: () => gallery,
  },
});
