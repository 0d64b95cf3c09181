#if canImport(CoreML)
  import EdgeseedModuleCore
  import Foundation

  extension Model {
    /// Measures the model's latency and writes `measurement.json`, which `edgeseed profile
    /// --measurement` takes: golden photos first, then one photo after the other.
    ///
    /// - Parameters:
    ///   - rules: How long to measure.
    ///   - file: Where `measurement.json` goes.
    ///   - units: Which processors may run the model.
    /// - Throws: `FileError` if the golden photos do not pass; nothing is timed then.
    public static func benchmark(
      _ rules: MeasurementProtocol = .quick, to file: URL, units: ComputeUnits = .all
    ) throws {
      let clock = { Int64(DispatchTime.now().uptimeNanoseconds) }
      let loading = clock()
      let model = try Model(units: units)
      let loaded = clock()
      let golden = try NumpyArray(Resources.read("golden/inputs.npy")).bytes
      let channels = ModelInfo.preprocess.channels
      let area = ModelInfo.preprocess.imageSize * ModelInfo.preprocess.width
      let square = (0..<channels * area).map { golden[$0 % channels * area + $0 / channels] }
      let starting = clock()
      _ = try model.run(square)
      let firstRun = clock() - starting
      let report = try model.selfTest()
      guard report.passed else { throw FileError(report.description) }
      let before = state()
      let timings = try EdgeseedModuleCore.measure(
        rules, clock: clock, cpuClock: cpuTime, run: { _ = try model.run(square) })
      let process = ProcessInfo.processInfo
      let facts = DeviceFacts(
        model: hardware(), architecture: "arm64", system: process.operatingSystemVersionString,
        cores: process.activeProcessorCount,
        memoryMiB: Double(process.physicalMemory) / 1_048_576,
        units: units.rawValue, residentMiB: nil, before: before, after: state(),
        limitations: [
          "Core ML does not say which processor ran which layer",
          "an app does not see how busy the device is, nor its clocks",
        ])
      let data = try measurementJSON(
        bundleDigest: ModelInfo.bundleDigest, rules: rules, device: facts, report: report,
        loadNs: loaded - loading, firstRunNs: firstRun, timings: timings)
      try data.write(to: file, options: .atomic)
    }
  }

  private func state() -> [String: String] {
    let process = ProcessInfo.processInfo
    return [
      "thermal state": String(process.thermalState.rawValue),
      "low power mode": String(process.isLowPowerModeEnabled),
    ]
  }

  private func cpuTime() -> Int64 {
    Int64(clock_gettime_nsec_np(CLOCK_PROCESS_CPUTIME_ID))
  }

  /// Such as `iPhone16,1`.
  private func hardware() -> String {
    var size = 0
    sysctlbyname("hw.machine", nil, &size, nil, 0)
    var name = [CChar](repeating: 0, count: max(size, 1))
    sysctlbyname("hw.machine", &name, &size, nil, 0)
    return String(cString: name)
  }
#endif
