//! The print of the rows.

use super::{
    figures::{Row, Spread, readable},
    workload::Contender,
};

/// Makes a table of the rows: the median of each contender, and the ratio of the first to the second, with its range.
pub fn text(rows: &[Row], contenders: &[Contender; 2]) -> String {
    let mut lines = vec![vec![
        "row".to_owned(),
        "unit".to_owned(),
        contenders[0].name.to_owned(),
        contenders[1].name.to_owned(),
        "ratio (median)".to_owned(),
        "range of the rounds".to_owned(),
        "better is".to_owned(),
    ]];
    lines.extend(rows.iter().map(|row| {
        let median = |contender| row.value(contender).map_or("-".to_owned(), |value| readable(value.median));
        let ratio = row.ratio(0, 1);
        let range = |Spread { least, greatest, .. }| format!("{} - {}", readable(least), readable(greatest));
        vec![
            row.figure.name.clone(),
            row.figure.unit.to_owned(),
            median(0),
            median(1),
            ratio.map_or("-".to_owned(), |ratio| readable(ratio.median)),
            ratio.map_or("-".to_owned(), range),
            if row.figure.more_is_better { "more" } else { "less" }.to_owned(),
        ]
    }));
    aligned(&lines)
}

/// Pads the cells of each column to the same width: the first two and the last to the left, numbers to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let last = lines[0].len() - 1;
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            let width = width(column);
            match column {
                0 | 1 => text.push_str(&format!("{cell:<width$}  ")),
                column if column == last => text.push_str(cell),
                _ => text.push_str(&format!("{cell:>width$}  ")),
            }
        }
        text.push('\n');
    }
    text
}
