"""What the shells run at the Tab key; words between @ are filled in."""

ZSH = """\
autoload -Uz compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""
BASH = r"""
_rl_lightning_words() {  # sets words to those of a learner or datamodule
  case $1 in
@WORDS_OF_CLASSES@
    *) words='' ;;
  esac
}

_rl_lightning_config() {  # sets model and data to those of a config that comes with the package
  case $1 in
@CLASSES_OF_CONFIGS@
  esac
}

_rl_lightning() {
  [ -z "${ZSH_VERSION-}" ] || emulate -L ksh
  local line=${COMP_LINE:0:$COMP_POINT}
  local current=${line##* } before='' command='' model='' data='' words='' all='' word rest head name
  COMPREPLY=()
  for word in ${line%"$current"}; do
    case $word in
      rl-lightning|*/rl-lightning) ;;
      --model=*) model=${word##*[=.]} ;;
      --data=*) data=${word##*[=.]} ;;
      --config=*|-c=*) _rl_lightning_config "${word#*=}" ;;
      -*) ;;
      *) [ -n "$command" ] || command=$word
         case $before in -c|--config) _rl_lightning_config "$word" ;; esac ;;
    esac
    before=$word
  done
  case $command-$before in
    -*) all='@SUBCOMMANDS@' ;;
    completion-*) all='bash zsh fish' ;;
    resume-resume | report-* | export-*) ;;  # folders of runs
    configs-*) return 0 ;;
    compare-*) case $current in -*) all='@COMPARE@' ;; esac ;;
    *--c | *---config) all='@CONFIGS@' ;;
    *) case $current in
         --config=*) all='@CONFIGS@' && all="--config=${all// / --config=}" ;;
         -* | '')
           all='-c @PROGRAM@'
           [ "$command" != tune ] || all="$all @TUNE@"
           for name in ${model:-@MODELS@} ${data:-@DATA@}; do
             _rl_lightning_words "$name"
             all="$all $words"
           done ;;
       esac ;;
  esac
  local stem='' cut='' seen=' '
  case $current in *=*) stem=${current%%=*}= ;; esac
  case ${COMP_WORDBREAKS-} in *=*) cut=$stem ;; esac  # where = ends a word, what is before it stays
  for word in $all; do
    case $word in "$current"*) ;; *) continue ;; esac
    rest=${word#"$current"}
    [ "$rest" ] || [ "$current" != "$stem" ] || continue
    case $rest in
      *[.=]*) head=${rest%%[.=]*} && rest=$head${rest:${#head}:1} ;;  # one part of a key at a time
      *) rest="$rest " ;;
    esac
    case $seen in *" $current$rest "*) continue ;; esac
    seen="$seen$current$rest "
    word=$current$rest
    COMPREPLY+=("${word#"$cut"}")
  done
  [ "$command" ] && { [ "$stem" ] || [ "${current#-}" = "$current" ]; } || return 0  # files are no flags
  case "$before $stem" in '-c ' | '--config ' | *' --config=') ;; *) [ ${#COMPREPLY[@]} -eq 0 ] || return 0 ;; esac
  for word in "${current#"$stem"}"*; do
    [ -e "$word" ] || continue
    [ -d "$word" ] && word=$word/ || word="$word "
    word=$stem$word
    COMPREPLY+=("${word#"$cut"}")
  done
}
complete -o nospace -F _rl_lightning rl-lightning
"""
