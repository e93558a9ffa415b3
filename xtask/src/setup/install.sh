# Installs the packages that are its arguments. Several bring a service (nginx, redis, prometheus) that Debian would start
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

# Shows what apt-get says only when it fails.
apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 || {
        cat "$log" >&2
        return 1
    }
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

if ! lists_are_fresh; then
    apt update
fi
# Lists may name packages that the archive has replaced since.
apt install --no-install-recommends "$@" || {
    apt update
    apt install --no-install-recommends "$@"
}

for package in "$@"; do
    case $package in
    nginx | prometheus | redis-server)
        systemctl --quiet disable "$package.service" 2>/dev/null || true
        ;;
    esac
done
