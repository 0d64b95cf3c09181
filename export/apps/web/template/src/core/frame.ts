import { Photo } from "./photo.js";

/** Whose weights of red, green and blue a camera frame's luma has. */
export type YuvMatrix = "bt601" | "bt709";

/** Whether luma goes from 0 to 255, or from 16 to 235. */
export type YuvRange = "full" | "video";

/** One plane of a camera frame. */
export interface Plane {
  readonly bytes: Uint8Array;
  /** Bytes from one row to the next. */
  readonly rowStride: number;
  /** Bytes from one value to the next: 1, or 2 where two planes alternate. */
  readonly pixelStride?: number;
}

/** A camera frame: luma at full size, and two planes of colour at half of it. */
export interface YuvFrame {
  readonly width: number;
  readonly height: number;
  readonly y: Plane;
  readonly u: Plane;
  readonly v: Plane;
  readonly matrix?: YuvMatrix;
  readonly range?: YuvRange;
}

const ORIENTATIONS: Record<number, number> = { 0: 1, 90: 6, 180: 3, 270: 8 };

// Black, gain, V to red, U to green, V to green, U to blue; all but black times 65536.
const CONSTANTS: Record<
  `${YuvMatrix}-${YuvRange}`,
  [number, number, number, number, number, number]
> = {
  "bt601-full": [0, 65536, 91881, 22553, 46802, 116130],
  "bt601-video": [16, 76309, 104597, 25675, 53279, 132201],
  "bt709-full": [0, 65536, 103206, 12276, 30679, 121609],
  "bt709-video": [16, 76309, 117489, 13975, 34925, 138438],
};

/**
 * A camera frame as a photo.
 *
 * @param rotation degrees by which it is to be turned clockwise to be upright: 0, 90, 180 or 270.
 */
export function photoOfFrame(frame: YuvFrame, rotation = 0): Photo {
  const orientation = ORIENTATIONS[rotation];
  if (orientation === undefined) {
    throw new RangeError(`a rotation of ${rotation} degrees: 0, 90, 180 or 270`);
  }
  const { width, height, y, u, v } = frame;
  const constants = CONSTANTS[`${frame.matrix ?? "bt601"}-${frame.range ?? "full"}`];
  const [black, gain, vRed, uGreen, vGreen, uBlue] = constants;
  const rgb = new Uint8Array(width * height * 3);
  let target = 0;
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const luma = gain * (valueAt(y, row, column) - black) + 32768;
      const blueDifference = valueAt(u, row >> 1, column >> 1) - 128;
      const redDifference = valueAt(v, row >> 1, column >> 1) - 128;
      rgb[target] = clip(luma + vRed * redDifference);
      rgb[target + 1] = clip(luma - uGreen * blueDifference - vGreen * redDifference);
      rgb[target + 2] = clip(luma + uBlue * blueDifference);
      target += 3;
    }
  }
  return new Photo(rgb, width, height, { pixelStride: 3, orientation });
}

const valueAt = (
  { bytes, rowStride, pixelStride = 1 }: Plane,
  row: number,
  column: number,
): number => bytes[row * rowStride + column * pixelStride]!;

const clip = (value: number): number => Math.min(255, Math.max(0, value >> 16));
