const ORIENTATION_TAG = 0x0112;

/** The EXIF orientation that a JPEG file states; 1 where it states none. */
export function exifOrientation(file: Uint8Array): number {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 4 || view.getUint16(0) !== 0xffd8) return 1;
  for (let place = 2; place + 4 <= file.length;) {
    const marker = view.getUint16(place);
    // Segments end where the image data begins.
    if (marker < 0xff00 || marker === 0xffda) return 1;
    const length = view.getUint16(place + 2);
    if (marker === 0xffe1 && place + 2 + length <= file.length) {
      const found = orientationOfExif(file.subarray(place + 4, place + 2 + length));
      if (found !== null) return found;
    }
    place += 2 + length;
  }
  return 1;
}

function orientationOfExif(segment: Uint8Array): number | null {
  const view = new DataView(segment.buffer, segment.byteOffset, segment.byteLength);
  const isExif = segment.length > 14 && view.getUint32(0) === 0x45786966;
  if (!isExif) return null;
  const tiff = 6;
  const little = view.getUint16(tiff) === 0x4949;
  const directory = tiff + view.getUint32(tiff + 4, little);
  if (directory + 2 > segment.length) return null;
  const count = view.getUint16(directory, little);
  for (let entry = 0; entry < count; entry += 1) {
    const place = directory + 2 + 12 * entry;
    if (place + 12 > segment.length) return null;
    if (view.getUint16(place, little) === ORIENTATION_TAG) return view.getUint16(place + 8, little);
  }
  return null;
}
