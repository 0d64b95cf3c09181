/// How long to measure: until both minima are met, and never past `maxSeconds`.
///
/// The protocols are edgeseed's (`edgeseed profile --protocol`).
public enum MeasurementProtocol: String, CaseIterable, Sendable {
  case rapid, quick, normal, sustained

  var minRuns: Int { [.rapid: 64, .quick: 128][self] ?? 1024 }
  var minSeconds: Double { [.rapid: 6, .quick: 10, .normal: 60][self] ?? 600 }
  var maxSeconds: Double { [.rapid: 60, .quick: 100, .normal: 600][self] ?? 1200 }
}

/// Raw durations of one measurement in nanoseconds, in the order in which they happened.
public struct Timings: Sendable {
  public let samplesNs: [Int64]
  public let elapsedNs: Int64
  /// CPU time of the process over all samples.
  public let cpuNs: Int64
  public let warmUpRuns: Int
  public let warmUpNs: Int64
  public let steady: Bool
}

/// Warms `run` up until its medians settle, then calls it until the protocol is met.
///
/// - Parameters:
///   - clock: A monotonic clock in nanoseconds.
///   - cpuClock: CPU time of the process in nanoseconds.
public func measure(
  _ rules: MeasurementProtocol,
  clock: () -> Int64,
  cpuClock: () -> Int64,
  run: () throws -> Void
) rethrows -> Timings {
  var steady = false
  var nextCheck = 10
  let warmUp = try repeated(clock: clock, run: run) { samples, elapsed in
    let seconds = Double(elapsed) / 1e9
    if samples.count < 10 || seconds < 1 { return false }
    if samples.count >= nextCheck {
      nextCheck = samples.count + max(1, samples.count / 10)
      steady = mediansAgree(samples)
    }
    return steady || seconds >= 15
  }
  let cpuBefore = cpuClock()
  let timed = try repeated(clock: clock, run: run) { samples, elapsed in
    let seconds = Double(elapsed) / 1e9
    return (seconds >= rules.minSeconds && samples.count >= rules.minRuns)
      || seconds >= rules.maxSeconds
  }
  return Timings(
    samplesNs: timed.samples, elapsedNs: timed.elapsed, cpuNs: cpuClock() - cpuBefore,
    warmUpRuns: warmUp.samples.count, warmUpNs: warmUp.elapsed, steady: steady)
}

private func repeated(
  clock: () -> Int64, run: () throws -> Void, until stop: ([Int64], Int64) -> Bool
) rethrows -> (samples: [Int64], elapsed: Int64) {
  var samples: [Int64] = []
  samples.reserveCapacity(4096)
  let start = clock()
  while true {
    let before = clock()
    try run()
    let after = clock()
    samples.append(after - before)
    if stop(samples, after - start) { return (samples, after - start) }
  }
}

/// Whether the newest quarter's median differs by less than 2 % from that of the quarter before.
private func mediansAgree(_ samples: [Int64]) -> Bool {
  let quarter = max(1, samples.count / 4)
  let newest = median(samples.suffix(quarter))
  let before = median(samples.dropLast(quarter).suffix(quarter))
  return abs(newest - before) <= 0.02 * before
}

private func median(_ samples: ArraySlice<Int64>) -> Double {
  let sorted = samples.sorted()
  let middle = sorted.count / 2
  if sorted.count % 2 == 1 { return Double(sorted[middle]) }
  return Double(sorted[middle - 1] + sorted[middle]) / 2
}
