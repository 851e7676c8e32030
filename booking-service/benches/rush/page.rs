//! One page with everything on it: no script, no other file.

use std::fmt::Write as _;

use crate::report::{Run, number, verdict};
use crate::row::{Line, Plot};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 48.0;
/// Distinct also for those who do not tell red from green, and as shades of grey.
const COLOURS: [&str; 8] =
    ["#0b5394", "#d55e00", "#009e73", "#9c6ade", "#7a5c00", "#56a0d3", "#c2185b", "#555555"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#1b1b1b}
h1{font-size:1.6em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;width:100%}
td,th{padding:.3em .6em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.met{color:#00695c;white-space:nowrap}.not{color:#b00020;font-weight:600;white-space:nowrap}svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#444}
small,.s{color:#666;font-size:.85em}details{margin:.4em 0}";

/// Writes the page for these rows.
pub(crate) fn page(runs: &[Run]) -> anyhow::Result<String> {
    let mut html = String::new();
    write!(
        html,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Rowlock: the rush</title><style>{STYLE}</style><h1>Rowlock: the rush</h1>"
    )?;
    if let Some(run) = runs.last() {
        write!(
            html,
            "<p>{}</p><p class=\"s\">{}</p>",
            escape(&format!("{}; build {}", run.machine, run.build)),
            escape(&run.settings.join(" · "))
        )?;
    }
    bars(&mut html, runs)?;
    let lines: Vec<&Line> = runs.iter().flat_map(|run| &run.row.plots).collect();
    let of = |plot: Plot| lines.iter().copied().filter(|line| line.plot == plot).collect::<Vec<_>>();
    html.push_str("<h2>Registrations a second on one hot event, by clients</h2>");
    chart(&mut html, &of(Plot::Throughput), &Axis::log("clients"), &Axis::linear("registrations a second"))?;
    html.push_str("<h2>Latency of Register, by percentile</h2>");
    let latency: Vec<Line> = of(Plot::Latency).into_iter().map(by_nines).collect();
    chart(&mut html, &latency.iter().collect::<Vec<_>>(), &Axis::percentiles(), &Axis::log("milliseconds"))?;
    html.push_str("<h2>Seats left of a hot event</h2>");
    chart(&mut html, &of(Plot::Seats), &Axis::linear("seconds"), &Axis::linear("seats left"))?;
    figures(&mut html, runs)?;
    html.push_str("</html>\n");
    Ok(html)
}

fn bars(html: &mut String, runs: &[Run]) -> anyhow::Result<()> {
    html.push_str("<h2>Bars</h2><table><tr><th>what<th>bar<th>reached<th></tr>");
    for run in runs {
        for (n, check) in run.row.checks.iter().enumerate() {
            let what = if n == 0 { escape(&run.row.what) } else { String::new() };
            let sign = if check.at_least { "≥" } else { "≤" };
            let (class, met) = if check.is_met() { ("met", "✓ met") } else { ("not", "✗ not met") };
            write!(
                html,
                "<tr><td>{what}<td>{sign} {} {}<td class=\"n\">{}<td class=\"{class}\">{met}</tr>",
                number(check.bar),
                escape(&check.what),
                number(check.value)
            )?;
        }
    }
    html.push_str("</table>");
    Ok(())
}

fn figures(html: &mut String, runs: &[Run]) -> anyhow::Result<()> {
    html.push_str("<h2>All figures</h2><p class=\"s\">Medians, and the rounds behind them.</p>");
    for run in runs {
        let form = if run.quick { "quick" } else { "full" };
        write!(
            html,
            "<details><summary>{} <small>{}: {}</small></summary><p class=\"s\">{}, {form}, {} rounds of {} s</p><table>",
            escape(&run.row.name),
            escape(&run.row.what),
            verdict(&run.row),
            escape(&run.time),
            run.rounds,
            run.seconds
        )?;
        for figure in &run.row.figures {
            let rounds: Vec<String> = figure.rounds.iter().map(|value| number(*value)).collect();
            write!(
                html,
                "<tr><td>{}<td class=\"n\">{} {}<td class=\"s\">{}</tr>",
                escape(&figure.what),
                number(figure.median()),
                figure.unit,
                rounds.join(" ")
            )?;
        }
        html.push_str("</table>");
        for note in &run.row.notes {
            write!(html, "<p class=\"s\">{}</p>", escape(note))?;
        }
        html.push_str("</details>");
    }
    Ok(())
}

/// Percentiles by how many nines they have: the tail gets the room.
fn by_nines(line: &Line) -> Line {
    let points = line.points.iter().filter(|(percentile, _)| *percentile < 100.0);
    let points = points.map(|(percentile, millis)| (nines(*percentile), *millis)).collect();
    Line { points, ..line.clone() }
}

fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

struct Axis {
    name: &'static str,
    log: bool,
    /// Fixed ticks: where, and what is written there.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    fn linear(name: &'static str) -> Self {
        Self { name, log: false, ticks: Vec::new() }
    }

    fn log(name: &'static str) -> Self {
        Self { name, log: true, ticks: Vec::new() }
    }

    fn percentiles() -> Self {
        let ticks = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99]
            .map(|percentile| (nines(percentile), percentile.to_string()));
        Self { name: "percentile", log: false, ticks: ticks.to_vec() }
    }

    fn place(&self, value: f64) -> f64 {
        if self.log { value.max(1e-3).log10() } else { value }
    }

    /// The range in the axis's own measure, and its ticks within.
    fn scale(&self, values: impl Iterator<Item = f64>) -> (f64, f64, Vec<(f64, String)>) {
        let (low, high) =
            values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        if self.log {
            let (low, high) = (low.max(1e-3).log10().floor(), high.max(1e-2).log10().ceil());
            let mut ticks = Vec::new();
            let mut decade = low;
            while decade <= high {
                ticks.push((decade, number_of_axis(10_f64.powf(decade))));
                decade += 1.0;
            }
            return (low, high.max(low + 1.0), ticks);
        }
        if !self.ticks.is_empty() {
            let high = self.ticks.iter().map(|(at, _)| *at).fold(high, f64::max);
            return (0.0, high, self.ticks.clone());
        }
        let step = 10_f64.powf((high.max(1e-9) / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|times| times * step)
            .into_iter()
            .find(|step| high / step <= 6.0)
            .unwrap_or(step);
        let top = (high / step).ceil() * step;
        let mut ticks = Vec::new();
        let mut tick = 0.0;
        while tick <= top + step / 2.0 {
            ticks.push((tick, number_of_axis(tick)));
            tick += step;
        }
        (0.0, top.max(step), ticks)
    }
}

fn number_of_axis(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{}k", value / 1000.0)
    } else {
        format!("{}", (value * 1000.0).round() / 1000.0)
    }
}

fn chart(html: &mut String, lines: &[&Line], across: &Axis, up: &Axis) -> anyhow::Result<()> {
    if lines.iter().all(|line| line.points.is_empty()) {
        html.push_str("<p class=\"s\">Not measured yet.</p>");
        return Ok(());
    }
    let points = || lines.iter().flat_map(|line| &line.points);
    let (x_low, x_high, x_ticks) = across.scale(points().map(|(x, _)| *x));
    let (y_low, y_high, y_ticks) = up.scale(points().map(|(_, y)| *y));
    let x = |value: f64| LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);
    let legend = HEIGHT + 18.0 * lines.len().div_ceil(2) as f64;
    write!(html, "<svg viewBox=\"0 0 {WIDTH} {legend:.0}\" role=\"img\">")?;
    for (at, label) in &y_ticks {
        let at = y(*at);
        write!(
            html,
            "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#e5e5e5\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        )?;
    }
    for (at, label) in &x_ticks {
        let at = x(*at);
        write!(
            html,
            "<path d=\"M{at:.1} {TOP}V{}\" stroke=\"#f0f0f0\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        )?;
    }
    let (middle, low) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - BOTTOM + 38.0);
    write!(html, "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{}</text>", across.name)?;
    let half = (HEIGHT - BOTTOM) / 2.0;
    write!(
        html,
        "<text x=\"16\" y=\"{half}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {half})\">{}</text>",
        up.name
    )?;
    for (n, (line, colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let place = |(px, py): &(f64, f64)| format!("{:.1},{:.1}", x(across.place(*px)), y(up.place(*py)));
        let path: Vec<String> = line.points.iter().map(place).collect();
        write!(
            html,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        )?;
        if line.points.len() <= 12 {
            for point in &path {
                let (px, py) = point.split_once(',').unwrap_or_default();
                write!(html, "<circle cx=\"{px}\" cy=\"{py}\" r=\"3\" fill=\"{colour}\"/>")?;
            }
        }
        let (column, row) = ((n % 2) as f64, (n / 2) as f64);
        let (lx, ly) = (LEFT + column * 390.0, HEIGHT + 6.0 + row * 18.0);
        write!(
            html,
            "<path d=\"M{lx} {ly}h22\" stroke=\"{colour}\" stroke-width=\"3\"/><text x=\"{}\" y=\"{}\">{}</text>",
            lx + 30.0,
            ly + 4.0,
            escape(&line.name)
        )?;
    }
    html.push_str("</svg>");
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
