package edgeseed.edgeseedmodule.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * An array of a NumPy `.npy` file: bytes or 32-bit floats, row by row.
 *
 * @property shape its sizes, outermost first.
 */
class NumpyArray private constructor(
    val shape: List<Int>,
    private val isFloat: Boolean,
    private val content: ByteBuffer,
) {
    /** All values as bytes; only for arrays of bytes. */
    fun bytes(): ByteArray {
        check(!isFloat) { "the array holds floats" }
        return ByteArray(content.remaining()).also { content.duplicate().get(it) }
    }

    /** All values as floats; only for arrays of floats. */
    fun floats(): FloatArray {
        check(isFloat) { "the array holds bytes" }
        val values = content.duplicate().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return FloatArray(values.remaining()).also { values.get(it) }
    }

    companion object {
        private val DESCRIPTION = Regex("'descr': *'([^']*)'")
        private val SHAPE = Regex("'shape': *\\(([0-9, ]*)\\)")

        /** Reads the whole content of a `.npy` file. */
        fun read(file: ByteArray): NumpyArray {
            require(file.size > 10 && file[0].toInt() == 0x93.toByte().toInt()) { "not a .npy file" }
            val length = (file[8].toInt() and 255) + 256 * (file[9].toInt() and 255)
            val header = String(file, 10, length, Charsets.ISO_8859_1)
            val type = DESCRIPTION.find(header)?.groupValues?.get(1)
            require(type == "|u1" || type == "<f4") { "a .npy file of type $type" }
            require("'fortran_order': False" in header) { "a .npy file in Fortran's order" }
            val sizes = SHAPE.find(header)?.groupValues?.get(1).orEmpty()
            val shape = sizes.split(',').map { it.trim() }.filter { it.isNotEmpty() }.map { it.toInt() }
            val count = shape.fold(1) { product, size -> product * size } * if (type == "<f4") 4 else 1
            require(file.size == 10 + length + count) { "a .npy file that is not whole" }
            return NumpyArray(shape, type == "<f4", ByteBuffer.wrap(file, 10 + length, count).slice())
        }
    }
}
