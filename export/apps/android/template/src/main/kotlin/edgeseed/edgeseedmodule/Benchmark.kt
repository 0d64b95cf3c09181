package edgeseed.edgeseedmodule

import android.app.Activity
import android.content.Context
import android.os.Build
import android.os.Bundle
import android.os.Debug
import android.os.PowerManager
import android.os.SystemClock
import android.util.Log
import edgeseed.edgeseedmodule.core.NumpyArray
import edgeseed.edgeseedmodule.core.Protocol
import edgeseed.edgeseedmodule.core.measure
import edgeseed.edgeseedmodule.core.toJson
import java.io.File
import kotlin.concurrent.thread

private const val MIB = 1024.0 * 1024.0

/**
 * Measures the model's latency and writes `measurement.json`, golden photos first.
 *
 * @param file where it goes.
 * @throws IllegalStateException if the golden photos do not pass: nothing is timed then.
 */
fun benchmark(
    context: Context,
    file: File,
    protocol: Protocol = Protocol.QUICK,
    engine: Engine = Engine.CPU,
    threads: Int = 4,
) {
    val loading = System.nanoTime()
    Model(context, engine, threads).use { model ->
        val loaded = System.nanoTime()
        val golden = NumpyArray.read(model.readAsset("golden/inputs.npy"))
        val size = golden.shape.drop(1).fold(1) { product, side -> product * side }
        val bytes = golden.bytes()
        val input = FloatArray(size) { (bytes[it].toInt() and 255).toFloat() }
        val starting = System.nanoTime()
        model.run(input)
        val firstRun = System.nanoTime() - starting
        val report = model.selfTest()
        check(report.passed) { report.toString() }
        val power = context.getSystemService(PowerManager::class.java)
        val heatBefore = power.currentThermalStatus
        val timings = measure(
            protocol,
            clock = System::nanoTime,
            cpuClock = { android.os.Process.getElapsedCpuTime() * 1_000_000 },
        ) { model.run(input) }
        val values = mapOf(
            "schema_version" to 1,
            "runner" to "android-app",
            "edgeseed" to ModelInfo.EDGESEED_VERSION,
            "bundle_digest" to ModelInfo.BUNDLE_DIGEST,
            "protocol" to protocol.name.lowercase(),
            "engine" to "onnxruntime",
            "engine_version" to ai.onnxruntime.OrtEnvironment.getEnvironment().version,
            "settings" to mapOf("engine" to engine.name.lowercase(), "threads" to threads),
            "machine" to machine(),
            "load_ns" to loaded - loading,
            "first_run_ns" to firstRun,
            "golden" to mapOf(
                "n" to report.numPhotos,
                "relative_error" to report.relativeErrors,
            ),
            "placement" to mapOf("requested" to "cpu", "actual" to "cpu", "nodes" to null),
            "memory_model" to mapOf("resident_mib" to Debug.getPss() / 1024.0),
            "samples_ns" to timings.samplesNs,
            "elapsed_ns" to timings.elapsedNs,
            "cpu_ns" to timings.cpuNs,
            "warm_up" to mapOf(
                "runs" to timings.warmUpRuns,
                "seconds" to timings.warmUpNs / 1e9,
                "steady" to timings.steady,
            ),
            "thermal_status" to listOf(heatBefore, power.currentThermalStatus),
            "power_save_mode" to power.isPowerSaveMode,
            "uptime_ms" to SystemClock.elapsedRealtime(),
        )
        // Whole or absent: whoever waits for the file must not read a half of it.
        val temporary = File(file.path + ".tmp")
        temporary.writeText(toJson(values))
        check(temporary.renameTo(file)) { "$file cannot be written" }
    }
}

private fun machine() = mapOf(
    "model" to "${Build.MANUFACTURER} ${Build.MODEL}",
    "soc" to if (Build.VERSION.SDK_INT >= 31) Build.SOC_MODEL else Build.HARDWARE,
    "system" to "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
    "architecture" to Build.SUPPORTED_ABIS.first(),
    "usable_cores" to Runtime.getRuntime().availableProcessors(),
    "heap_mib" to Runtime.getRuntime().maxMemory() / MIB,
)

/**
 * Starts [benchmark] from a computer and ends; `edgeseed profile --device "adb:?runner=app"` does it:
 *
 * ```
 * adb shell am start -n APP/edgeseed.edgeseedmodule.BenchmarkActivity \
 *     --es protocol quick --es engine cpu --ei threads 4
 * adb shell run-as APP cat files/edgeseedmodule/measurement.json
 * ```
 *
 * The file appears when the measurement is done; `error.txt` instead if it failed.
 */
class BenchmarkActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val folder = File(filesDir, ModelInfo.ASSETS).apply { mkdirs() }
        val (result, failure) = listOf("measurement.json", "error.txt").map { File(folder, it) }
        result.delete()
        failure.delete()
        val name = intent.getStringExtra("protocol") ?: "quick"
        val engine = intent.getStringExtra("engine") ?: "cpu"
        val threads = intent.getIntExtra("threads", 4)
        thread {
            try {
                benchmark(
                    applicationContext,
                    result,
                    Protocol.valueOf(name.uppercase()),
                    Engine.valueOf(engine.uppercase()),
                    threads,
                )
            } catch (error: Exception) {
                Log.e("edgeseed", "benchmark failed", error)
                failure.writeText("${error.javaClass.simpleName}: ${error.message}\n")
            }
            runOnUiThread { finish() }
        }
    }
}
