package edgeseed.edgeseedmodule.core

/** Mistakes that cost accuracy without an error: edgeseed's docs/preprocessing.md has their names. */
enum class Fault(val id: String, val cause: String) {
    BGR("bgr", "the channels are in the order blue, green, red"),
    NO_ANTIALIAS("no-antialias", "the photo was resized without antialiasing"),
    HALF_PIXEL_SHIFT(
        "half-pixel-shift",
        "the resize puts pixel centres on whole numbers: half a pixel off",
    ),
    CROP_OFF_BY_ONE("crop-off-by-one", "the square is cut out one pixel further right and down"),
    ORIENTATION_IGNORED("orientation-ignored", "the EXIF orientation was not applied"),
    ALPHA_PREMULTIPLIED(
        "alpha-premultiplied",
        "colours multiplied by alpha were taken as they are, over black",
    ),
    P3_AS_SRGB("p3-as-srgb", "Display P3 values were taken for sRGB"),
    SCALED(
        "scaled",
        "the pixels were scaled or normalised before the model, which does that itself",
    ),
    NHWC("nhwc", "the tensor is in the order height, width, channels"),
    FLOAT_ROUNDING(
        "float-rounding",
        "the resize rounds once at its end instead of after each of its two passes",
    ),
}

/**
 * What probably went wrong where a tensor is not what it should be.
 *
 * @property fault null if none of the known mistakes explains it.
 * @property largestDifference of the tensor from the right one, in levels.
 */
class Diagnosis(val fault: Fault?, val largestDifference: Float) {
    override fun toString(): String {
        val found = "the input differs from the expected one by up to $largestDifference levels"
        return if (fault == null) "$found; no known mistake explains it"
        else "$found; likely cause: ${fault.cause} (${fault.id})"
    }
}

/**
 * Explains a wrong input tensor by the mistake that gives the same one, or one nearer than half as
 * far away.
 *
 * @param photo the photo before any step.
 * @param preprocess the model's.
 * @param found the tensor that the app made, 3 x S x S.
 * @return null if the tensor is right.
 */
fun diagnose(photo: Photo, preprocess: Preprocess, found: FloatArray): Diagnosis? {
    val right = preprocess.tensor(photo, null)
    val largest = largestDifference(right, found)
    if (largest == 0f) return null
    return Diagnosis(nearestFault(photo, preprocess, found, right), largest)
}

/** The mistake that gives [found], or comes twice as near to it as [right] does; else null. */
internal fun nearestFault(
    photo: Photo,
    preprocess: Preprocess,
    found: FloatArray,
    right: FloatArray,
): Fault? {
    val distances = Fault.entries.associateWith { meanDifference(preprocess.tensor(photo, it), found) }
    val nearest = distances.entries.minBy { it.value }
    return if (nearest.value < 0.5 * meanDifference(right, found)) nearest.key else null
}

private fun largestDifference(a: FloatArray, b: FloatArray): Float {
    require(a.size == b.size) { "a tensor of ${b.size} values, expected ${a.size}" }
    return a.indices.maxOf { Math.abs(a[it] - b[it]) }
}

private fun meanDifference(a: FloatArray, b: FloatArray): Double {
    var sum = 0.0
    for (i in a.indices) sum += Math.abs((a[i] - b[i]).toDouble())
    return sum / a.size
}
