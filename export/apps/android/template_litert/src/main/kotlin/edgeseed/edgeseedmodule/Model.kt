package edgeseed.edgeseedmodule

import android.content.Context
import edgeseed.edgeseedmodule.core.Conformance
import edgeseed.edgeseedmodule.core.Photo
import edgeseed.edgeseedmodule.core.SelfTestReport
import edgeseed.edgeseedmodule.core.selfTest
import java.io.Closeable
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.TensorFlowLite

/** What computes the model. */
enum class Engine {
    /** XNNPACK; what it lacks stays on LiteRT's own kernels. */
    XNNPACK,

    /** LiteRT's own kernels alone. */
    CPU;

    companion object {
        /** What computes if nothing else is asked for. */
        val DEFAULT = XNNPACK
    }
}

// Of the file, by the name that the export gives it.
private const val SIGNATURE = "serving_default"

/** Version of LiteRT, for measurements. */
internal fun runtimeVersion(): String = TensorFlowLite.runtimeVersion()

/**
 * The module's model, opened: [Classifier] and [Embedder] are what an app uses.
 *
 * Opening takes a while: not on the main thread. Close it when it is no longer needed. It may be
 * used from several threads, which wait for each other.
 *
 * @param context any of the app's.
 * @param threads that compute one photo.
 */
class Model(context: Context, engine: Engine = Engine.DEFAULT, threads: Int = 4) : Closeable {
    private val assets = context.applicationContext.assets
    private val lock = Any()
    private val interpreter: Interpreter
    private val input: ByteBuffer

    init {
        val options = Interpreter.Options()
        options.setNumThreads(threads)
        options.setUseXNNPACK(engine == Engine.XNNPACK)
        val content = readAsset(ModelInfo.MODEL)
        // LiteRT reads weights where they lie: memory outside the JVM, which it keeps alive itself.
        interpreter = Interpreter(direct(content.size).apply { put(content).rewind() }, options)
        val valueSize = if (ModelInfo.inputIsFloat) Float.SIZE_BYTES else 1
        input = direct(ModelInfo.preprocess.count * valueSize)
    }

    /** The content of one of the module's files among the app's assets. */
    internal fun readAsset(path: String): ByteArray =
        assets.open("${ModelInfo.ASSETS}/$path").use { it.readBytes() }

    /** The outputs of each photo, by name, in the photos' order. The model takes one at a time. */
    internal fun run(photos: List<Photo>): List<Map<String, FloatArray>> =
        photos.map { runRows(ModelInfo.preprocess.rows(it)) }

    /** The outputs of one photo's input: channels x height x width values, 0 to 255. */
    internal fun run(input: FloatArray): Map<String, FloatArray> =
        runRows(ModelInfo.preprocess.rows(input))

    private fun direct(size: Int): ByteBuffer =
        ByteBuffer.allocateDirect(size).order(ByteOrder.nativeOrder())

    private fun runRows(pixels: ByteArray): Map<String, FloatArray> = synchronized(lock) {
        input.rewind()
        if (ModelInfo.inputIsFloat) {
            for (value in pixels) input.putFloat((value.toInt() and 255).toFloat())
        } else {
            input.put(pixels)
        }
        input.rewind()
        val outputs = ModelInfo.outputs.associateWith { name ->
            val shape = interpreter.getOutputTensorFromSignature(name, SIGNATURE).shape()
            arrayOf(FloatArray(shape[1]))
        }
        interpreter.runSignature(mapOf(ModelInfo.INPUT to input), outputs, SIGNATURE)
        outputs.mapValues { (_, rows) -> rows[0] }
    }

    /**
     * Proves the app right: golden photos from PNG to the model's outputs, and the conformance set.
     *
     * Run it in an instrumented test, and once on each kind of device.
     */
    fun selfTest(): SelfTestReport =
        selfTest(ModelInfo.preprocess, ::readAsset, ::decodePhoto) { run(it) }

    /** What the platform's decoder does with the conformance set; empty if all is right. */
    fun checkConformance(): List<String> =
        Conformance { readAsset("conformance/$it") }.checkPlatform(::decodePhoto)

    override fun close() = synchronized(lock) { interpreter.close() }
}
