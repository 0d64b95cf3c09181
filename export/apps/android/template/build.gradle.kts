plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

// By `edgeseed embed`: a runtime that takes the model.
val runtime = file("runtime.dependency").readText().trim()

android {
    namespace = "edgeseed.edgeseedmodule"
    compileSdk = 35

    defaultConfig {
        minSdk = 29
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        consumerProguardFiles("consumer-rules.pro")
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

kotlin { jvmToolchain(17) }

dependencies {
    // The one dependency that goes into the app.
    api(runtime)
    // Only to compile CameraX.kt against: an app that uses CameraX brings its own.
    compileOnly("androidx.camera:camera-core:1.4.2")

    testImplementation("junit:junit:4.13.2")
    androidTestImplementation("androidx.test.ext:junit:1.2.1")
    androidTestImplementation("androidx.test:runner:1.6.2")
}
