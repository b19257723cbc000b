"""A run as one HTML page, which loads nothing from elsewhere."""

import base64
import re
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Any

from rl_lightning.callbacks.metrics_csv import Row
from rl_lightning.cli.pages.figures import svg
from rl_lightning.cli.pages.html import document, section, table
from rl_lightning.cli.report import decimals
from rl_lightning.cli.run_file import starts
from rl_lightning.cli.run_report.curves import evaluations
from rl_lightning.cli.run_report.drawings import Curve, draw, equation
from rl_lightning.cli.run_report.facts import as_typed, films, settings, shipped_config, versions, wall_seconds
from rl_lightning.cli.run_report.meanings import SOURCE, Meaning, meanings
from rl_lightning.cli.runs import Run

EMBEDDED = 1_000_000  # bytes of a film that is part of the page, at most
ALL_EMBEDDED = 8_000_000  # bytes of all those


def page(run: Run, rows: Sequence[Row], groups: Mapping[str, Sequence[Curve]]) -> str:
    """The page's text.

    Args:
        run: whose folder the page will lie in; films that are too large for the page are linked from there.
        rows: of its `metrics.csv`.
        groups: their curves.
    """
    its = settings(run.config)
    learner, env_id = str(its.get("model.class_path")), str(its.get("data.env_id", "data"))
    known = meanings(SOURCE.read_text(encoding="utf-8"), learner)
    name = escape(f"{learner} on {env_id}")
    parts = [f"<h1>{name}</h1>", f'<p class="faint">{escape(str(run.folder.resolve()))}</p>', _facts(run, rows, its)]
    parts += [section("Evaluation", _evaluation(rows, its))]
    for group, curves in groups.items():
        drawn = "".join(_figure(curve, known.get(curve.metric)) for curve in curves)
        parts.append(section(group, f'<div class="grid">{drawn}</div>'))
    if found := films(run):
        parts.append(section("Films", _videos(found)))
    parts.append(section("Settings", _settings(its)))
    return document(name, parts)


def _facts(run: Run, rows: Sequence[Row], its: Mapping[str, Any]) -> str:
    steps = max(float(row.get("env_steps", 0)) for row in rows)
    speeds = [float(row["time/env_steps_per_second"]) for row in rows if "time/env_steps_per_second" in row]
    seconds, noted = wall_seconds(run), starts(run.folder)
    total = its.get("data.total_env_steps")
    facts = {"Environment steps": f"{steps:,.0f}" + (f" of {total:,}" if isinstance(total, int) else "")}
    if seconds is not None:
        facts["Wall time"] = f"{_duration(seconds)} from its start to its last row; pauses count"
    if speeds:
        facts["Speed"] = f"{median(speeds):,.0f} environment steps per second, the median of {len(speeds)} rows"
    facts["Seed"] = str(its.get("seed_everything"))
    facts["Commands"] = "; then ".join(start["command"] for start in noted) or "not noted by the run"
    if noted:
        facts["Versions"] = ", ".join(f"{package} {version}" for package, version in versions(noted[-1]).items())
        facts["Processor"] = f"{noted[-1]['processor']}, {noted[-1]['cores']} cores"
        facts["Commit"] = noted[-1]["commit"] or "none: the folder of the command was no git repository"
    facts["The run again"] = f"rl-lightning fit -c {quote(str(run.config))}"
    return table([], [[f"<b>{key}</b>", escape(value)] for key, value in facts.items()])


def _evaluation(rows: Sequence[Row], its: Mapping[str, Any]) -> str:
    lines = []
    for row in evaluations(rows):
        stage = "test" if "test/return_mean" in row else "val"
        episodes = its.get("data.test_episodes" if stage == "test" else "data.eval_episodes", "")
        returns = [row.get(f"{stage}/return_{key}") for key in ("mean", "std")]
        places = decimals(*(float(each) for each in returns if each is not None))
        mean, spread = (_number(each, places) for each in returns)
        length = _number(row.get(f"{stage}/episode_length_mean"), 1)
        kind = "final test" if stage == "test" else "evaluation"
        lines.append(
            [f"{float(row.get('env_steps', 'nan')):,.0f}", kind, str(episodes), f"{mean}&nbsp;±&nbsp;{spread}", length]
        )
    if not lines:
        return "<p>There has been none yet.</p>"
    heads = ["Environment steps", "", "Episodes", "Return", "Mean length"]
    note = (
        "Mean ± deviation over the episodes of the deterministic policy. Numbers of episodes are those of config.yaml."
    )
    return table(heads, lines) + f'<p class="faint">{note}</p>'


def _figure(curve: Curve, meaning: Meaning | None) -> str:
    unit = f", in {meaning.unit}" if meaning and meaning.unit else ""
    text = _inline(meaning.text) if meaning else "Not a metric of rl_lightning: a callback of this run has logged it."
    band = " The band is ± the deviation over episodes." if curve.spread is not None else ""
    drawn = svg(partial(draw, curve), curve.metric)
    return f"<figure>{drawn}<figcaption><b>{escape(curve.metric)}</b>{unit}<br>{text}.{band}</figcaption></figure>"


def _videos(found: Sequence[Path]) -> str:
    left, figures = ALL_EMBEDDED, []
    for path in found:
        size, link = path.stat().st_size, f"videos/{escape(path.name)}"
        source = link
        if size <= min(EMBEDDED, left):
            left -= size
            source = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
        caption = f'<figcaption>environment steps-episode: <a href="{link}">{escape(path.stem)}</a></figcaption>'
        figures.append(f'<figure><video controls preload="metadata" src="{source}"></video>{caption}</figure>')
    return f'<div class="grid">{"".join(figures)}</div>'


def _settings(its: Mapping[str, Any]) -> str:
    nearest = shipped_config(dict(its))
    if nearest is None:
        return "<p>No config of rl_lightning is of this algorithm and environment. All settings: config.yaml.</p>"
    name, differ = nearest
    note = (
        "Of settings that the shipped config does not name, the trainer's are compared with their defaults and others "
        "are not compared. All settings: config.yaml."
    )
    if not differ:
        return f"<p>Those of {escape(name)}.</p><p class='faint'>{note}</p>"
    lines = [
        [f"<code>{escape(text)}</code>" for text in (key, as_typed(new), as_typed(old))]
        for key, (old, new) in differ.items()
    ]
    head = f"<p>Other than in {escape(name)}:</p>"
    return head + table(["Setting", "This run", "Shipped"], lines) + f'<p class="faint">{note}</p>'


def _inline(markdown: str) -> str:
    """Text with code, links and equations as HTML; an equation that cannot be drawn stays as it is written."""
    html = []
    for number, part in enumerate(markdown.split("$")):
        if number % 2:
            html.append(equation(part) or f"<code>{escape(part)}</code>")
        else:
            text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", escape(part, quote=False))
            html.append(re.sub(r"`(.*?)`", r"<code>\1</code>", text))
    return "".join(html).rstrip(". ")


def _number(text: str | None, places: int) -> str:
    return "none" if text is None else f"{float(text):,.{places}f}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
