# shellcheck shell=bash
# download.sh - for scripts to read with `source`: files over the network, whole or not at all.
# A call after an interruption goes on where the last one stopped.

size_at() { # bytes that the server announces (in its last answer, behind redirections), or nothing
    curl --fail --silent --show-error --location --head "$1" |
        tr -d '\r' | awk '/^HTTP/ {size = ""} tolower($1) == "content-length:" {size = $2} END {print size}'
}

size_of() { # bytes of a file, 0 where there is none
    stat -c %s "$1" 2>/dev/null || echo 0
}

download() { # URL FILE: resumes FILE.part, checks its size where the server tells it, renames it
    [[ -e $2 ]] && return
    local size
    size=$(size_at "$1") || return
    # What can't be the beginning of the file, or can't be checked in the end, is not gone on with.
    if [[ -z $size ]] || (($(size_of "$2.part") > size)); then
        rm -f "$2.part"
    fi
    if [[ ! -e $2.part || $(size_of "$2.part") != "$size" ]]; then
        curl --fail --location --retry 5 --continue-at - --progress-bar --output "$2.part" "$1" || return
    fi
    if [[ -n $size && $(size_of "$2.part") != "$size" ]]; then
        echo "${0##*/}: '$2.part' has $(size_of "$2.part") bytes, expected $size" >&2
        return 74
    fi
    sync "$2.part"
    mv "$2.part" "$2"
}
