package edgeseed.edgeseedmodule.core

/** Whose weights of red, green and blue a camera frame's luma has. */
enum class YuvMatrix { BT601, BT709 }

/** Whether luma goes from 0 to 255, or from 16 to 235. */
enum class YuvRange { FULL, VIDEO }

/**
 * One plane of a camera frame.
 *
 * @property bytes its values.
 * @property pixelStride bytes from one value to the next: 1, or 2 where two planes alternate.
 * @property rowStride bytes from one row to the next.
 */
class Plane(val bytes: ByteArray, val rowStride: Int, val pixelStride: Int = 1)

/** A camera frame: luma at full size, and two planes of colour at half of it. */
class YuvFrame(
    val width: Int,
    val height: Int,
    val y: Plane,
    val u: Plane,
    val v: Plane,
    val matrix: YuvMatrix = YuvMatrix.BT601,
    val range: YuvRange = YuvRange.FULL,
) {
    /**
     * The frame as RGB.
     *
     * @param rotation degrees by which it is to be turned clockwise to be upright: 0, 90, 180, 270.
     */
    fun toPhoto(rotation: Int): Photo {
        val orientation = requireNotNull(ORIENTATIONS[rotation]) {
            "a rotation of $rotation degrees: 0, 90, 180 or 270"
        }
        val constants = CONSTANTS.getValue(Pair(matrix, range))
        val (black, gain, vRed, uGreen, vGreen) = constants
        val uBlue = constants[5]
        val rgb = ByteArray(width * height * 3)
        var target = 0
        for (row in 0 until height) {
            var lumaAt = row * y.rowStride
            for (column in 0 until width) {
                val uAt = (row / 2) * u.rowStride + (column / 2) * u.pixelStride
                val vAt = (row / 2) * v.rowStride + (column / 2) * v.pixelStride
                val luma = gain * ((y.bytes[lumaAt].toInt() and 255) - black) + 32768
                val blueDifference = (u.bytes[uAt].toInt() and 255) - 128
                val redDifference = (v.bytes[vAt].toInt() and 255) - 128
                rgb[target] = clip(luma + vRed * redDifference)
                rgb[target + 1] = clip(luma - uGreen * blueDifference - vGreen * redDifference)
                rgb[target + 2] = clip(luma + uBlue * blueDifference)
                lumaAt += y.pixelStride
                target += 3
            }
        }
        return Photo(rgb, width, height, pixelStride = 3, orientation = orientation)
    }

    private fun clip(value: Int): Byte = (value shr 16).coerceIn(0, 255).toByte()

    private companion object {
        val ORIENTATIONS = mapOf(0 to 1, 90 to 6, 180 to 3, 270 to 8)

        /** Black, gain, V to red, U to green, V to green, U to blue; all but black times 65536. */
        val CONSTANTS = mapOf(
            Pair(YuvMatrix.BT601, YuvRange.FULL) to intArrayOf(0, 65536, 91881, 22553, 46802, 116130),
            Pair(YuvMatrix.BT601, YuvRange.VIDEO) to
                intArrayOf(16, 76309, 104597, 25675, 53279, 132201),
            Pair(YuvMatrix.BT709, YuvRange.FULL) to
                intArrayOf(0, 65536, 103206, 12276, 30679, 121609),
            Pair(YuvMatrix.BT709, YuvRange.VIDEO) to
                intArrayOf(16, 76309, 117489, 13975, 34925, 138438),
        )
    }
}
