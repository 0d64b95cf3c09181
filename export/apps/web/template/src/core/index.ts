/** The part without a browser: preprocessing, galleries, the conformance set. Runs in Node too. */

export { measure, median, PROTOCOLS } from "./benchmark.js";
export type { Protocol, Timings } from "./benchmark.js";
export { Conformance } from "./conformance.js";
export type { Decode, MakeTensor, ReadAsset } from "./conformance.js";
export { diagnose, FAULT_NAMES, FAULTS, largestDifference } from "./fault.js";
export type { Diagnosis, Fault } from "./fault.js";
export { photoOfFrame } from "./frame.js";
export type { Plane, YuvFrame, YuvMatrix, YuvRange } from "./frame.js";
export { Gallery } from "./gallery.js";
export type { GalleryOptions, Match } from "./gallery.js";
export { readNpy } from "./npy.js";
export type { NumpyArray } from "./npy.js";
export { Photo } from "./photo.js";
export type { Alpha, PhotoOptions, Profile } from "./photo.js";
export { softmax, topK } from "./predictions.js";
export type { Prediction } from "./predictions.js";
export { Preprocess } from "./preprocess.js";
export type { Interpolation, PreprocessOptions } from "./preprocess.js";
export { selfTest } from "./self-test.js";
export type { Outputs, SelfTestOptions, SelfTestReport } from "./self-test.js";
