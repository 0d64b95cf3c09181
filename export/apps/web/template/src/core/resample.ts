import type { Fault } from "./fault.js";
import type { Photo } from "./photo.js";
import type { Interpolation } from "./preprocess.js";

/** Fraction bits of a weight: 32 - 8 bits of a pixel - 2 of headroom. */
const PRECISION_BITS = 22;
const ONE = 1 << PRECISION_BITS;
const HALF = 1 << (PRECISION_BITS - 1);

/** Of which input pixels, and in which proportions, some output pixels along one axis are made. */
export interface Window {
  /** Number of output pixels. */
  readonly size: number;
  /** The first input pixel of each output pixel. */
  readonly first: Int32Array;
  /** Where the weights of each output pixel begin in `weights`; one more for the end. */
  readonly offsets: Int32Array;
  /** Weights in units of 2^-22. */
  readonly weights: Int32Array;
  /** The same weights before rounding. */
  readonly exact: Float64Array;
  /** The first input pixel that any output pixel needs, and one past the last. */
  readonly start: number;
  readonly end: number;
}

/** The `count` output pixels from `start` on, of `old` pixels resized to `renewed`. */
export function makeWindow(
  old: number,
  renewed: number,
  start: number,
  count: number,
  interpolation: Interpolation,
  fault: Fault | null,
): Window {
  const first: number[] = [];
  const offsets = [0];
  const exact: number[] = [];
  const nearest = interpolation === "nearest" ? nearestPixels(old, renewed, start, count) : null;
  for (let i = 0; i < count; i += 1) {
    if (old === renewed || nearest !== null) {
      first.push(old === renewed ? start + i : nearest![i]!);
      exact.push(1);
    } else {
      const { at, weights } = filterWeights(old, renewed, start + i, interpolation, fault);
      first.push(at);
      exact.push(...weights);
    }
    offsets.push(exact.length);
  }
  return {
    size: count,
    first: Int32Array.from(first),
    offsets: Int32Array.from(offsets),
    weights: Int32Array.from(exact, toFixed),
    exact: Float64Array.from(exact),
    start: Math.min(...first),
    end: Math.max(...first.map((at, i) => at + offsets[i + 1]! - offsets[i]!)),
  };
}

/** A weight as a whole number of 2^-22, halves away from zero. */
const toFixed = (weight: number): number => Math.trunc(weight * ONE + (weight < 0 ? -0.5 : 0.5));

function nearestPixels(old: number, renewed: number, start: number, count: number): number[] {
  const step = old / renewed;
  const found: number[] = [];
  // Added up, not multiplied: so does Pillow, and the last bit may show.
  let position = step * 0.5;
  for (let i = 0; i < start + count; i += 1) {
    if (i >= start) found.push(Math.min(Math.trunc(position), old - 1));
    position += step;
  }
  return found;
}

function filterWeights(
  old: number,
  renewed: number,
  index: number,
  interpolation: Interpolation,
  fault: Fault | null,
): { at: number; weights: number[] } {
  const [kernel, radius] =
    interpolation === "bicubic" ? ([bicubic, 2] as const) : ([bilinear, 1] as const);
  const scale = old / renewed;
  // Antialiasing: the filter grows as the photo shrinks.
  const stretch = fault === "no-antialias" ? 1 : Math.max(scale, 1);
  const support = radius * stretch;
  const center = fault === "half-pixel-shift" ? index * scale + 0.5 : (index + 0.5) * scale;
  const at = Math.max(0, Math.trunc(center - support + 0.5));
  const last = Math.min(old, Math.trunc(center + support + 0.5));
  const inverse = 1 / stretch;
  const weights: number[] = [];
  let total = 0;
  for (let k = 0; k < last - at; k += 1) {
    const weight = kernel((k + at - center + 0.5) * inverse);
    weights.push(weight);
    total += weight;
  }
  return { at, weights: total === 0 ? weights : weights.map((weight) => weight / total) };
}

function bilinear(signed: number): number {
  const x = Math.abs(signed);
  return x < 1 ? 1 - x : 0;
}

function bicubic(signed: number): number {
  const a = -0.5;
  const x = Math.abs(signed);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** The resized square of an upright photo: R, G, B of each pixel. Width first, then height. */
export function resample(photo: Photo, columns: Window, rows: Window): Uint8Array {
  const narrow = photo.isTurned
    ? narrowTurned(photo, columns, rows)
    : narrowStraight(photo, columns, rows);
  return shorten(narrow, columns.size, rows);
}

const flipsColumns = ({ orientation }: Photo): boolean => [2, 3, 7, 8].includes(orientation);

const flipsRows = ({ orientation }: Photo): boolean => [3, 4, 6, 7].includes(orientation);

/** The width pass where rows of the photo are rows of memory. */
function narrowStraight(photo: Photo, columns: Window, rows: Window): Uint8Array {
  const words = asWords(photo);
  return words === null
    ? narrowBytes(photo, columns, rows)
    : narrowWords(photo, words, columns, rows);
}

/** Four bytes a pixel as one number each, where memory allows it: a third of the loads. */
function asWords({ pixels, pixelStride, rowStride }: Photo): Uint32Array | null {
  const isAligned = pixelStride === 4 && rowStride % 4 === 0 && pixels.byteOffset % 4 === 0;
  if (!isAligned || !IS_LITTLE_ENDIAN) return null;
  return new Uint32Array(pixels.buffer, pixels.byteOffset, pixels.length >> 2);
}

const IS_LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

function narrowWords(photo: Photo, words: Uint32Array, columns: Window, rows: Window): Uint8Array {
  const { rowStride, width, height } = photo;
  const { first, offsets, weights, size } = columns;
  const flips = flipsColumns(photo);
  const upsideDown = flipsRows(photo);
  const step = flips ? -1 : 1;
  const narrow = new Uint8Array((rows.end - rows.start) * size * 3);
  let target = 0;
  for (let y = rows.start; y < rows.end; y += 1) {
    const row = (upsideDown ? height - 1 - y : y) * (rowStride >> 2);
    const edge = flips ? row + width - 1 : row;
    for (let x = 0; x < size; x += 1) {
      const end = offsets[x + 1]!;
      let place = edge + first[x]! * step;
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      for (let k = offsets[x]!; k < end; k += 1) {
        const weight = weights[k]!;
        const word = words[place]!;
        red = (red + Math.imul(word & 255, weight)) | 0;
        green = (green + Math.imul((word >>> 8) & 255, weight)) | 0;
        blue = (blue + Math.imul((word >>> 16) & 255, weight)) | 0;
        place += step;
      }
      narrow[target] = clip(red);
      narrow[target + 1] = clip(green);
      narrow[target + 2] = clip(blue);
      target += 3;
    }
  }
  return narrow;
}

function narrowBytes(photo: Photo, columns: Window, rows: Window): Uint8Array {
  const { pixels, pixelStride, rowStride, width, height } = photo;
  const { first, offsets, weights, size } = columns;
  const flips = flipsColumns(photo);
  const upsideDown = flipsRows(photo);
  const step = flips ? -pixelStride : pixelStride;
  const narrow = new Uint8Array((rows.end - rows.start) * size * 3);
  let target = 0;
  for (let y = rows.start; y < rows.end; y += 1) {
    const row = (upsideDown ? height - 1 - y : y) * rowStride;
    const edge = flips ? row + (width - 1) * pixelStride : row;
    for (let x = 0; x < size; x += 1) {
      const end = offsets[x + 1]!;
      let place = edge + first[x]! * step;
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      for (let k = offsets[x]!; k < end; k += 1) {
        const weight = weights[k]!;
        red = (red + Math.imul(pixels[place]!, weight)) | 0;
        green = (green + Math.imul(pixels[place + 1]!, weight)) | 0;
        blue = (blue + Math.imul(pixels[place + 2]!, weight)) | 0;
        place += step;
      }
      narrow[target] = clip(red);
      narrow[target + 1] = clip(green);
      narrow[target + 2] = clip(blue);
      target += 3;
    }
  }
  return narrow;
}

/**
 * The width pass where rows of the upright photo are columns of memory.
 *
 * It goes through memory row by row and adds to sums of a whole column: reading down the columns of
 * twelve megapixels would miss the cache with every pixel.
 */
function narrowTurned(photo: Photo, columns: Window, rows: Window): Uint8Array {
  const { pixels, pixelStride, rowStride, width, height } = photo;
  const { first, offsets, weights, size } = columns;
  const needed = rows.end - rows.start;
  // Orientations 6 and 7 count the photo's x from the last stored row, 7 and 8 its y from the last
  // stored column.
  const flipsAlong = flipsRows(photo);
  const flipsAcross = flipsColumns(photo);
  const step = flipsAcross ? -pixelStride : pixelStride;
  const across = flipsAcross ? width - 1 - rows.start : rows.start;
  const narrow = new Uint8Array(needed * size * 3);
  const sums = new Int32Array(needed * 3);
  for (let x = 0; x < size; x += 1) {
    sums.fill(HALF);
    for (let k = offsets[x]!; k < offsets[x + 1]!; k += 1) {
      const weight = weights[k]!;
      const along = first[x]! + k - offsets[x]!;
      let place = (flipsAlong ? height - 1 - along : along) * rowStride + across * pixelStride;
      for (let i = 0; i < sums.length; i += 3) {
        sums[i] = (sums[i]! + Math.imul(pixels[place]!, weight)) | 0;
        sums[i + 1] = (sums[i + 1]! + Math.imul(pixels[place + 1]!, weight)) | 0;
        sums[i + 2] = (sums[i + 2]! + Math.imul(pixels[place + 2]!, weight)) | 0;
        place += step;
      }
    }
    for (let y = 0; y < needed; y += 1) {
      const target = (y * size + x) * 3;
      for (let c = 0; c < 3; c += 1) narrow[target + c] = clip(sums[y * 3 + c]!);
    }
  }
  return narrow;
}

/** The height pass. */
function shorten(narrow: Uint8Array, width: number, rows: Window): Uint8Array {
  const { first, offsets, weights, size, start } = rows;
  const line = width * 3;
  const square = new Uint8Array(size * line);
  const sums = new Int32Array(line);
  for (let y = 0; y < size; y += 1) {
    sums.fill(HALF);
    for (let k = offsets[y]!; k < offsets[y + 1]!; k += 1) {
      const weight = weights[k]!;
      const source = (first[y]! - start + k - offsets[y]!) * line;
      for (let i = 0; i < line; i += 1) {
        sums[i] = (sums[i]! + Math.imul(narrow[source + i]!, weight)) | 0;
      }
    }
    for (let i = 0; i < line; i += 1) square[y * line + i] = clip(sums[i]!);
  }
  return square;
}

function clip(sum: number): number {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** The fault `float-rounding`: both passes in doubles, rounded once. For diagnosis. */
export function resampleInDoubles(photo: Photo, columns: Window, rows: Window): Uint8Array {
  const { pixels } = photo;
  const { origin, acrossStep, downStep } = uprightSteps(photo);
  const line = columns.size * 3;
  const needed = rows.end - rows.start;
  const narrow = new Float64Array(needed * line);
  for (let y = 0; y < needed; y += 1) {
    const row = origin + (rows.start + y) * downStep;
    for (let x = 0; x < columns.size; x += 1) {
      let place = row + columns.first[x]! * acrossStep;
      let red = 0;
      let green = 0;
      let blue = 0;
      for (let k = columns.offsets[x]!; k < columns.offsets[x + 1]!; k += 1) {
        const weight = columns.exact[k]!;
        red += pixels[place]! * weight;
        green += pixels[place + 1]! * weight;
        blue += pixels[place + 2]! * weight;
        place += acrossStep;
      }
      narrow.set([red, green, blue], y * line + 3 * x);
    }
  }
  const square = new Uint8Array(rows.size * line);
  for (let i = 0; i < square.length; i += 1) {
    const y = Math.floor(i / line);
    let sum = 0;
    for (let k = rows.offsets[y]!; k < rows.offsets[y + 1]!; k += 1) {
      const row = rows.first[y]! - rows.start + k - rows.offsets[y]!;
      sum += narrow[row * line + (i % line)]! * rows.exact[k]!;
    }
    square[i] = Math.min(255, Math.max(0, Math.floor(sum + 0.5)));
  }
  return square;
}

/** Where pixel (0, 0) of the upright photo lies in memory, and the steps to its neighbours. */
function uprightSteps(photo: Photo): { origin: number; acrossStep: number; downStep: number } {
  const { pixelStride, rowStride, width, height, isTurned } = photo;
  const column = flipsColumns(photo) ? -pixelStride : pixelStride;
  const row = flipsRows(photo) ? -rowStride : rowStride;
  const origin =
    (column < 0 ? (width - 1) * pixelStride : 0) + (row < 0 ? (height - 1) * rowStride : 0);
  return isTurned
    ? { origin, acrossStep: row, downStep: column }
    : { origin, acrossStep: column, downStep: row };
}
