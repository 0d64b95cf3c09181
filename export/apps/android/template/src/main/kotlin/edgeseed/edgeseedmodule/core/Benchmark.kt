package edgeseed.edgeseedmodule.core

/**
 * How long to measure: until both minima are met, and never past [maxSeconds].
 *
 * The protocols are edgeseed's (`edgeseed profile --protocol`).
 */
enum class Protocol(val minRuns: Int, val minSeconds: Double, val maxSeconds: Double) {
    RAPID(64, 6.0, 60.0),
    QUICK(128, 10.0, 100.0),
    NORMAL(1024, 60.0, 600.0),
    SUSTAINED(1024, 600.0, 1200.0),
}

/** Raw durations of one measurement in nanoseconds, in the order in which they happened. */
class Timings(
    val samplesNs: LongArray,
    val elapsedNs: Long,
    val cpuNs: Long,
    val warmUpRuns: Int,
    val warmUpNs: Long,
    val steady: Boolean,
)

/**
 * Warms [run] up until its medians settle, then calls it until [protocol] is met.
 *
 * @param clock a monotonic clock in nanoseconds.
 * @param cpuClock CPU time of the process in nanoseconds.
 */
fun measure(
    protocol: Protocol,
    clock: () -> Long,
    cpuClock: () -> Long,
    run: () -> Unit,
): Timings {
    var steady = false
    var nextCheck = 10
    val warmUp = repeatUntil(clock, run) { samples, elapsed ->
        val seconds = elapsed / 1e9
        if (samples.size < 10 || seconds < 1.0) return@repeatUntil false
        if (samples.size >= nextCheck) {
            nextCheck = samples.size + maxOf(1, samples.size / 10)
            steady = mediansAgree(samples)
        }
        steady || seconds >= 15.0
    }
    val cpuBefore = cpuClock()
    val timed = repeatUntil(clock, run) { samples, elapsed ->
        val seconds = elapsed / 1e9
        (seconds >= protocol.minSeconds && samples.size >= protocol.minRuns) ||
            seconds >= protocol.maxSeconds
    }
    return Timings(
        timed.first.toLongArray(),
        timed.second,
        cpuClock() - cpuBefore,
        warmUp.first.size,
        warmUp.second,
        steady,
    )
}

private fun repeatUntil(
    clock: () -> Long,
    run: () -> Unit,
    stop: (List<Long>, Long) -> Boolean,
): Pair<List<Long>, Long> {
    val samples = ArrayList<Long>(4096)
    val start = clock()
    while (true) {
        val before = clock()
        run()
        val after = clock()
        samples.add(after - before)
        if (stop(samples, after - start)) return Pair(samples, after - start)
    }
}

/** Whether the newest quarter's median differs by less than 2 % from that of the quarter before. */
private fun mediansAgree(samples: List<Long>): Boolean {
    val quarter = maxOf(1, samples.size / 4)
    val newest = median(samples.takeLast(quarter))
    val before = median(samples.subList(samples.size - 2 * quarter, samples.size - quarter))
    return Math.abs(newest - before) <= 0.02 * before
}

private fun median(samples: List<Long>): Double {
    val sorted = samples.sorted()
    val middle = sorted.size / 2
    return if (sorted.size % 2 == 1) sorted[middle].toDouble()
    else (sorted[middle - 1] + sorted[middle]) / 2.0
}

/** Values as JSON in ASCII: maps, lists, texts, numbers, booleans and null. */
fun toJson(value: Any?): String = when (value) {
    null -> "null"
    is String -> Json.quote(value)
    is Boolean, is Int, is Long -> value.toString()
    is Float -> toJson(value.toDouble())
    is Double -> if (value.isFinite()) value.toString() else "null"
    is LongArray -> value.joinToString(",", "[", "]")
    is List<*> -> value.joinToString(",", "[", "]") { toJson(it) }
    is Map<*, *> ->
        value.entries.joinToString(",", "{", "}") { "${Json.quote(it.key as String)}:${toJson(it.value)}" }
    else -> throw IllegalArgumentException("${value::class.simpleName} in JSON")
}
