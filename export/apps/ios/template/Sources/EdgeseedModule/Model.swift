#if canImport(CoreML)
  import CoreML
  import EdgeseedModuleCore
  import Foundation

  /// Which processors may run the model.
  public enum ComputeUnits: String, CaseIterable, Sendable {
    case all, cpuOnly, cpuAndGPU, cpuAndNeuralEngine

    var coreML: MLComputeUnits {
      switch self {
      case .all: return .all
      case .cpuOnly: return .cpuOnly
      case .cpuAndGPU: return .cpuAndGPU
      case .cpuAndNeuralEngine: return .cpuAndNeuralEngine
      }
    }
  }

  /// The module's model, opened. `Classifier` and `Embedder` are what an app uses.
  public final class Model: @unchecked Sendable {
    let coreML: MLModel
    let units: ComputeUnits

    /// Opens the model. The first time on a device compiles it, which may take seconds: not on the
    /// main thread. The compiled model is kept among the app's caches for later starts.
    ///
    /// - Throws: An error of Core ML, or `FileError` if the module is not whole.
    public init(units: ComputeUnits = .all) throws {
      let configuration = MLModelConfiguration()
      configuration.computeUnits = units.coreML
      coreML = try MLModel(contentsOf: Model.compiled(), configuration: configuration)
      self.units = units
    }

    /// The compiled model's folder. Its name holds the model's digest: another model is compiled anew.
    private static func compiled() throws -> URL {
      let files = FileManager.default
      let caches = try files.url(
        for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
      let kept = caches.appendingPathComponent("edgeseed-\(ModelInfo.bundleDigest).mlmodelc")
      if files.fileExists(atPath: kept.path) { return kept }
      let made = try MLModel.compileModel(at: Resources.url(ModelInfo.model))
      do {
        try files.moveItem(at: made, to: kept)
      } catch CocoaError.fileWriteFileExists {
        // Another thread was faster; what it made is the same.
      }
      return kept
    }

    /// The outputs of one photo, by name.
    ///
    /// - Parameter square: the pixels, row by row, as `Preprocess.pixels` gives them.
    func run(_ square: [UInt8]) throws -> [String: [Float]] {
      try run(batch: [square])[0]
    }

    /// The outputs of several photos, in their order.
    func run(batch squares: [[UInt8]]) throws -> [[String: [Float]]] {
      let inputs = try squares.map { square in
        let image = try pixelBuffer(square, ModelInfo.preprocess)
        return try MLDictionaryFeatureProvider(dictionary: [
          ModelInfo.input: MLFeatureValue(pixelBuffer: image)
        ])
      }
      let batch = MLArrayBatchProvider(array: inputs)
      let found = try coreML.predictions(fromBatch: batch)
      return try (0..<found.count).map { i in
        var outputs: [String: [Float]] = [:]
        for name in ModelInfo.outputs {
          guard let array = found.features(at: i).featureValue(for: name)?.multiArrayValue else {
            throw FileError("the model has no output \(name)")
          }
          outputs[name] = (0..<array.count).map { array[$0].floatValue }
        }
        return outputs
      }
    }
  }
#endif
