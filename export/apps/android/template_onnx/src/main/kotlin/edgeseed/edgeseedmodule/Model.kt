package edgeseed.edgeseedmodule

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.Context
import edgeseed.edgeseedmodule.core.Conformance
import edgeseed.edgeseedmodule.core.Photo
import edgeseed.edgeseedmodule.core.SelfTestReport
import edgeseed.edgeseedmodule.core.selfTest
import java.io.Closeable
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/** What computes the model. */
enum class Engine {
    /** ONNX Runtime's own kernels. */
    CPU,

    /** XNNPACK for float layers; what it lacks stays on the CPU. */
    XNNPACK;

    companion object {
        /** What computes if nothing else is asked for. */
        val DEFAULT = CPU
    }
}

/** Version of ONNX Runtime, for measurements. */
internal fun runtimeVersion(): String = OrtEnvironment.getEnvironment().version

/**
 * The module's model, opened: [Classifier] and [Embedder] are what an app uses.
 *
 * Opening takes a while: not on the main thread. Close it when it is no longer needed. It may be
 * used from several threads.
 *
 * @param context any of the app's.
 * @param threads that compute one photo.
 */
class Model(context: Context, engine: Engine = Engine.DEFAULT, threads: Int = 4) : Closeable {
    private val assets = context.applicationContext.assets
    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession

    init {
        environment.setTelemetry(false)
        OrtSession.SessionOptions().use { options ->
            options.setIntraOpNumThreads(if (engine == Engine.XNNPACK) 1 else threads)
            if (engine == Engine.XNNPACK) {
                options.addXnnpack(mapOf("intra_op_num_threads" to threads.toString()))
            }
            session = environment.createSession(readAsset(ModelInfo.MODEL), options)
        }
    }

    /** The content of one of the module's files among the app's assets. */
    internal fun readAsset(path: String): ByteArray =
        assets.open("${ModelInfo.ASSETS}/$path").use { it.readBytes() }

    /** The outputs of each photo, by name, in the photos' order. */
    internal fun run(photos: List<Photo>): List<Map<String, FloatArray>> {
        val most = ModelInfo.batch ?: photos.size
        return photos.chunked(maxOf(1, most)).flatMap { part ->
            val count = ModelInfo.preprocess.count
            val input = floats((ModelInfo.batch ?: part.size) * count)
            part.forEachIndexed { i, photo ->
                ModelInfo.preprocess.fill(photo, input, offset = i * count)
            }
            runTensor(input, part.size)
        }
    }

    /** The outputs of one photo's input: channels x height x width values. */
    internal fun run(input: FloatArray): Map<String, FloatArray> {
        val values = floats((ModelInfo.batch ?: 1) * input.size)
        values.duplicate().put(input)
        return runTensor(values, 1)[0]
    }

    private fun floats(count: Int): FloatBuffer =
        ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder()).asFloatBuffer()

    private fun runTensor(input: FloatBuffer, count: Int): List<Map<String, FloatArray>> {
        val preprocess = ModelInfo.preprocess
        val shape = longArrayOf(
            (input.capacity() / preprocess.count).toLong(),
            preprocess.channels.toLong(),
            preprocess.imageSize.toLong(),
            preprocess.width.toLong(),
        )
        return OnnxTensor.createTensor(environment, input, shape).use { tensor ->
            session.run(mapOf(ModelInfo.INPUT to tensor)).use { result ->
                val outputs = ModelInfo.outputs.associateWith { name ->
                    @Suppress("UNCHECKED_CAST")
                    result.get(name).get().value as Array<FloatArray>
                }
                List(count) { i -> outputs.mapValues { (_, rows) -> rows[i] } }
            }
        }
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

    override fun close() = session.close()
}
