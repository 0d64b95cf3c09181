#!/bin/sh
# Fetches a Kotlin compiler (npm, 90 MB) and JUnit (apt) into a folder, and says how tests find them.
#
#   sh tests/toolchains/kotlin.sh DIR       needs: node, java 17 or newer, apt (Debian or Ubuntu)
#   EDGESEED_KOTLIN=DIR/package pytest -m kotlin tests/export/apps
set -eu
folder=${1:?usage: kotlin.sh DIR}
version=2.4.20
mkdir -p "$folder"
cd "$folder"
npm pack --silent "kotlin-compiler@$version" >/dev/null
tar xzf "kotlin-compiler-$version.tgz"
rm "kotlin-compiler-$version.tgz"
if ! [ -e /usr/share/java/junit4.jar ]; then
    apt-get install -y -qq --no-install-recommends junit4 >/dev/null
fi
echo "export EDGESEED_KOTLIN=$PWD/package"
