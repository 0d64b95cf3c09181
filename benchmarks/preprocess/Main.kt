import edgeseed.edgeseedmodule.core.Photo
import edgeseed.edgeseedmodule.core.Preprocess
import java.io.File

/** Prints milliseconds of each run: FILE of RGBA, width, height, EXIF orientation, runs. */
fun main(arguments: Array<String>) {
    val (file, width, height, orientation, runs) = arguments
    val pixels = File(file).readBytes()
    val photo = Photo(pixels, width.toInt(), height.toInt(), orientation = orientation.toInt())
    val preprocess = Preprocess(imageSize = 224, resize = 256)
    repeat(runs.toInt()) {
        val start = System.nanoTime()
        preprocess.pixels(photo)
        println((System.nanoTime() - start) / 1e6)
    }
}
