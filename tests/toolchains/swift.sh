#!/bin/sh
# Sets up Debian 13 with its Swift toolchain in a folder (3.2 GB, about three minutes, as root).
#
#   sh tests/toolchains/swift.sh DIR        needs: debootstrap, and apt sources that hold Debian 13
#   EDGESEED_SWIFT_CHROOT=DIR pytest -m swift tests/export/apps
#
# Where `swift` is installed, none of this is needed: the tests take it from the PATH.
set -eu
folder=${1:?usage: swift.sh DIR}
mirror=$(sed -n 's/^URIs: //p; s/^deb \([^ ]*\) .*/\1/p' /etc/apt/sources.list.d/*.sources \
    /etc/apt/sources.list 2>/dev/null | head -1)
command -v debootstrap >/dev/null || apt-get install -y -qq --no-install-recommends debootstrap
debootstrap --variant=minbase --include=ca-certificates trixie "$folder" "$mirror"
cp -r /etc/apt/apt.conf.d/. "$folder/etc/apt/apt.conf.d/"
# Without /proc swift does not find its own libraries.
mount --bind /proc "$folder/proc"
chroot "$folder" sh -c 'apt-get update -qq &&
    apt-get install -y -qq --no-install-recommends swiftlang libc6-dev libstdc++-14-dev'
chroot "$folder" swift --version
echo "export EDGESEED_SWIFT_CHROOT=$folder"
