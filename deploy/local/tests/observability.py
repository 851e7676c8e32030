"""Asks a running Prometheus everything that the dashboard and the alerts ask, until all of it has an answer.

usage: observability.py PROMETHEUS-URL FOLDER [PICTURE.svg]

With a third argument the main panels are drawn from what was measured.
"""

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

PATIENCE = 90  # seconds until every query must have had an answer
LOAD = 28  # seconds of load that a picture shows
WINDOW = "10s"
PANELS = [
    "Calls by code",
    "Time of calls, 99th percentile",
    "Seats sold a second",
    "Commands in a batch",
    "Time of a batch, 99th percentile",
    "Batches and commands a second",
]
COLOURS = ["#3274d9", "#e0752d", "#3f9c35", "#b0379a", "#c4162a", "#7a7a7a"]

url, folder = sys.argv[1], Path(sys.argv[2])
dashboard = json.loads((folder / "dashboard.json").read_text())
rules = yaml.safe_load((folder / "prometheus-rule.yaml").read_text())["spec"]["groups"]
panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def ask(path, **arguments):
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}", timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{arguments}: {json.load(error)['error']}")


def plain(expression):
    return expression.replace("$__rate_interval", WINDOW)


def answered(expression):
    """Whether there is a number in the answer."""
    return any(not math.isnan(float(sample["value"][1])) for sample in ask("query", query=plain(expression))["result"])


def unfiltered(expression):
    """An alert's expression that answers for every series, 0 or 1, also while nothing is wrong: with its labels, so that one
    which does not exist is noticed. Only the codes are let be any: those of failures come with failures."""
    expression = re.sub(r'code(=~|!=|!~)"[^"]*"', 'code!=""', expression)
    outside = re.split(r'({[^}]*}|\[[^\]]*\])', expression)
    return "".join(re.sub(r"(>=|<=|==|!=|>|<)", r"\1 bool", part) if i % 2 == 0 else part for i, part in enumerate(outside))


def questions():
    """Every query of the dashboard, and every branch of the alerts."""
    asked = {target["expr"]: f"panel {panel['title']}" for panel in panels for target in panel["targets"]}
    for rule in (rule for group in rules for rule in group["rules"]):
        for branch in re.split(r" or ", rule["expr"]):
            # There is nothing to ask of what is true where a series is missing.
            if "absent(" not in branch and " unless " not in branch:
                asked.setdefault(unfiltered(branch), f"alert {rule['alert']}")
    return asked


def wait_until_up():
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if answered("sum(up) == 3"):
                return
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit("Prometheus does not reach the services")


def draw(path, begin, end):
    """The main panels, as lines in a picture of 2 × 3."""
    width, height, left, top = 460, 215, 60, 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * width} {3 * height}" font-family="sans-serif" font-size="11">',
           f'<rect width="{2 * width}" height="{3 * height}" fill="#fff"/>']
    for index, title in enumerate(PANELS):
        panel = [p for p in panels if p["title"] == title and p["type"] == "timeseries"][0]
        x0, y0 = index % 2 * width + left, index // 2 * height + top
        w, h = width - left - 15, height - top - 60
        lines = []
        for target in panel["targets"]:
            for series in ask("query_range", query=plain(target["expr"]), start=begin, end=end, step=0.5)["result"]:
                points = [(float(t), float(v)) for t, v in series["values"] if v != "NaN"]
                name = re.sub(r"{{(\w+)}}", lambda m: series["metric"].get(m[1], ""), target["legendFormat"])
                if points:
                    lines.append((max(v for _, v in points), name.rsplit("/", 1)[-1], points))
        lines = sorted(lines, reverse=True)[: len(COLOURS)]
        top_value = nice(max(line[0] for line in lines))
        unit = panel["fieldConfig"]["defaults"]["unit"]
        out.append(f'<text x="{x0 - 45}" y="{y0 - 12}" font-weight="bold" font-size="13">{title}</text>')
        for part in (0, 0.5, 1):
            y = y0 + h * (1 - part)
            out.append(f'<path d="M{x0} {y:.0f}h{w}" stroke="#ddd"/>')
            out.append(f'<text x="{x0 - 6}" y="{y + 4:.0f}" text-anchor="end" fill="#666">{label(top_value * part, unit)}</text>')
        for line, (_, name, points) in enumerate(lines):
            path_data = " ".join(
                f"{x0 + w * (t - begin) / (end - begin):.1f},{y0 + h * (1 - v / top_value):.1f}" for t, v in points)
            out.append(f'<polyline points="{path_data}" fill="none" stroke="{COLOURS[line]}" stroke-width="1.5"/>')
            x, y = x0 - 45 + line % 2 * 210, y0 + h + 16 + line // 2 * 14
            out.append(f'<rect x="{x}" y="{y - 8}" width="9" height="9" fill="{COLOURS[line]}"/><text x="{x + 13}" y="{y}">{name[:32]}</text>')
    Path(path).write_text("\n".join([*out, "</svg>", ""]))


def nice(value):
    """The next round number."""
    size = 10 ** math.floor(math.log10(value or 1))
    return next(size * step for step in (1, 2, 4, 5, 8, 10) if size * step >= (value or 1))


def label(value, unit):
    if unit == "s":
        return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def main():
    wait_until_up()
    begin, open_questions = time.time(), questions()
    count, end = len(open_questions), time.monotonic() + PATIENCE
    while open_questions and time.monotonic() < end:
        time.sleep(1)
        open_questions = {query: where for query, where in open_questions.items() if not answered(query)}
    for query, where in open_questions.items():
        print(f"{where}: no data for {query}", file=sys.stderr)
    unhealthy = [r["name"] for g in ask("rules")["groups"] for r in g["rules"] if r["health"] == "err"]
    if open_questions or unhealthy:
        sys.exit(f"{len(open_questions)} of {count} queries without data, {unhealthy} cannot be evaluated")
    print(f"{count} queries of the dashboard and the alerts have data")
    if len(sys.argv) > 3 and sys.argv[3]:
        time.sleep(max(0, begin + LOAD - time.time()))
        draw(sys.argv[3], begin, time.time())


main()
