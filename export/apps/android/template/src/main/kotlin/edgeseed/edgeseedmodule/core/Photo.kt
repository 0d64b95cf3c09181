package edgeseed.edgeseedmodule.core

/** What a photo's fourth value means for its colours. */
enum class Alpha { NONE, STRAIGHT, PREMULTIPLIED }

/** The colour space of a photo's values. */
enum class Profile { SRGB, DISPLAY_P3 }

/**
 * Pixels as a decoder gives them: not yet upright, alpha and profile not yet applied.
 *
 * @property pixels red, green and blue of a pixel in one byte each, and alpha as fourth.
 * @property width stored width in pixels.
 * @property height stored height in pixels.
 * @property pixelStride bytes from one pixel to the next: 3 or 4.
 * @property rowStride bytes from one row to the next.
 * @property orientation EXIF's number, 1 to 8; another means 1.
 */
class Photo(
    val pixels: ByteArray,
    val width: Int,
    val height: Int,
    val pixelStride: Int = 4,
    val rowStride: Int = width * pixelStride,
    val alpha: Alpha = Alpha.NONE,
    val orientation: Int = 1,
    val profile: Profile = Profile.SRGB,
) {
    init {
        require(width > 0 && height > 0) { "a photo of $width x $height pixels" }
        require(pixelStride == 3 || pixelStride == 4) { "$pixelStride bytes a pixel: 3 or 4" }
        require(alpha == Alpha.NONE || pixelStride == 4) { "alpha needs 4 bytes a pixel" }
        val needed = (height - 1L) * rowStride + width.toLong() * pixelStride
        require(rowStride >= width * pixelStride && pixels.size >= needed) {
            "$width x $height pixels need $needed bytes, found ${pixels.size}"
        }
    }

    /** Whether the stored width is the height of the upright photo. */
    val isTurned: Boolean get() = orientation in 5..8

    /** Width of the upright photo. */
    val uprightWidth: Int get() = if (isTurned) height else width

    /** Height of the upright photo. */
    val uprightHeight: Int get() = if (isTurned) width else height

    /** The same photo as opaque sRGB: the profile applied, then alpha laid over white. */
    internal fun flattened(fault: Fault? = null): Photo {
        val converts = profile == Profile.DISPLAY_P3 && fault != Fault.P3_AS_SRGB
        if (alpha == Alpha.NONE && !converts) return this
        if (!converts && isOpaque()) return this
        val rgb = ByteArray(width * height * 3)
        val color = IntArray(3)
        var target = 0
        for (y in 0 until height) {
            var source = y * rowStride
            for (x in 0 until width) {
                for (c in 0..2) color[c] = pixels[source + c].toInt() and 255
                if (converts) DisplayP3.toSrgb(color)
                if (alpha != Alpha.NONE) layOver(color, pixels[source + 3].toInt() and 255, fault)
                for (c in 0..2) rgb[target + c] = color[c].toByte()
                source += pixelStride
                target += 3
            }
        }
        return Photo(rgb, width, height, pixelStride = 3, orientation = orientation)
    }

    private fun isOpaque(): Boolean {
        for (y in 0 until height) {
            var place = y * rowStride + 3
            for (x in 0 until width) {
                if (pixels[place].toInt() != -1) return false
                place += pixelStride
            }
        }
        return true
    }

    private fun layOver(color: IntArray, opacity: Int, fault: Fault?) {
        for (c in 0..2) {
            val value = color[c]
            color[c] = when {
                fault == Fault.ALPHA_PREMULTIPLIED && alpha == Alpha.PREMULTIPLIED -> value
                fault == Fault.ALPHA_PREMULTIPLIED -> (value * opacity * 2 + 255) / 510
                alpha == Alpha.PREMULTIPLIED -> minOf(255, value + 255 - opacity)
                else -> {
                    // Rounded division by 255 with 7 more bits, as Pillow lays alpha over white.
                    val sum = 128 * (value * opacity + 255 * (255 - opacity)) + (128 shl 7)
                    ((sum shr 8) + sum shr 8) shr 7
                }
            }
        }
    }
}

/** Display P3 to sRGB in whole numbers: step 2 of edgeseed's docs/preprocessing.md. */
internal object DisplayP3 {
    private const val MAX = 65535

    private fun light(value: Double): Double =
        if (value <= 0.04045) value / 12.92 else Math.pow((value + 0.055) / 1.055, 2.4)

    private val linear = IntArray(256) { (MAX * light(it / 255.0) + 0.5).toInt() }

    private val encoded: ByteArray = ByteArray(MAX + 1).also { table ->
        var value = 0
        for (x in 0..MAX) {
            while (value < 255 && MAX * light((value + 0.5) / 255.0) <= x) value++
            table[x] = value.toByte()
        }
    }

    /** Converts one pixel in place. */
    fun toSrgb(color: IntArray) {
        val r = linear[color[0]]
        val g = linear[color[1]]
        val b = linear[color[2]]
        color[0] = encode(20070 * r - 3686 * g)
        color[1] = encode(-689 * r + 17073 * g)
        color[2] = encode(-322 * r - 1288 * g + 17994 * b)
    }

    private fun encode(sum: Int): Int =
        encoded[((sum + 8192) shr 14).coerceIn(0, MAX)].toInt() and 255
}
