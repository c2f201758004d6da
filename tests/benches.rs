//! A quick version of all benches in one table. It asserts no times: those belong to a quiet machine.

#[path = "../benches/workloads/mod.rs"]
mod workloads;

use workloads::{heap::Counting, measure::measure, ours, plan, raw, settings::Settings, table};

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
#[ignore = "takes minutes of both cores; run it alone, with --release and --nocapture"]
fn every_row_can_be_measured() {
    let settings = Settings::quick();
    let contenders = [ours::CONTENDER, raw::CONTENDER];
    let rows = measure(&settings, &plan::everything(&settings), &contenders);
    println!("\n{}\n\n{}", settings.conditions(), table::text(&rows, &contenders));
    for row in &rows {
        assert!(row.value(0).is_some(), "{} was not measured", row.figure.name);
    }
}
