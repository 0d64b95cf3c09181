package edgeseed.edgeseedmodule

import edgeseed.edgeseedmodule.core.Alpha
import edgeseed.edgeseedmodule.core.Photo
import edgeseed.edgeseedmodule.core.Profile
import java.io.ByteArrayInputStream
import javax.imageio.ImageIO

/** A file of the conformance set as an app would decode it: with its orientation and profile. */
fun decodeFile(content: ByteArray): Photo =
    decoded.getOrPut(content.contentHashCode()) { decodeAnew(content) }

private val decoded = HashMap<Int, Photo>()

private fun decodeAnew(content: ByteArray): Photo {
    val photo = decodePng(content)
    val text = String(content, Charsets.ISO_8859_1)
    val tag = text.indexOf("\u0001\u0012\u0000\u0003\u0000\u0000\u0000\u0001\u0000")
    return Photo(
        photo.pixels,
        photo.width,
        photo.height,
        photo.pixelStride,
        alpha = photo.alpha,
        orientation = if ("Exif" in text) content[tag + 9].toInt() else 1,
        profile = if ("iCCP" in text) Profile.DISPLAY_P3 else Profile.SRGB,
    )
}

/** The stored values of a PNG or JPEG on the JVM, without colour management. */
fun decodePng(content: ByteArray): Photo {
    if (content[0].toInt() == -1) {
        val image = ImageIO.read(ByteArrayInputStream(content))
        val colors = image.getRGB(0, 0, image.width, image.height, null, 0, image.width)
        val pixels = ByteArray(colors.size * 3) { (colors[it / 3] shr (16 - 8 * (it % 3))).toByte() }
        return Photo(pixels, image.width, image.height, pixelStride = 3)
    }
    val reader = ImageIO.getImageReadersByFormatName("png").next()
    val raster = ImageIO.createImageInputStream(ByteArrayInputStream(content)).use {
        reader.input = it
        // The raster is what the file holds; an image would be converted by its profile.
        if (reader.canReadRaster()) reader.readRaster(0, null) else reader.read(0).raster
    }
    val bands = raster.numBands
    val samples = raster.getPixels(0, 0, raster.width, raster.height, null as IntArray?)
    val stride = if (bands % 2 == 0) 4 else 3
    val pixels = ByteArray(raster.width * raster.height * stride)
    for (i in 0 until raster.width * raster.height) {
        for (c in 0..2) pixels[i * stride + c] = samples[i * bands + if (bands > 2) c else 0].toByte()
        if (stride == 4) pixels[i * stride + 3] = samples[i * bands + bands - 1].toByte()
    }
    val alpha = if (stride == 4) Alpha.STRAIGHT else Alpha.NONE
    return Photo(pixels, raster.width, raster.height, pixelStride = stride, alpha = alpha)
}
