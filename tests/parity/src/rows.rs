//! The macro that makes a `#[test]` of each row of the table.

macro_rules! table {
    ($($topic:ident {
        $($name:ident on $flavour:ident
            $(, differs: $reason:literal, ours: [$($ours:literal),* $(,)?], published: [$($published:literal),* $(,)?])?
        ;)*
    })*) => {
        $(mod $topic {
            use $crate::{
                harness::{Difference, Flavour, compare},
                ours_side, published_side,
            };

            $(#[test]
            fn $name() {
                #[allow(unused_mut, unused_assignments, reason = "only the rows of differences assign")]
                let mut difference: Option<Difference> = None;
                $(difference = Some(Difference {
                    reason: $reason,
                    ours: &[$($ours),*],
                    published: &[$($published),*],
                });)?
                compare(
                    Flavour::$flavour,
                    ours_side::scenarios::$topic::$name,
                    published_side::scenarios::$topic::$name,
                    difference,
                );
            }
        )*})*

        #[test]
        fn the_table_has_at_least_80_scenarios() {
            let names = [$($(stringify!($name)),*),*];
            assert!(names.len() >= 80, "only {} rows", names.len());
        }
    };
}

pub(crate) use table;
