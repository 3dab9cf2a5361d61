//! The table of [`netd_common::host::cases`] through the core on the host.

use netd_common::{
    Drop, To, Way,
    host::{
        Frame,
        cases::{Case, Fate, World, cases, run},
    },
};

const WORLD: World = World::new([11, 12, 13, 20, 30]);

fn check(case: &Case) {
    let tables = WORLD.tables();
    for (number, step) in case.steps.iter().enumerate() {
        let what = format!("{}, packet {}", case.name, number + 1);
        let (ways, drops) = (tables.ways.borrow().clone(), tables.drops.borrow().clone());
        let mut frame = Frame::new(step.frame.clone());
        let verdict = run(&WORLD, &tables, step.at, &mut frame);
        assert_eq!(step.fixed(&frame.bytes), step.fixed(&step.after), "{what}: bytes\n{tables:#?}");
        let (mut expected_ways, mut expected_drops) = (ways, drops);
        let counter = match step.fate {
            Fate::Goes(to, way) => {
                assert_eq!(verdict.to, to, "{what}");
                Some(expected_ways.entry(way as u32).or_default())
            }
            Fate::Passes => {
                assert_eq!(verdict.to, To::Stack, "{what}");
                None
            }
            Fate::Answered(reason) => {
                assert_eq!(verdict.to, To::Peer, "{what}");
                let told = expected_ways.entry(Way::ErrorSent as u32).or_default();
                told.packets += 1;
                told.bytes += step.frame.len() as u64;
                Some(expected_drops.entry(reason as u32).or_default())
            }
            Fate::Dropped(reason) => {
                assert_eq!(verdict.to, To::Drop, "{what}");
                Some(expected_drops.entry(reason as u32).or_default())
            }
        };
        if let Some(counter) = counter {
            counter.packets += 1;
            counter.bytes += step.frame.len() as u64;
        }
        assert_eq!(*tables.ways.borrow(), expected_ways, "{what}: ways");
        assert_eq!(*tables.drops.borrow(), expected_drops, "{what}: drops");
    }
}

#[test]
fn every_case_goes_as_the_table_says() {
    for case in cases(&WORLD) {
        check(&case);
    }
}

/// Reasons that no case of the table provokes, and the tests that do.
const ELSEWHERE: [(Drop, &str); 7] = [
    (Drop::Denied, "xdp.rs, and network tests"),
    (Drop::Vlan, "drops.rs, and a network test with a tagged frame: TEST_RUN cannot give a packet a tag"),
    (Drop::NoEndpoint, "in the table; here as a reply to an endpoint that is gone: drops.rs"),
    (Drop::FlowTableFull, "drops.rs and a program test with a small table"),
    (Drop::PortsExhausted, "drops.rs and a program test with a small range"),
    (Drop::NoRoute, "drops.rs and a program test without an uplink"),
    (Drop::Rewrite, "drops.rs, with a packet that refuses to be written"),
];

#[test]
fn every_reason_is_provoked() {
    let cases = cases(&WORLD);
    for reason in Drop::ALL {
        let in_table = cases
            .iter()
            .flat_map(|case| &case.steps)
            .any(|step| [Fate::Dropped(*reason), Fate::Answered(*reason)].contains(&step.fate));
        let elsewhere = ELSEWHERE.iter().any(|(other, _)| other == reason);
        assert!(in_table || elsewhere, "no test provokes {}", reason.label());
    }
}
