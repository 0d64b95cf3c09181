package edgeseed.edgeseedmodule.core

/** The filter of a resize. */
enum class Interpolation { NEAREST, BILINEAR, BICUBIC }

/**
 * From a photo to the model's input, byte for byte as edgeseed computes it in Python.
 *
 * The steps and their rounding are specified in edgeseed's docs/preprocessing.md.
 *
 * @property imageSize height of the input in pixels.
 * @property resize height of the box that the resized photo covers: of a square, the shorter side.
 * @property width of the input in pixels.
 * @property channels of the input: 3 for RGB, 1 for grey.
 */
class Preprocess(
    val imageSize: Int,
    val resize: Int,
    val interpolation: Interpolation = Interpolation.BILINEAR,
    val mean: FloatArray = floatArrayOf(0.485f, 0.456f, 0.406f),
    val std: FloatArray = floatArrayOf(0.229f, 0.224f, 0.225f),
    val width: Int = imageSize,
    val channels: Int = 3,
) {
    init {
        require(imageSize in 1..resize) { "imageSize=$imageSize and resize=$resize" }
    }

    /** Values of one photo's input. */
    val count: Int get() = channels * imageSize * width

    /** The pixels that the model gets: all red ones row by row, then green, then blue; or grey. */
    fun pixels(photo: Photo): ByteArray = planes(box(photo, null))

    /** The same pixel by pixel, row by row, the channels of each together: as LiteRT wants them. */
    fun rows(photo: Photo): ByteArray {
        val box = box(photo, null)
        return ByteArray(count) { value(box, it / channels, it % channels, isSwapped = false).toByte() }
    }

    /** What [rows] gives, of values 0 to 255 in planes as [tensor] gives them. */
    fun rows(planes: FloatArray): ByteArray {
        val size = imageSize * width
        return ByteArray(count) { planes[it % channels * size + it / channels].toInt().toByte() }
    }

    /** [pixels] as unscaled floats, 0 to 255, written to [target] from [offset] on. */
    fun fill(photo: Photo, target: java.nio.FloatBuffer, offset: Int = 0) {
        val values = pixels(photo)
        for (i in values.indices) target.put(offset + i, (values[i].toInt() and 255).toFloat())
    }

    /** What an app gets that makes a mistake; null makes none. For tests and [diagnose]. */
    fun tensor(photo: Photo, fault: Fault?): FloatArray {
        val box = box(photo, fault)
        val size = imageSize * width
        return FloatArray(count) { i ->
            val channel = if (fault == Fault.NHWC) i % channels else i / size
            val place = if (fault == Fault.NHWC) i / channels else i % size
            val value = value(box, place, channel, isSwapped = fault == Fault.BGR).toFloat()
            if (fault == Fault.SCALED) (value / 255f - mean[channel]) / std[channel] else value
        }
    }

    private fun planes(box: ByteArray): ByteArray {
        val size = imageSize * width
        return ByteArray(count) { value(box, it % size, it / size, isSwapped = false).toByte() }
    }

    private fun value(box: ByteArray, place: Int, channel: Int, isSwapped: Boolean): Int {
        fun at(c: Int) = box[place * 3 + (if (isSwapped) 2 - c else c)].toInt() and 255
        // ITU-R 601 in whole numbers.
        if (channels == 1) return (19595 * at(0) + 38470 * at(1) + 7471 * at(2) + 32768) shr 16
        return at(channel)
    }

    private fun scale(photoWidth: Int, photoHeight: Int): Double {
        if (width == imageSize) return resize.toDouble() / minOf(photoWidth, photoHeight)
        val resizedWidth = resize.toDouble() * width / imageSize
        return maxOf(resize.toDouble() / photoHeight, resizedWidth / photoWidth)
    }

    /** What is cut out of the resized photo: R, G, B of each pixel, row by row. */
    private fun box(stored: Photo, fault: Fault?): ByteArray {
        var photo = stored.flattened(fault)
        if (fault == Fault.ORIENTATION_IGNORED) {
            photo = Photo(photo.pixels, photo.width, photo.height, photo.pixelStride, photo.rowStride)
        }
        val photoWidth = photo.uprightWidth
        val photoHeight = photo.uprightHeight
        val scale = scale(photoWidth, photoHeight)
        val newWidth = maxOf(width, Math.floor(photoWidth * scale + 0.5).toInt())
        val newHeight = maxOf(imageSize, Math.floor(photoHeight * scale + 0.5).toInt())
        var left = (newWidth - width) / 2
        var top = (newHeight - imageSize) / 2
        if (fault == Fault.CROP_OFF_BY_ONE) {
            left = minOf(left + 1, newWidth - width)
            top = minOf(top + 1, newHeight - imageSize)
        }
        val columns = Window.of(photoWidth, newWidth, left, width, interpolation, fault)
        val rows = Window.of(photoHeight, newHeight, top, imageSize, interpolation, fault)
        if (fault == Fault.FLOAT_ROUNDING) return resampleInDoubles(photo, columns, rows)
        return resample(photo, columns, rows)
    }
}
