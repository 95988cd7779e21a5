#!/bin/sh
# Installs from Debian what the clients' toolchains lack on this machine. Run as root; a second run installs nothing.
set -eu

packages="
golang-go golang-google-grpc-dev golang-google-protobuf-dev golang-github-golang-protobuf-1-5-dev
protoc-gen-go protoc-gen-go-grpc
g++ cmake pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
libgrpc-java protobuf-compiler-grpc-java-plugin libprotobuf-java libnetty-java libperfmark-java libgoogle-gson-java
libguava-java libgeronimo-annotation-1.3-spec-java
ruby ruby-grpc ruby-grpc-tools ruby-googleapis-common-protos-types rubocop
chromium
"
# A Node or a JDK that did not come from Debian serves as well.
command -v node >/dev/null && command -v npm >/dev/null || packages="$packages nodejs npm"
command -v javac >/dev/null || packages="$packages openjdk-17-jdk-headless"

missing=$(for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
done)
if [ -n "$missing" ]; then
    apt-get update -qq
    # shellcheck disable=SC2086  # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
fi
