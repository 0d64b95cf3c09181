import { Photo } from "./core/photo.js";

/** What the module takes for a photo. */
export type PhotoSource = Photo | ImageData | Blob | CanvasImageSource;

/**
 * The photo as upright sRGB pixels.
 *
 * Files are decoded by the browser, which applies EXIF's orientation and the colour profile. Alpha
 * stays: preprocessing lays it over white.
 *
 * @param source a file, an `ImageBitmap`, a canvas, an image, a video's current frame, or pixels.
 */
export async function decodePhoto(source: PhotoSource): Promise<Photo> {
  if (source instanceof Photo) return source;
  if (source instanceof ImageData) return photoOfImageData(source);
  if (!(source instanceof Blob)) return draw(source);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(source, { imageOrientation: "from-image" });
  } catch (error) {
    throw new Error(`the browser cannot decode this file (${source.type || "of unknown type"})`, {
      cause: error,
    });
  }
  try {
    return draw(bitmap);
  } finally {
    bitmap.close();
  }
}

/** Pixels that a canvas gave: sRGB or Display P3, alpha not multiplied into the colours. */
function photoOfImageData({ data, width, height, colorSpace }: ImageData): Photo {
  const profile = colorSpace === "display-p3" ? "display-p3" : "srgb";
  // A canvas holds whole bytes; the newer float pixels would need a rounding that nobody specified.
  const pixels = data as Uint8ClampedArray;
  return new Photo(pixels, width, height, { alpha: "straight", profile });
}

function draw(source: CanvasImageSource): Photo {
  const { width, height } = sizeOf(source);
  if (width === 0 || height === 0) throw new Error("the photo is not loaded yet: it has no size");
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { colorSpace: "srgb", willReadFrequently: true });
  if (context === null) throw new Error("the browser gives no 2D canvas");
  context.drawImage(source, 0, 0, width, height);
  return photoOfImageData(context.getImageData(0, 0, width, height, { colorSpace: "srgb" }));
}

function sizeOf(source: CanvasImageSource): { width: number; height: number } {
  if (typeof HTMLVideoElement !== "undefined" && source instanceof HTMLVideoElement) {
    return { width: source.videoWidth, height: source.videoHeight };
  }
  if (typeof HTMLImageElement !== "undefined" && source instanceof HTMLImageElement) {
    return { width: source.naturalWidth, height: source.naturalHeight };
  }
  if (typeof VideoFrame !== "undefined" && source instanceof VideoFrame) {
    return { width: source.displayWidth, height: source.displayHeight };
  }
  const { width, height } = source as ImageBitmap | OffscreenCanvas | HTMLCanvasElement;
  return { width, height };
}
