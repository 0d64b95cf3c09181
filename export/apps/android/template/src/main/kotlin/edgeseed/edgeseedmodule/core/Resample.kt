package edgeseed.edgeseedmodule.core

/** Fraction bits of a weight: 32 - 8 bits of a pixel - 2 of headroom. */
private const val PRECISION_BITS = 22
private const val HALF = 1 shl (PRECISION_BITS - 1)

/**
 * Of which input pixels, and in which proportions, some output pixels along one axis are made.
 *
 * @property first the first input pixel of each output pixel.
 * @property weights of it and each that follows, in units of 2^-22.
 * @property exact the same weights before rounding.
 */
internal class Window(
    val first: IntArray,
    val weights: Array<IntArray>,
    val exact: Array<DoubleArray>,
) {
    val size: Int get() = first.size

    /** The first input pixel that any output pixel needs. */
    val start: Int get() = first.min()

    /** One past the last. */
    val end: Int get() = first.indices.maxOf { first[it] + weights[it].size }

    companion object {
        private val whole = intArrayOf(1 shl PRECISION_BITS)
        private val one = doubleArrayOf(1.0)

        /** The [count] output pixels from [start] on, of [old] pixels resized to [new]. */
        fun of(
            old: Int,
            new: Int,
            start: Int,
            count: Int,
            interpolation: Interpolation,
            fault: Fault?,
        ): Window {
            if (old == new) return copies(IntArray(count) { start + it })
            if (interpolation == Interpolation.NEAREST) return copies(nearest(old, new, start, count))
            val first = IntArray(count)
            val exact = Array(count) { index ->
                val (at, weights) = weights(old, new, start + index, interpolation, fault)
                first[index] = at
                weights
            }
            return Window(first, Array(count) { fixed(exact[it]) }, exact)
        }

        private fun copies(first: IntArray) =
            Window(first, Array(first.size) { whole }, Array(first.size) { one })

        private fun nearest(old: Int, new: Int, start: Int, count: Int): IntArray {
            val step = old.toDouble() / new
            var position = step * 0.5
            // Added up, not multiplied: so does Pillow, and the last bit may show.
            repeat(start) { position += step }
            return IntArray(count) {
                val pixel = minOf(position.toInt(), old - 1)
                position += step
                pixel
            }
        }

        private fun weights(
            old: Int,
            new: Int,
            index: Int,
            interpolation: Interpolation,
            fault: Fault?,
        ): Pair<Int, DoubleArray> {
            val radius = if (interpolation == Interpolation.BICUBIC) 2.0 else 1.0
            val scale = old.toDouble() / new
            // Antialiasing: the filter grows as the photo shrinks.
            val stretch = if (fault == Fault.NO_ANTIALIAS) 1.0 else maxOf(scale, 1.0)
            val support = radius * stretch
            val center =
                if (fault == Fault.HALF_PIXEL_SHIFT) index * scale + 0.5 else (index + 0.5) * scale
            val first = maxOf(0, (center - support + 0.5).toInt())
            val last = minOf(old, (center + support + 0.5).toInt())
            val inverse = 1.0 / stretch
            val weights = DoubleArray(last - first) {
                filter((it + first - center + 0.5) * inverse, interpolation)
            }
            var total = 0.0
            for (weight in weights) total += weight
            if (total != 0.0) for (i in weights.indices) weights[i] /= total
            return Pair(first, weights)
        }

        private fun filter(signed: Double, interpolation: Interpolation): Double {
            val x = Math.abs(signed)
            if (interpolation == Interpolation.BILINEAR) return if (x < 1.0) 1.0 - x else 0.0
            val a = -0.5
            return when {
                x < 1.0 -> ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
                x < 2.0 -> (((x - 5.0) * x + 8.0) * x - 4.0) * a
                else -> 0.0
            }
        }

        private fun fixed(exact: DoubleArray) = IntArray(exact.size) {
            val scaled = exact[it] * (1 shl PRECISION_BITS)
            (if (scaled < 0) scaled - 0.5 else scaled + 0.5).toInt()
        }
    }
}

/** The resized square of an upright photo: R, G, B of each pixel. Width first, then height. */
internal fun resample(photo: Photo, columns: Window, rows: Window): ByteArray {
    val start = rows.start
    val needed = rows.end - start
    val narrow =
        if (photo.isTurned) narrowTurned(photo, columns, start, needed)
        else narrowStraight(photo, columns, start, needed)
    return shorten(narrow, columns.size, rows, start)
}

private fun flipsColumns(photo: Photo) = photo.orientation in intArrayOf(2, 3, 7, 8)

private fun flipsRows(photo: Photo) = photo.orientation in intArrayOf(3, 4, 6, 7)

/** The width pass where rows of the photo are rows of memory. */
private fun narrowStraight(photo: Photo, columns: Window, start: Int, needed: Int): ByteArray {
    val pixels = photo.pixels
    val narrow = ByteArray(needed * columns.size * 3)
    val flips = flipsColumns(photo)
    val step = if (flips) -photo.pixelStride else photo.pixelStride
    var target = 0
    for (y in start until start + needed) {
        val row = (if (flipsRows(photo)) photo.height - 1 - y else y) * photo.rowStride
        val edge = if (flips) row + (photo.width - 1) * photo.pixelStride else row
        for (x in 0 until columns.size) {
            val weights = columns.weights[x]
            var place = edge + columns.first[x] * step
            var red = HALF
            var green = HALF
            var blue = HALF
            for (weight in weights) {
                red += (pixels[place].toInt() and 255) * weight
                green += (pixels[place + 1].toInt() and 255) * weight
                blue += (pixels[place + 2].toInt() and 255) * weight
                place += step
            }
            narrow[target] = clip(red)
            narrow[target + 1] = clip(green)
            narrow[target + 2] = clip(blue)
            target += 3
        }
    }
    return narrow
}

/**
 * The width pass where rows of the upright photo are columns of memory.
 *
 * It goes through memory row by row and adds to sums of a whole column: reading down the columns
 * of twelve megapixels would miss the cache with every pixel.
 */
private fun narrowTurned(photo: Photo, columns: Window, start: Int, needed: Int): ByteArray {
    val pixels = photo.pixels
    val narrow = ByteArray(needed * columns.size * 3)
    val sums = IntArray(needed * 3)
    val flipsAlong = flipsRows(photo)
    // Orientations 6 and 7 count the photo's x from the last stored row, 7 and 8 its y from the
    // last stored column.
    val flipsAcross = flipsColumns(photo)
    val step = if (flipsAcross) -photo.pixelStride else photo.pixelStride
    val across = if (flipsAcross) photo.width - 1 - start else start
    for (x in 0 until columns.size) {
        sums.fill(HALF)
        val weights = columns.weights[x]
        for (k in weights.indices) {
            val weight = weights[k]
            val along = columns.first[x] + k
            val storedRow = if (flipsAlong) photo.height - 1 - along else along
            var place = storedRow * photo.rowStride + across * photo.pixelStride
            var i = 0
            while (i < sums.size) {
                sums[i] += (pixels[place].toInt() and 255) * weight
                sums[i + 1] += (pixels[place + 1].toInt() and 255) * weight
                sums[i + 2] += (pixels[place + 2].toInt() and 255) * weight
                place += step
                i += 3
            }
        }
        for (y in 0 until needed) {
            val target = (y * columns.size + x) * 3
            for (c in 0..2) narrow[target + c] = clip(sums[y * 3 + c])
        }
    }
    return narrow
}

/** The height pass. */
private fun shorten(narrow: ByteArray, width: Int, rows: Window, start: Int): ByteArray {
    val line = width * 3
    val square = ByteArray(rows.size * line)
    val sums = IntArray(line)
    for (y in 0 until rows.size) {
        sums.fill(HALF)
        val weights = rows.weights[y]
        for (k in weights.indices) {
            val weight = weights[k]
            val source = (rows.first[y] - start + k) * line
            for (i in 0 until line) sums[i] += (narrow[source + i].toInt() and 255) * weight
        }
        for (i in 0 until line) square[y * line + i] = clip(sums[i])
    }
    return square
}

private fun clip(sum: Int): Byte {
    val value = sum shr PRECISION_BITS
    return (if (value < 0) 0 else if (value > 255) 255 else value).toByte()
}

/** [Fault.FLOAT_ROUNDING]: both passes in doubles, rounded once. Slow; for tests and diagnosis. */
internal fun resampleInDoubles(photo: Photo, columns: Window, rows: Window): ByteArray {
    val start = rows.start
    val needed = rows.end - start
    val line = columns.size * 3
    val narrow = DoubleArray(needed * line)
    for (y in 0 until needed) {
        for (x in 0 until columns.size) {
            for (c in 0..2) {
                var sum = 0.0
                for (k in columns.exact[x].indices) {
                    val value = uprightValue(photo, columns.first[x] + k, start + y, c)
                    sum += value * columns.exact[x][k]
                }
                narrow[y * line + x * 3 + c] = sum
            }
        }
    }
    return ByteArray(rows.size * line) { i ->
        val y = i / line
        var sum = 0.0
        for (k in rows.exact[y].indices) {
            sum += narrow[(rows.first[y] - start + k) * line + i % line] * rows.exact[y][k]
        }
        Math.floor(sum + 0.5).coerceIn(0.0, 255.0).toInt().toByte()
    }
}

private fun uprightValue(photo: Photo, x: Int, y: Int, channel: Int): Int {
    val w = photo.width
    val h = photo.height
    val (storedX, storedY) = when (photo.orientation) {
        2 -> Pair(w - 1 - x, y)
        3 -> Pair(w - 1 - x, h - 1 - y)
        4 -> Pair(x, h - 1 - y)
        5 -> Pair(y, x)
        6 -> Pair(y, h - 1 - x)
        7 -> Pair(w - 1 - y, h - 1 - x)
        8 -> Pair(w - 1 - y, x)
        else -> Pair(x, y)
    }
    return photo.pixels[storedY * photo.rowStride + storedX * photo.pixelStride + channel].toInt() and 255
}
