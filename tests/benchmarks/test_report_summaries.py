import json

import pytest

from benchmarks.report import Summary, markdown_table, parse_cpuinfo, publish, run_fresh, summarize


def test_summary_is_median_minimum_and_maximum():
    assert summarize([3.0, 1.0, 2.0, 10.0]) == Summary(median=2.5, minimum=1.0, maximum=10.0)
    assert summarize([7.0]) == Summary(7.0, 7.0, 7.0)


def test_summary_reads_as_median_and_range():
    assert str(Summary(1234.5, 0.98765, 12000.0)) == "1234 [0.988, 12000]"


def test_markdown_table_has_a_rule_and_short_floats():
    assert markdown_table(["a", "b"], [(1, 0.123456), ("x", 2500.4)]) == (
        "| a | b |\n| --- | --- |\n| 1 | 0.123 |\n| x | 2500 |"
    )


def test_cpuinfo_gives_the_first_processor_and_its_flags():
    text = "model name\t: First\nflags\t\t: avx2 avx512_bf16\n\nmodel name\t: Second\nflags\t\t: avx2\n"
    assert parse_cpuinfo(text) == ("First", {"avx2", "avx512_bf16"})


def test_cpuinfo_of_arm_and_of_nothing():
    assert parse_cpuinfo("Features\t: fp asimd bf16\n") == ("", {"fp", "asimd", "bf16"})
    assert parse_cpuinfo("") == ("", set())


def test_publish_prints_and_writes(tmp_path, capsys):
    publish("# Report", tmp_path / "new" / "report.md")
    assert capsys.readouterr().out == "# Report\n"
    assert (tmp_path / "new" / "report.md").read_text() == "# Report\n"


def test_a_fresh_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="usage"):
        run_fresh("json.tool", ["--no-such-option"], threads=1)


def test_a_fresh_process_returns_the_object_on_its_last_line(tmp_path):
    path = tmp_path / "in.json"
    path.write_text(json.dumps({"a": [1, 2]}))
    assert run_fresh("json.tool", ["--compact", str(path)], threads=1) == {"a": [1, 2]}
