package edgeseed.edgeseedmodule.core

/** The filter of a resize. */
enum class Interpolation { NEAREST, BILINEAR, BICUBIC }

/**
 * From a photo to the model's input, byte for byte as edgeseed computes it in Python.
 *
 * The steps and their rounding are specified in edgeseed's docs/preprocessing.md.
 *
 * @property imageSize height and width of the input in pixels.
 * @property resize shorter side after the resize; at least [imageSize].
 */
class Preprocess(
    val imageSize: Int,
    val resize: Int,
    val interpolation: Interpolation = Interpolation.BILINEAR,
    val mean: FloatArray = floatArrayOf(0.485f, 0.456f, 0.406f),
    val std: FloatArray = floatArrayOf(0.229f, 0.224f, 0.225f),
) {
    init {
        require(imageSize in 1..resize) { "imageSize=$imageSize and resize=$resize" }
    }

    /** The pixels that the model gets: all red ones row by row, then green, then blue. */
    fun pixels(photo: Photo): ByteArray = planes(square(photo, null))

    /** The same as unscaled floats, 0 to 255, written to [target] from [offset] on. */
    fun fill(photo: Photo, target: java.nio.FloatBuffer, offset: Int = 0) {
        val values = pixels(photo)
        for (i in values.indices) target.put(offset + i, (values[i].toInt() and 255).toFloat())
    }

    /** What an app gets that makes a mistake; null makes none. For tests and [diagnose]. */
    fun tensor(photo: Photo, fault: Fault?): FloatArray {
        val square = square(photo, fault)
        val size = imageSize * imageSize
        return FloatArray(3 * size) { i ->
            val channel = if (fault == Fault.NHWC) i % 3 else i / size
            val place = if (fault == Fault.NHWC) i / 3 else i % size
            val source = if (fault == Fault.BGR) 2 - channel else channel
            val value = (square[place * 3 + source].toInt() and 255).toFloat()
            if (fault == Fault.SCALED) (value / 255f - mean[channel]) / std[channel] else value
        }
    }

    private fun planes(square: ByteArray): ByteArray {
        val size = imageSize * imageSize
        val planes = ByteArray(3 * size)
        for (i in 0 until size) {
            for (c in 0..2) planes[c * size + i] = square[i * 3 + c]
        }
        return planes
    }

    /** The square cut out of the resized photo: R, G, B of each pixel, row by row. */
    private fun square(stored: Photo, fault: Fault?): ByteArray {
        var photo = stored.flattened(fault)
        if (fault == Fault.ORIENTATION_IGNORED) {
            photo = Photo(photo.pixels, photo.width, photo.height, photo.pixelStride, photo.rowStride)
        }
        val width = photo.uprightWidth
        val height = photo.uprightHeight
        val scale = resize.toDouble() / minOf(width, height)
        val newWidth = maxOf(imageSize, Math.floor(width * scale + 0.5).toInt())
        val newHeight = maxOf(imageSize, Math.floor(height * scale + 0.5).toInt())
        var left = (newWidth - imageSize) / 2
        var top = (newHeight - imageSize) / 2
        if (fault == Fault.CROP_OFF_BY_ONE) {
            left = minOf(left + 1, newWidth - imageSize)
            top = minOf(top + 1, newHeight - imageSize)
        }
        val columns = Window.of(width, newWidth, left, imageSize, interpolation, fault)
        val rows = Window.of(height, newHeight, top, imageSize, interpolation, fault)
        if (fault == Fault.FLOAT_ROUNDING) return resampleInDoubles(photo, columns, rows)
        return resample(photo, columns, rows)
    }
}
