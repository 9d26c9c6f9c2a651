#!/usr/bin/env bash
# Fetches Apache Kafka's jars with Maven into a directory, for `tests/log_kafka.rs`:
#
#   tests/kafka/fetch.sh target/kafka-libs
#   PEERMQ_KAFKA_LIBS="$PWD/target/kafka-libs" cargo test --features gzip,snappy,lz4,zstd --test log_kafka
#
# Does nothing if the directory is there. It appears only when it is complete.
set -euo pipefail
[ $# = 1 ] || { echo 'usage: fetch.sh DIRECTORY' >&2; exit 2; }
[ ! -d "$1" ] || exit 0
mkdir -p "$(dirname "$1")"
part=$(mktemp -d "$1.XXXXXX")
trap 'rm -rf "$part"' EXIT
mvn -B -q -f "$(dirname "$0")/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
  -DoutputDirectory="$(realpath "$part")"
chmod 755 "$part"
mv -T "$part" "$1"
