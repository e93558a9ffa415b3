# Installs the packages that are its arguments. Several bring a service (containerd, haproxy, nginx, redis, prometheus) that Debian would start
# at once and at each boot; tests start their own, so neither is let happen.
set -eu

policy=/usr/sbin/policy-rc.d
kept=$policy.before-underpass
log=
mark='# by cargo xtask setup'

restore() {
    [ -z "$log" ] || rm -f "$log"
    if [ -e "$kept" ] || [ -L "$kept" ]; then
        mv -f "$kept" "$policy"
    elif grep -qsF "$mark" "$policy"; then
        rm -f "$policy"
    fi
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1
}

install_packages() {
    apt install --no-install-recommends "$@"
}

fail() {
    cat "$log" >&2
    exit 1
}

lists_are_fresh() {
    ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 &&
        [ -n "$(find /var/lib/apt/lists -maxdepth 0 -mtime -1)" ]
}

trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

restore # what a killed run left
log=$(mktemp)
if [ -e "$policy" ] || [ -L "$policy" ]; then
    mv "$policy" "$kept"
fi
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
chmod 755 "$policy"

# Fresh lists may still name packages that the archive has replaced, or lack a source that was added since.
if ! lists_are_fresh || ! install_packages "$@"; then
    apt update || fail
    install_packages "$@" || fail
fi

for package in "$@"; do
    case $package in
    containerd | haproxy | nginx | prometheus | redis-server)
        # There may be no systemd, in a container: then nothing starts them.
        systemctl --quiet disable "$package.service" 2>/dev/null || true
        ;;
    esac
done
