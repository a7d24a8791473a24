#!/bin/sh
# Fetches the jars of an Apache Kafka broker, for tests and the demo, into .cache/kafka/<version> by Maven; does nothing when
# they are there. Each must be the file that tools/kafka-jars.sha256 names, and the folder appears whole or not at all.
#
#   tools/kafka-jars.sh            fetch what is missing
#   tools/kafka-jars.sh check      say by the exit status alone whether all is there
#   tools/kafka-jars.sh pin        after a change of version: fetch, and write tools/kafka-jars.sha256 anew
#
# Maven's own settings and mirrors hold as they are. It needs mvn.
set -eu
cd "$(dirname "$0")/.."

version=4.4.0       # as in src/milkrun/testing/kafka_cluster.py
slf4j=1.7.36        # the binding must be of the slf4j-api that Kafka brings
plugin=org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies
folder=.cache/kafka/$version
pins=$(pwd -P)/tools/kafka-jars.sha256

fail() { printf 'milkrun: %s\n' "$*" >&2; exit 1; }

sums() { if command -v sha256sum >/dev/null 2>&1; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

# The folder holds every pinned jar, unchanged.
is_whole() { [ -d "$1" ] && (cd "$1" && sums -c "$pins") >/dev/null 2>&1; }

pom() {
    cat <<END
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>milkrun</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>$slf4j</version></dependency>
  </dependencies>
</project>
END
}

# Downloads into a folder of its own beside the target, which it leaves in $new.
fetch() {
    command -v mvn >/dev/null 2>&1 || fail "mvn is not installed: it fetches Apache Kafka's jars"
    printf 'milkrun: fetching Apache Kafka %s by Maven\n' "$version" >&2
    new=$(mktemp -d ".cache/kafka/.new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    pom >"$new/pom.xml"
    here=$(pwd -P)/$new
    # A repository of its own: an account may have no home to write to.
    mvn --batch-mode --quiet --strict-checksums -f "$here/pom.xml" -Dstyle.color=never \
        -Dmaven.repo.local="$here/repository" "$plugin" \
        -DincludeScope=runtime -DoutputDirectory="$here/jars" </dev/null >"$new/report" 2>&1 || {
        tail -n 20 "$new/report" >&2
        fail "mvn could not fetch Apache Kafka $version"
    }
    chmod 755 "$new/jars"
}

case ${1:-} in
'' | pin) ;;
check) if is_whole "$folder"; then exit 0; else exit 1; fi ;;
*) fail "usage: tools/kafka-jars.sh [check | pin]" ;;
esac

mkdir -p .cache/kafka
if command -v flock >/dev/null 2>&1; then
    exec 9>.cache/kafka.lock
    flock 9                   # two at once: the second finds the work done
    rm -rf .cache/kafka/.new.* # what a killed run left
fi
if [ "${1:-}" = pin ]; then
    fetch
    (cd "$new/jars" && sums ./*.jar) | sed 's, \./, ,' >"$new/pins"
    mv "$new/pins" "$pins"
elif is_whole "$folder"; then
    exit 0
else
    fetch
    is_whole "$new/jars" || fail "mvn fetched other files than tools/kafka-jars.sha256 names"
fi
if ! is_whole "$folder"; then # still, where flock is missing
    rm -rf "$folder"
    mv "$new/jars" "$folder"
fi
