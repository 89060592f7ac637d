# What tools/deb and tools/deb-test share: small Debian systems, made once and unpacked for each run.
# Sourced, in the project's directory.
#
#   base NAME WORDS... -- OPTIONS...   make .cache/debian/NAME.tar by mmdebstrap when WORDS, which
#                                      say what is in it, are not those it was made by
#   unpack NAME DIRECTORY              make a system of it
#   sources DIRECTORY                  copy what is the project's own, committed or not

suite=trixie
cache=.cache/debian
log=.cache/debian/log

say() { printf '==> %s\n' "$*"; }
die() { printf '%s: %s\n' "$0" "$*" >&2; exit 1; }

# Run a command with its output in the log alone, unless it fails.
quietly() {
    "$@" >>"$log" 2>&1 </dev/null && return
    tail -n 40 "$log" >&2
    die "failed: $*; all of its output: $log"
}

begin() {
    [ "$(id -u)" -eq 0 ] || die "only root can make and run a system of its own; as root: make ${0##*/}"
    mkdir -p "$cache"
    : >"$log"
    # A shell that is ended by a signal runs no trap of EXIT, and would leave its systems running.
    trap 'exit 130' INT TERM HUP
    work=$(mktemp -d "$PWD/$cache/work.XXXXXX")
}

base() {
    name=$1 words=$suite
    shift
    while [ "$1" != -- ]; do words="$words $1" && shift; done
    shift
    [ "$(cat "$cache/$name.recipe" 2>/dev/null)" != "$words" ] || return 0
    say "making a small Debian $suite, kept in $cache/$name.tar"
    rm -f "$cache/$name.recipe"
    quietly mmdebstrap "$@" "$suite" "$cache/$name.tar"
    printf '%s\n' "$words" >"$cache/$name.recipe"
}

unpack() {
    mkdir "$2"
    quietly tar --extract --numeric-owner --preserve-permissions --xattrs --xattrs-include='*' \
        --file "$cache/$1.tar" --directory "$2"
}

sources() {
    mkdir -p "$1"
    git ls-files -z --cached --others --exclude-standard |
        xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh |
        tar --create --null --files-from=- | tar --extract --no-same-owner --directory "$1"
}
