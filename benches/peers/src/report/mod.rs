//! Writes what was measured: a page with tables, the rounds behind them, and charts.

mod chart;
mod page;
mod versions;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::workloads::{
    figures::Row,
    settings::Settings,
    workload::{Contender, Workload},
};
use chart::{Chart, Scale};

/// What all parts of a report need.
pub struct Report<'a> {
    pub settings: &'a Settings,
    pub contenders: &'a [Contender],
    pub rows: &'a [Row],
    pub failures: &'a [String],
}

/// Writes the report into the directory of results; its files are named after the conditions.
pub fn write(settings: &Settings, contenders: &[Contender], rows: &[Row], failures: &[String]) {
    let report = Report { settings, contenders, rows, failures };
    let directory = directory();
    fs::create_dir_all(&directory).expect("a directory for the results");
    let name = report.name();
    let mut charts = Vec::new();
    for chart in CHARTS {
        if let Some(svg) = chart.draw(&report) {
            let file = format!("{name}-{}.svg", chart.name);
            write_file(&directory.join(&file), &svg);
            charts.push((chart.title, file));
        }
    }
    let page = page::markdown(&report, &charts);
    write_file(&directory.join(format!("{name}.md")), &page);
    write_file(&directory.join(format!("{name}.csv")), &page::rounds(&report));
    println!("{page}");
}

impl Report<'_> {
    /// The name of the conditions, for files.
    fn name(&self) -> String {
        let quick = if self.settings.quick { "quick-" } else { "" };
        let loaded = if self.settings.loaded { "loaded" } else { "quiet" };
        format!("{quick}{loaded}-{}w", self.settings.workers)
    }
}

/// Returns where `BENCH_RESULTS` says, else the directory beside this package.
fn directory() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../results");
    std::env::var_os("BENCH_RESULTS").map_or_else(beside, PathBuf::from)
}

fn write_file(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The charts: each takes some of the figures.
const CHARTS: &[Chart] = &[
    Chart {
        name: "throughput",
        title: "Messages per second over one connection",
        axis: "messages/s, as a multiple of raw tokio (more is better)",
        takes: |row| matches!(row.workload, Workload::OneWay { .. }) && row.figure.more_is_better,
        scale: Scale::RatioTo(RAW),
    },
    Chart {
        name: "cpu",
        title: "CPU time per message over one connection",
        axis: "CPU time of both ends, as a multiple of raw tokio (less is better)",
        takes: |row| matches!(row.workload, Workload::OneWay { .. }) && !row.figure.more_is_better,
        scale: Scale::RatioTo(RAW),
    },
    Chart {
        name: "latency",
        title: "Time of a round trip, and of a hop",
        axis: "µs (less is better)",
        takes: |row| {
            matches!(row.workload, Workload::PingPong { .. } | Workload::Relay { .. })
                && !row.figure.name.ends_with("p99")
        },
        scale: Scale::Linear,
    },
    Chart {
        name: "setup",
        title: "Connections made and ended, one after another",
        axis: "connections/s (more is better)",
        takes: |row| matches!(row.workload, Workload::Churn { .. }) && row.figure.more_is_better,
        scale: Scale::Linear,
    },
    Chart {
        name: "memory",
        title: "Heap of an idle pair of connection ends, and of a listening node",
        axis: "bytes, each step ten times the one before (less is better)",
        takes: |row| matches!(row.workload, Workload::IdlePairs { .. } | Workload::IdleNodes { .. }),
        scale: Scale::Logarithmic,
    },
    Chart {
        name: "fan",
        title: "Many to one, and one to many",
        axis: "messages/s (more is better)",
        takes: |row| {
            matches!(row.workload, Workload::FanIn { .. } | Workload::FanOut { .. }) && row.figure.more_is_better
        },
        scale: Scale::Linear,
    },
    Chart {
        name: "fairness",
        title: "Reply to an honest peer, beside a flooding one",
        axis: "µs (less is better)",
        takes: |row| matches!(row.workload, Workload::Fairness { .. }) && row.figure.unit == "µs",
        scale: Scale::Linear,
    },
];

/// Which contender is the yardstick.
const RAW: usize = 1;

/// Which one is the published crate, if it takes part.
const PUBLISHED: &str = "0.57.4";
