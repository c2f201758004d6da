//! The rows fail where the defence that they name is switched off: the table is not green because it is inert.

use std::{thread, time::Duration};

use crate::{
    ledger::play_with_others,
    row::{Defence, Row, SHORT},
    table,
    verdict::{Complaint, judge},
};

/// How long to wait for what does not come.
const PATIENCE: Duration = SHORT.saturating_mul(3);

/// Whether a row fails for the right reason: something else is seen, or a limit of the table is exceeded.
fn fails(row: &Row, defence: Defence) -> bool {
    let defenceless = Row { victim: row.victim.without(defence), ..row.clone() };
    let judged = judge(&defenceless, PATIENCE);
    matches!(judged, Err(Complaint::Unmet(_) | Complaint::TooEarly(_) | Complaint::Limit(_)))
}

fn assert_needed(defence: Defence) {
    let _hold = play_with_others();
    let rows: Vec<_> = table().into_iter().filter(|(_, row)| row.defence == Some(defence)).collect();
    assert!(!rows.is_empty(), "no row shows that {defence:?} is needed");
    let green: Vec<_> = thread::scope(|scope| {
        let judges: Vec<_> = rows.iter().map(|(name, row)| (name, scope.spawn(move || fails(row, defence)))).collect();
        judges.into_iter().filter_map(|(name, judge)| (!judge.join().unwrap()).then_some(name)).collect()
    });
    assert!(green.is_empty(), "these rows do not need {defence:?}: {green:#?}");
}

#[test]
fn without_a_handshake_deadline_its_rows_fail() {
    assert_needed(Defence::HandshakeDeadline);
}

#[test]
fn without_an_idle_timeout_its_rows_fail() {
    assert_needed(Defence::IdleTimeout);
}

#[test]
fn without_a_write_timeout_its_rows_fail() {
    assert_needed(Defence::WriteTimeout);
}

#[test]
fn without_a_frame_limit_its_rows_fail() {
    assert_needed(Defence::FrameLimit);
}

#[test]
fn without_a_node_limit_its_rows_fail() {
    assert_needed(Defence::NodeLimit);
}

#[test]
fn without_a_limit_per_address_its_rows_fail() {
    assert_needed(Defence::IpLimit);
}

#[test]
fn without_a_limit_of_setups_its_rows_fail() {
    assert_needed(Defence::SetupLimit);
}

#[test]
fn the_table_has_at_least_sixty_rows_with_names_of_their_own() {
    let mut names: Vec<_> = table().into_iter().map(|(name, _)| name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert!(count >= 60 && names.len() == count, "{count} rows, {} names", names.len());
}
