package edgeseed.edgeseedmodule

import androidx.camera.core.ExperimentalGetImage
import androidx.camera.core.ImageProxy
import edgeseed.edgeseedmodule.core.Photo

/**
 * A frame of CameraX's image analysis, turned upright. The caller still closes it.
 *
 * The module is only compiled against CameraX: an app without it never loads this file.
 */
@androidx.annotation.OptIn(ExperimentalGetImage::class)
fun ImageProxy.toPhoto(): Photo {
    val image = requireNotNull(image) { "a frame that was closed already" }
    return image.toPhoto(imageInfo.rotationDegrees)
}
