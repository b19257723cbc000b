"""The subcommands with what each is for, in one place for every list of them. Imports nothing: helps are quick."""

SUBCOMMANDS = {
    "fit": "Train, then evaluate the final policy.",
    "validate": "Evaluate a checkpoint on data.eval_episodes episodes.",
    "test": "Evaluate a checkpoint on data.test_episodes episodes.",
    "predict": "Record episodes of a checkpoint; with --video as films too.",
    "resume": "Go on with a run, in its own folder and with its own settings.",
    "export": "Write the policy of a run or checkpoint into a folder of its own.",
    "configs": "List the settings that come with the package, and what each was measured to reach.",
    "report": "Write a run's curves, evaluations, films and settings onto one page.",
    "compare": "Tell whether one of several groups of runs is better, or more seeds are due.",
    "tune": "Search for settings that reach a higher return.",
    "completion": "Print what lets the Tab key complete settings: for bash, zsh or fish.",
}


def all_of_them(last: str) -> str:
    """Their names in a sentence, with `last` as the word before the last one: 'fit, test or report'."""
    *names, end = SUBCOMMANDS
    return f"{', '.join(names)} {last} {end}"
