import type { Photo } from "./photo.js";
import type { Preprocess } from "./preprocess.js";

/** Mistakes that cost accuracy without an error; edgeseed's docs/preprocessing.md explains them. */
export const FAULTS = {
  bgr: "the channels are in the order blue, green, red",
  "no-antialias": "the photo was resized without antialiasing",
  "half-pixel-shift": "the resize puts pixel centres on whole numbers: half a pixel off",
  "crop-off-by-one": "the square is cut out one pixel further right and down",
  "orientation-ignored": "the EXIF orientation was not applied",
  "alpha-premultiplied": "colours multiplied by alpha were taken as they are, over black",
  "p3-as-srgb": "Display P3 values were taken for sRGB",
  scaled: "the pixels were scaled or normalised before the model, which does that itself",
  nhwc: "the tensor is in the order height, width, channels",
  "float-rounding": "the resize rounds once at its end instead of after each of its two passes",
} as const;

/** A mistake's name. */
export type Fault = keyof typeof FAULTS;

/** All mistakes' names. */
export const FAULT_NAMES = Object.keys(FAULTS) as Fault[];

/** What probably went wrong where a tensor is not what it should be. */
export interface Diagnosis {
  /** `null` if none of the known mistakes explains it. */
  readonly fault: Fault | null;
  /** Of the tensor from the right one, in levels. */
  readonly largestDifference: number;
  /** One sentence. */
  readonly message: string;
}

/**
 * Explains a wrong input tensor by the mistake that gives the same one, or one nearer than half as
 * far away.
 *
 * @param photo the photo before any step.
 * @param preprocess the model's.
 * @param found the tensor that the app made, C x H x W.
 * @param right the right tensor; by default what `preprocess` makes of the photo.
 * @returns `null` if the tensor is right.
 */
export function diagnose(
  photo: Photo,
  preprocess: Preprocess,
  found: Float32Array,
  right: Float32Array = preprocess.tensor(photo),
): Diagnosis | null {
  const largest = largestDifference(right, found);
  if (largest === 0) return null;
  const fault = nearestFault(photo, preprocess, found, right);
  const difference = `the input differs from the expected one by up to ${largest} levels`;
  const cause =
    fault === null ? "no known mistake explains it" : `likely cause: ${FAULTS[fault]} (${fault})`;
  return { fault, largestDifference: largest, message: `${difference}; ${cause}` };
}

/** The mistake that gives `found`, or comes twice as near to it as `right` does; else `null`. */
function nearestFault(
  photo: Photo,
  preprocess: Preprocess,
  found: Float32Array,
  right: Float32Array,
): Fault | null {
  let nearest: Fault | null = null;
  let least = 0.5 * meanDifference(right, found);
  for (const fault of FAULT_NAMES) {
    const distance = meanDifference(preprocess.tensor(photo, fault), found);
    if (distance < least) {
      least = distance;
      nearest = fault;
    }
  }
  return nearest;
}

/** The largest difference of any two values; infinite if the lengths differ. */
export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity;
  let largest = 0;
  for (let i = 0; i < a.length; i += 1) {
    const difference = Math.abs(a[i]! - b[i]!);
    if (Number.isNaN(difference)) return NaN;
    if (difference > largest) largest = difference;
  }
  return largest;
}

function meanDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Infinity;
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += Math.abs(a[i]! - b[i]!);
  return sum / a.length;
}
