package edgeseed.edgeseedmodule

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Canvas
import android.graphics.ColorSpace
import android.graphics.ImageFormat
import android.media.ExifInterface
import android.media.Image
import edgeseed.edgeseedmodule.core.Alpha
import edgeseed.edgeseedmodule.core.Photo
import edgeseed.edgeseedmodule.core.Plane
import edgeseed.edgeseedmodule.core.Profile
import edgeseed.edgeseedmodule.core.YuvFrame
import edgeseed.edgeseedmodule.core.YuvMatrix
import edgeseed.edgeseedmodule.core.YuvRange
import java.io.ByteArrayInputStream
import java.nio.ByteBuffer

/**
 * The bitmap's pixels. Display P3 is converted by the module, in whole numbers; every other colour
 * space by Android.
 *
 * @param orientation EXIF's number by which the bitmap becomes upright; bitmaps do not know.
 */
fun Bitmap.toPhoto(orientation: Int = 1): Photo {
    val isP3 = colorSpace == ColorSpace.get(ColorSpace.Named.DISPLAY_P3)
    val isSrgb = colorSpace == null || colorSpace == ColorSpace.get(ColorSpace.Named.SRGB)
    if (config != Bitmap.Config.ARGB_8888 || !(isP3 || isSrgb)) return redrawn().toPhoto(orientation)
    // Not getPixels: it divides colours by alpha, and converts them to sRGB by rules of its own.
    val pixels = ByteArray(rowBytes * height)
    copyPixelsToBuffer(ByteBuffer.wrap(pixels))
    val alpha = when {
        !hasAlpha() -> Alpha.NONE
        isPremultiplied -> Alpha.PREMULTIPLIED
        else -> Alpha.STRAIGHT
    }
    return Photo(
        pixels,
        width,
        height,
        pixelStride = 4,
        rowStride = rowBytes,
        alpha = alpha,
        orientation = orientation,
        profile = if (isP3) Profile.DISPLAY_P3 else Profile.SRGB,
    )
}

private fun Bitmap.redrawn(): Bitmap {
    val drawable = if (config == Bitmap.Config.HARDWARE) copy(Bitmap.Config.ARGB_8888, false) else this
    val srgb = ColorSpace.get(ColorSpace.Named.SRGB)
    val plain = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888, hasAlpha(), srgb)
    Canvas(plain).drawBitmap(drawable, 0f, 0f, null)
    return plain
}

/** A photo file of any format that Android reads: upright by its EXIF, with its profile. */
fun decodePhoto(content: ByteArray): Photo {
    val options = BitmapFactory.Options().apply {
        inScaled = false
        inPreferredConfig = Bitmap.Config.ARGB_8888
    }
    val bitmap = BitmapFactory.decodeByteArray(content, 0, content.size, options)
    requireNotNull(bitmap) { "not an image that Android reads" }
    val exif = ExifInterface(ByteArrayInputStream(content))
    return bitmap.toPhoto(exif.getAttributeInt(ExifInterface.TAG_ORIENTATION, 1))
}

/**
 * A camera frame in YUV_420_888, such as `imageProxy.image`.
 *
 * Android does not say which matrix and range its frames have; BT.601 full range is what
 * `YUV_420_888` is documented to be, and what cameras give.
 *
 * @param rotationDegrees by which it is to be turned clockwise: `imageProxy.imageInfo.rotationDegrees`.
 */
fun Image.toPhoto(
    rotationDegrees: Int,
    matrix: YuvMatrix = YuvMatrix.BT601,
    range: YuvRange = YuvRange.FULL,
): Photo {
    require(format == ImageFormat.YUV_420_888) { "an image of format $format: give YUV_420_888" }
    val (y, u, v) = planes.map { plane ->
        val bytes = ByteArray(plane.buffer.remaining())
        plane.buffer.duplicate().get(bytes)
        Plane(bytes, plane.rowStride, plane.pixelStride)
    }
    return YuvFrame(width, height, y, u, v, matrix, range).toPhoto(rotationDegrees)
}
