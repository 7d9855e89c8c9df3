#!/bin/sh
# Installs Debian's software Vulkan device and qemu-user-static for the tests, where that is possible. What
# is missing afterwards is not an error: the tests that need it are skipped and say so.
set -u

packages=""
ls /usr/share/vulkan/icd.d/lvp_icd*.json >/dev/null 2>&1 ||
  packages="mesa-vulkan-drivers libvulkan1 vulkan-validationlayers vulkan-tools"
command -v qemu-aarch64-static >/dev/null || packages="$packages qemu-user-static"
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Not installed, because it takes root and apt-get: $packages"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages; } >/dev/null 2>&1 ||
  echo "apt-get could not install: $packages"
