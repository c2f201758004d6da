//! The page: markdown with tables of values and of ratios; and the rounds behind them, as comma-separated values.

use super::{PUBLISHED, RAW, Report, versions};
use crate::{
    contenders::{ENCRYPTED_OURS, ENCRYPTED_PEERS},
    workloads::{
        figures::{Row, Spread, readable},
        machine,
    },
};

/// Makes the page; `charts` has titles and files.
pub fn markdown(report: &Report, charts: &[(&str, String)]) -> String {
    let names: Vec<&str> = report.contenders.iter().map(|contender| contender.name).collect();
    let mut page = format!(
        "# Results: {}\n\nMeasured on {}.\nVersions: {}.\n\n",
        report.settings.conditions(),
        machine::machine(),
        versions::versions(&names)
    );
    page.push_str("Medians of the rounds. What a contender does not do, or no bench makes it do, is a dash.\n\n");
    let mut header = vec!["row", "unit", "better is"];
    header.extend(&names);
    page.push_str(&table(&header, report.rows.iter().map(|row| values(report, row))));

    page.push_str("\nMedians of the ratios within a round, and the least and the greatest of them.\n\n");
    let pairs = pairs(&names);
    let header: Vec<String> = pairs.iter().map(|(one, base)| format!("{} / {}", names[*one], names[*base])).collect();
    let mut columns = vec!["row", "better is"];
    columns.extend(header.iter().map(String::as_str));
    page.push_str(&table(&columns, report.rows.iter().map(|row| ratios(row, &pairs))));

    if !report.failures.is_empty() {
        page.push_str("\nRuns that failed:\n\n");
        report.failures.iter().for_each(|failure| page.push_str(&format!("- {failure}\n")));
    }
    for (title, file) in charts {
        page.push_str(&format!("\n![{title}]({file})\n"));
    }
    page
}

/// Which ratios are of interest: all to raw tokio, this crate to the published one, and what encrypts to what else encrypts.
fn pairs(names: &[&str]) -> Vec<(usize, usize)> {
    let published = names.iter().position(|name| *name == PUBLISHED);
    let mut pairs = vec![(0, RAW)];
    pairs.extend(published.map(|published| (0, published)));
    pairs.extend((RAW + 1..names.len()).map(|one| (one, RAW)));
    let position = |name: &&str| names.iter().position(|one| one == name);
    for base in ENCRYPTED_PEERS.iter().filter_map(position) {
        pairs.extend(ENCRYPTED_OURS.iter().filter_map(position).map(|one| (one, base)));
    }
    pairs
}

fn better(row: &Row) -> String {
    if row.figure.more_is_better { "more" } else { "less" }.to_owned()
}

fn values(report: &Report, row: &Row) -> Vec<String> {
    let mut cells = vec![row.figure.name.clone(), row.figure.unit.to_owned(), better(row)];
    let value = |contender| row.value(contender).map_or("-".to_owned(), |value| readable(value.median));
    cells.extend((0..report.contenders.len()).map(value));
    cells
}

fn ratios(row: &Row, pairs: &[(usize, usize)]) -> Vec<String> {
    let mut cells = vec![row.figure.name.clone(), better(row)];
    let text = |Spread { least, median, greatest }| {
        format!("**{}** ({} - {})", readable(median), readable(least), readable(greatest))
    };
    cells.extend(pairs.iter().map(|(one, base)| row.ratio(*one, *base).map_or("-".to_owned(), text)));
    cells
}

/// Makes a table of markdown, numbers to the right.
fn table(header: &[&str], lines: impl Iterator<Item = Vec<String>>) -> String {
    let is_text = |name: &&str| ["row", "unit", "better is"].contains(name);
    let rule: Vec<&str> = header.iter().map(|name| if is_text(name) { "---" } else { "---:" }).collect();
    let mut text = format!("| {} |\n|{}|\n", header.join(" | "), rule.join("|"));
    lines.for_each(|line| text.push_str(&format!("| {} |\n", line.join(" | "))));
    text
}

/// Makes a line per row and contender, with the values of all rounds in their order.
pub fn rounds(report: &Report) -> String {
    let mut text = "row,unit,contender,rounds\n".to_owned();
    for row in report.rows {
        for (contender, series) in report.contenders.iter().zip(&row.series) {
            let values: Vec<String> = series.iter().map(|value| format!("{value:.4}")).collect();
            let (name, unit) = (&row.figure.name, row.figure.unit);
            text.push_str(&format!("\"{name}\",{unit},{},{}\n", contender.name, values.join(",")));
        }
    }
    text
}
