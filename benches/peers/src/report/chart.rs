//! Bar charts as SVG, readable on light and on dark pages. Colours are set by classes, so that every viewer knows them.

use std::fmt::Write;

use super::{Report, versions};
use crate::{
    contenders::ENCRYPTED_PEERS,
    workloads::{
        figures::{Row, readable},
        machine,
    },
};

/// One chart.
pub struct Chart {
    /// The end of the file's name.
    pub name: &'static str,
    pub title: &'static str,
    /// What the axis shows, with its unit.
    pub axis: &'static str,
    /// Which rows it shows.
    pub takes: fn(&Row) -> bool,
    pub scale: Scale,
}

/// How a value becomes the length of a bar.
#[derive(Clone, Copy)]
pub enum Scale {
    Linear,
    Logarithmic,
    /// Linear, in multiples of this contender's value.
    RatioTo(usize),
}

/// The bars of one row: which contender, and how much.
struct Group<'a> {
    label: &'a str,
    bars: Vec<(usize, f64)>,
}

impl Chart {
    /// Draws the chart; `None` if nothing of it was measured.
    pub fn draw(&self, report: &Report) -> Option<String> {
        let groups: Vec<Group> =
            report.rows.iter().filter(|row| (self.takes)(row)).map(|row| self.group(row)).collect();
        let values = || groups.iter().flat_map(|group| &group.bars).map(|(_, value)| *value);
        let greatest = values().reduce(f64::max)?;
        let least = values().reduce(f64::min)?;
        let axis = Axis::new(self.scale, least, greatest);

        let shown: Vec<usize> = (0..report.contenders.len())
            .filter(|which| groups.iter().any(|group| group.bars.iter().any(|(contender, _)| contender == which)))
            .collect();
        let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
        let plot = bars * BAR_STEP + groups.len() * GROUP_GAP;
        let names: Vec<&str> = report.contenders.iter().map(|contender| contender.name).collect();
        let mut footer = vec![report.settings.conditions(), machine::machine()];
        footer.extend(wrapped(&versions::versions(&names)));
        let legend = legend(report, &shown);
        let top = TOP + LEGEND_LINE * legend.last().map_or(0, |entry| entry.line);
        let height = top + plot + 62 + LINE * footer.len();

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n",
            title = escaped(self.title)
        );
        _ = writeln!(svg, "<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>");
        text(&mut svg, "title", LEFT_EDGE, 24, "start", self.title);
        for Entry { contender, name, x, line } in legend {
            let y = 38 + LEGEND_LINE * line;
            _ = writeln!(svg, "<rect class=\"c{contender}\" x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" rx=\"2\"/>");
            text(&mut svg, "label", x + 17, y + 11, "start", &name);
        }
        for (at, label) in &axis.ticks {
            let x = PLOT + at;
            let bottom = top + plot;
            _ = writeln!(svg, "<line class=\"grid\" x1=\"{x}\" y1=\"{top}\" x2=\"{x}\" y2=\"{bottom}\"/>");
            text(&mut svg, "tick", x, bottom + 16, "middle", label);
        }
        let mut y = top;
        for group in &groups {
            let middle = y + GROUP_GAP / 2 + group.bars.len() * BAR_STEP / 2 + 4;
            text(&mut svg, "label", PLOT - 10, middle, "end", group.label);
            y += GROUP_GAP / 2;
            for (contender, value) in &group.bars {
                let length = axis.length(*value);
                _ = writeln!(
                    svg,
                    "<rect class=\"c{contender}\" x=\"{PLOT}\" y=\"{y}\" width=\"{length}\" height=\"{BAR}\" rx=\"2\"/>"
                );
                text(&mut svg, "value", PLOT + length + 5, y + BAR - 2, "start", &readable(*value));
                y += BAR_STEP;
            }
            y += GROUP_GAP - GROUP_GAP / 2;
        }
        text(&mut svg, "axis", PLOT + PLOT_WIDTH / 2, top + plot + 36, "middle", self.axis);
        for (line, words) in footer.iter().enumerate() {
            text(&mut svg, "foot", LEFT_EDGE, top + plot + 62 + LINE * line, "start", words);
        }
        svg.push_str("</svg>\n");
        Some(svg)
    }

    fn group<'a>(&self, row: &'a Row) -> Group<'a> {
        let value = |contender| match self.scale {
            Scale::RatioTo(base) => row.ratio(contender, base),
            Scale::Linear | Scale::Logarithmic => row.value(contender),
        };
        let bars = (0..row.series.len()).filter_map(|contender| Some((contender, value(contender)?.median)));
        let label = row.figure.name.split(": CPU").next().unwrap_or_default();
        Group { label, bars: bars.collect() }
    }
}

/// A contender in the legend: where it is.
struct Entry {
    contender: usize,
    name: String,
    x: usize,
    line: usize,
}

/// Puts those that are shown side by side, on as many lines as they need.
fn legend(report: &Report, shown: &[usize]) -> Vec<Entry> {
    let (mut x, mut line) = (LEFT_EDGE, 0);
    let entries = shown.iter().map(|which| {
        let name = legend_name(report.contenders[*which].name);
        // About as wide as letters of this size are.
        let width = 17 + name.len() * 7;
        if x + width > WIDTH - LEFT_EDGE {
            (x, line) = (LEFT_EDGE, line + 1);
        }
        let entry = Entry { contender: *which, name, x, line };
        x += width + 22;
        entry
    });
    entries.collect()
}

fn legend_name(name: &str) -> String {
    match name {
        "ours" => "pea2pea (this crate)".to_owned(),
        name if ENCRYPTED_PEERS.contains(&name) => format!("{name} (encrypted)"),
        "ours+noise" => "pea2pea with Noise".to_owned(),
        "ours+tls" => "pea2pea with TLS".to_owned(),
        name if name.starts_with(|first: char| first.is_ascii_digit()) => format!("pea2pea {name}"),
        name => name.to_owned(),
    }
}

/// Where the ticks are, and how long a bar is.
struct Axis {
    scale: Scale,
    /// The value at the left edge, and the one at the right edge.
    ends: (f64, f64),
    /// Distances from the left edge, and labels.
    ticks: Vec<(usize, String)>,
}

impl Axis {
    fn new(scale: Scale, least: f64, greatest: f64) -> Self {
        let (ends, values, decimals) = match scale {
            Scale::Linear | Scale::RatioTo(_) => {
                let step = nice_step(greatest / 5.0);
                let steps = (greatest / step).ceil().max(1.0);
                let values = (0..=steps as usize).map(|tick| tick as f64 * step).collect::<Vec<_>>();
                ((0.0, steps * step), values, decimals(step))
            }
            Scale::Logarithmic => {
                let first = least.max(1.0).log10().floor() as i32;
                let last = (greatest.max(1.0).log10().ceil() as i32).max(first + 1);
                let values = (first..=last).map(|power| 10_f64.powi(power)).collect();
                ((10_f64.powi(first), 10_f64.powi(last)), values, 0)
            }
        };
        let mut axis = Self { scale, ends, ticks: Vec::new() };
        let label = |value: f64| if value < 1_000.0 { format!("{value:.decimals$}") } else { readable(value) };
        axis.ticks = values.into_iter().map(|value| (axis.length(value), label(value))).collect();
        axis
    }

    fn length(&self, value: f64) -> usize {
        let (first, last) = self.ends;
        let share = match self.scale {
            Scale::Linear | Scale::RatioTo(_) => value / last,
            Scale::Logarithmic => (value.max(first) / first).log10() / (last / first).log10(),
        };
        (share * PLOT_WIDTH as f64).round() as usize
    }
}

/// Returns how many digits behind the point it takes to write every multiple of this.
fn decimals(step: f64) -> usize {
    let whole = |digits: &i32| {
        let shifted = step * 10_f64.powi(*digits);
        (shifted - shifted.round()).abs() < 1e-6
    };
    (0..4).find(whole).unwrap_or(4) as usize
}

/// Returns the least of 1, 2, 2.5 and 5 times a power of ten that is no less than this.
fn nice_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

/// Breaks a list into lines that fit below a chart.
fn wrapped(list: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for item in list.split_inclusive(", ") {
        if lines.last().is_some_and(|line| line.len() + item.len() > FOOT_LETTERS) {
            lines.push(String::new());
        }
        lines.last_mut().expect("one at least").push_str(item);
    }
    lines
}

fn text(svg: &mut String, class: &str, x: usize, y: usize, anchor: &str, words: &str) {
    let words = escaped(words);
    _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: usize = 920;
const LEFT_EDGE: usize = 16;
/// Where the bars begin.
const PLOT: usize = 300;
/// The width of the longest bar; the rest of the width is for its value.
const PLOT_WIDTH: usize = 520;
/// Where the plot begins, below the title and a legend of one line.
const TOP: usize = 64;
const LEGEND_LINE: usize = 20;
const BAR: usize = 13;
const BAR_STEP: usize = 16;
const GROUP_GAP: usize = 16;
/// How many letters a line below the chart has room for.
const FOOT_LETTERS: usize = 130;
/// The height of a line below the chart.
const LINE: usize = 16;

/// The colours of Okabe and Ito, which people with any kind of sight can tell apart; lighter ones of them on dark pages.
const STYLE: &str = "
text { font-family: system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; font-size: 13px; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 }
.tick, .axis, .value { font-size: 12px }
.tick, .axis, .foot { fill: #59636e }
.foot { font-size: 11px }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.page { fill: #ffffff }
.c0 { fill: #0072b2 } .c1 { fill: #7d8590 } .c2 { fill: #e69f00 } .c3 { fill: #009e73 } .c4 { fill: #cc79a7 } .c5 { fill: #d55e00 }
.c6 { fill: #004c80 } .c7 { fill: #8c6bb1 } .c8 { fill: #8a5a2b } .c9 { fill: #a8b400 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.tick, .axis, .foot { fill: #9198a1 }
.grid { stroke: #3d444d }
.page { fill: #0d1117 }
.c0 { fill: #56b4e9 } .c1 { fill: #8b949e } .c2 { fill: #f0b93a } .c3 { fill: #2fc493 } .c4 { fill: #dc95bd } .c5 { fill: #f0813a }
.c6 { fill: #9fd3f2 } .c7 { fill: #bfa5dd } .c8 { fill: #c08a55 } .c9 { fill: #d3de4c }
}
";
