# Bash completion for lapidary. Programs and options are asked from what is installed, so there is nothing here to keep up.
_lapidary() {
    local word=${COMP_WORDS[COMP_CWORD]} words
    if ((COMP_CWORD == 1)); then
        words="shell $(lapidary --help | sed -n '/^Programs:/,/^$/s/^  //p')"
    elif [[ $word == -* ]]; then
        words=$(lapidary "${COMP_WORDS[1]}" --help 2>/dev/null | grep -oE -- '^ +(-., )?--[a-z-]+' | grep -oE -- '--[a-z-]+')
    fi
    mapfile -t COMPREPLY < <(compgen -W "${words-}" -- "$word")
}
complete -o default -F _lapidary lapidary
