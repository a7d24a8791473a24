#!/bin/sh
# Makes .venv with the locked dependencies and this checkout in it; does nothing when all that is there already.
#
#   tools/setup.sh base    what the package runs with
#   tools/setup.sh dev     and what checks it
#   tools/setup.sh test    and the servers its tests start: RabbitMQ's broker, Prometheus' promtool, Kafka's jars and
#                          a JVM for them, kcat, PostgreSQL, fakesnow; and the peers that benches measure beside Milkrun
#   tools/setup.sh kafka   base, and of the servers Kafka alone
#
# On Debian as root it installs what the system lacks, without starting any service. PYTHON names another
# interpreter than python3. pip's own configuration and environment variables hold as they are.
set -eu
cd "$(dirname "$0")/.."

level=${1:-dev}
policy=/usr/sbin/policy-rc.d
policy_saved=$policy.before-milkrun
policy_mark='# written by milkrun tools/setup.sh'

say() { printf 'milkrun: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

may_apt() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; }

# ---- Debian's packages -------------------------------------------------------------------------------------

restore_policy() {
    if [ -e "$policy_saved" ]; then
        mv -f "$policy_saved" "$policy"
    elif grep -qsF "$policy_mark" "$policy"; then
        rm -f "$policy"
    fi
}

# Package scripts ask policy-rc.d before they start a service; 101 forbids it.
forbid_services() {
    restore_policy # what a killed run may have left
    trap restore_policy EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        mv "$policy" "$policy_saved"
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

# Installs the packages named, or says what went wrong and returns 1.
apt_install() {
    say "installing Debian's $*"
    report=$(mktemp)
    forbid_services
    done_well=yes
    { apt update && apt install -y --no-install-recommends "$@"; } >"$report" 2>&1 || done_well=no
    restore_policy
    trap - EXIT HUP INT TERM
    [ $done_well = yes ] || tail -n 20 "$report" >&2
    rm -f "$report"
    [ $done_well = yes ]
}

# ---- the virtual environment -------------------------------------------------------------------------------

has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
identity() { "$1" -c 'import sys; print(sys.base_prefix, sys.version_info[:3])' 2>/dev/null; }

find_python() {
    python=${PYTHON:-python3}
    if ! command -v "$python" >/dev/null 2>&1 && [ -z "${PYTHON:-}" ] && may_apt; then
        apt_install python3 python3-venv || fail "apt-get could not install python3 and python3-venv"
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        fail "$python does not run: install Python 3.11 or later, or name one with PYTHON=/path/to/python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is Python $version, 3.11 or later is needed: name one with PYTHON=/path/to/python3"
    if has_venv "$python"; then
        return
    fi
    remedy="install it with 'apt-get install python3-venv' as root, or name another Python with PYTHON=/path/to/python3"
    may_apt || fail "$python has no venv module: $remedy"
    apt_install python3-venv || fail "apt-get could not install python3-venv"
    has_venv "$python" || fail "$python has no venv module even with Debian's python3-venv: $remedy"
}

# What .venv was made from.
fingerprint() { cat "requirements/$1.txt" pyproject.toml tools/setup.sh | cksum; }

# All levels share .venv, so one that has been `dev` stays so.
python_level() {
    case $level in
    base | kafka) if [ -e .venv/milkrun-dev ]; then echo dev; else echo base; fi ;;
    *) echo dev ;;
    esac
}

# A checkout that was moved or copied has scripts in .venv/bin that run another place's Python.
venv_is_whole() {
    .venv/bin/python -c '' >/dev/null 2>&1 &&
        grep -qsF "$(pwd -P)/.venv/bin/python" .venv/bin/pip &&
        { [ -z "${PYTHON:-}" ] || [ "$(identity "$PYTHON")" = "$(identity .venv/bin/python)" ]; }
}

venv_is_current() {
    wanted=$(python_level)
    [ "$(cat ".venv/milkrun-$wanted" 2>/dev/null)" = "$(fingerprint "$wanted")" ] && venv_is_whole
}

make_venv() {
    wanted=$(python_level)
    if ! venv_is_whole; then
        find_python
        "$python" -m venv --clear .venv || fail "$python could not make .venv"
    fi
    say "installing requirements/$wanted.txt into .venv"
    install="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet --no-user --no-deps"
    $install --require-hashes -r "requirements/$wanted.txt" ||
        fail "pip could not install requirements/$wanted.txt"
    $install --no-build-isolation --editable . || fail "pip could not install this checkout"
    fingerprint "$wanted" >".venv/milkrun-$wanted"
}

# ---- the servers that tests start --------------------------------------------------------------------------

has_program() { PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

# Debian keeps the server's programs by version, away from the PATH.
has_postgres() { has_program initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; }

# The feature release of the JVM that is found first, as 17; 0 without one.
java_version() {
    found=$("${JAVA_HOME:+$JAVA_HOME/bin/}java" -XshowSettings:properties -version 2>&1 |
        sed -n 's/^ *java\.specification\.version = \([0-9]*\)$/\1/p')
    echo "${found:-0}"
}

# Adds Debian's package to what is missing.
lacks() { missing="${missing:+$missing }$1"; }

# Debian's default is new enough from 12 on; elsewhere an older default may stand beside this package.
lacks_java() {
    case $(java_version) in
    0) lacks default-jre-headless ;;
    [1-9] | 1[0-6]) lacks openjdk-17-jre-headless ;;
    esac
}

lacks_kafka() {
    lacks_java
    tools/kafka-jars.sh check || has_program mvn || lacks maven
}

add_servers() {
    missing=
    if [ "$level" = test ]; then
        has_program rabbitmq-server || lacks rabbitmq-server
        has_program promtool || lacks prometheus
        has_postgres || lacks postgresql
        has_program kcat || lacks kcat
    fi
    lacks_java
    tools/kafka-jars.sh check || has_program mvn || lacks maven
    [ -z "$missing" ] || add_packages || without_packages
    add_kafka || without_kafka
}

add_packages() {
    # shellcheck disable=SC2086  # one word a package
    may_apt && apt_install $missing && keep_disabled
}

without_packages() {
    remedy="'apt-get install $missing' as root brings what is missing"
    if [ "$level" = test ]; then say "tests that need it are skipped: $remedy"; else say "$remedy"; fi
}

add_kafka() {
    missing=
    lacks_java
    case $missing in
    openjdk*) add_packages || return 1 ;; # what the distribution has by default is too old
    esac
    [ "$(java_version)" -ge 17 ] || return 1
    tools/kafka-jars.sh check || { has_program mvn && tools/kafka-jars.sh; }
}

without_kafka() {
    reason="Kafka needs a JVM (17 or later), and mvn to fetch its jars"
    [ "$level" = test ] || fail "$reason"
    say "$reason: tests that need it are skipped"
}

# fakesnow stands in for Snowflake. It needs other versions of what .venv has, so it has an environment of its own.
add_fakesnow() {
    made=$(cksum <requirements/fakesnow.txt)
    [ "$(cat .cache/fakesnow/made 2>/dev/null)" != "$made" ] || return 0
    say "installing requirements/fakesnow.txt into .cache/fakesnow"
    .venv/bin/python -m venv --clear .cache/fakesnow &&
        env PIP_DISABLE_PIP_VERSION_CHECK=1 .cache/fakesnow/bin/python -m pip install --quiet --no-user --no-deps \
            --require-hashes -r requirements/fakesnow.txt &&
        echo "$made" >.cache/fakesnow/made
}

# What benches put beside Milkrun, and their tests read with.
add_peers() {
    made=$(cksum <requirements/peers.txt)
    [ "$(cat .venv/milkrun-peers 2>/dev/null)" != "$made" ] || return 0
    say "installing requirements/peers.txt into .venv"
    env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet --no-user --no-deps \
        --require-hashes -r requirements/peers.txt &&
        echo "$made" >.venv/milkrun-peers
}

# Tests start their own broker; the ones just installed must not come up with the machine either.
keep_disabled() {
    command -v systemctl >/dev/null 2>&1 || return 0
    for service in $missing; do
        systemctl disable "$service.service" >/dev/null 2>&1 || true
    done
}

# ------------------------------------------------------------------------------------------------------------

case $level in
base | dev | test | kafka) ;;
*) fail "usage: tools/setup.sh base|dev|test|kafka" ;;
esac

if ! venv_is_current; then
    if command -v flock >/dev/null 2>&1; then
        mkdir -p .cache
        exec 8>.cache/setup.lock
        flock 8 # two targets at once: the second finds the work done
    fi
    venv_is_current || make_venv
fi
case $level in
test | kafka) add_servers ;;
esac
[ "$level" != test ] || add_peers || say "peers of the benches could not be installed: tests that need them are skipped"
[ "$level" != test ] || add_fakesnow || say "fakesnow could not be installed: tests that need it are skipped"
