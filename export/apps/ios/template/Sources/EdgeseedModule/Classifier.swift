#if canImport(CoreML)
  import EdgeseedModuleCore
  import Foundation

  /// Says which class a photo shows.
  ///
  /// ```swift
  /// let classifier = try Classifier()
  /// let best = try classifier.classify(Photo(file: data))[0]
  /// ```
  public struct Classifier: Sendable {
    public let model: Model
    public let labels: [String]

    /// - Throws: `FileError` if the model has no classes; use `Embedder` then.
    public init(units: ComputeUnits = .all) throws {
      guard ModelInfo.numClasses > 0 else {
        throw FileError("this model has no classes: use Embedder with a gallery")
      }
      labels = try Resources.labels()
      model = try Model(units: units)
    }

    /// The `k` most probable classes, the most probable first.
    public func classify(_ photo: Photo, k: Int = 5) throws -> [Prediction] {
      try classify(batch: [photo], k: k)[0]
    }

    /// The same for several photos at once, in their order.
    public func classify(batch photos: [Photo], k: Int = 5) throws -> [[Prediction]] {
      try model.run(batch: photos.map(ModelInfo.preprocess.pixels)).map { outputs in
        topK(outputs["logits"] ?? [], labels: labels, k: k)
      }
    }
  }

  /// Turns a photo into an embedding, by which a `Gallery` recognises it.
  ///
  /// ```swift
  /// let embedder = try Embedder()
  /// var gallery = try embedder.gallery(Data(contentsOf: url))
  /// try gallery.add("mug", embedding: embedder.embed(photo))
  /// let match = gallery.classify(try embedder.embed(other))
  /// ```
  public struct Embedder: Sendable {
    public let model: Model

    public init(units: ComputeUnits = .all) throws {
      model = try Model(units: units)
    }

    /// `ModelInfo.embeddingDim` values.
    public func embed(_ photo: Photo) throws -> [Float] {
      try embed(batch: [photo])[0]
    }

    /// The same for several photos at once, in their order.
    public func embed(batch photos: [Photo]) throws -> [[Float]] {
      try model.run(batch: photos.map(ModelInfo.preprocess.pixels)).map { $0["embedding"] ?? [] }
    }

    /// An empty gallery for this model's embeddings.
    ///
    /// - Parameter threshold: Least similarity of what is recognised; `edgeseed gallery` chooses one.
    public func gallery(threshold: Double) -> Gallery {
      Gallery(
        embeddingDim: ModelInfo.embeddingDim, studentSHA256: ModelInfo.studentSHA256,
        threshold: threshold)
    }

    /// A gallery that `edgeseed gallery` or this app wrote.
    ///
    /// - Throws: `FileError` if it is of another student, whose embeddings mean nothing here.
    public func gallery(_ file: Data) throws -> Gallery {
      let gallery = try Gallery(file)
      guard gallery.studentSHA256 == ModelInfo.studentSHA256 else {
        throw FileError("the gallery is of another student; make it anew: edgeseed gallery")
      }
      return gallery
    }
  }

  extension Model {
    /// Proves the app right: golden photos from PNG to the model's outputs, and the conformance set.
    ///
    /// Run it in a test of your app, and once on each kind of device.
    public func selfTest() throws -> SelfTestReport {
      try EdgeseedModuleCore.selfTest(
        preprocess: ModelInfo.preprocess,
        readAsset: Resources.read,
        decode: { try Photo(file: $0) },
        run: run)
    }
  }
#endif
